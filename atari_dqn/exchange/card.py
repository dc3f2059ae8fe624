"""The model card beside an exported network: what it was trained on, what it takes, what it returns, how to run it."""

import json
from collections.abc import Iterable
from pathlib import Path

import atari_dqn
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.schema import Env
from atari_dqn.data import scores
from atari_dqn.evaluation.protocol import environment
from atari_dqn.exchange import metadata
from atari_dqn.tracking import curves
from atari_dqn.utils.text import one_line

FORMATS = {
    "onnx": "an ONNX graph from states to Q-values",
    "safetensors": "the network's weights in safetensors",
    "pt": "a checkpoint to play with, its weights in float16",
}
LOADS = {
    "onnx": (("import json", "import onnxruntime"), (
        "session = onnxruntime.InferenceSession({name})",
        'actions = json.loads(session.get_modelmeta().custom_metadata_map["actions"])',
        "",
        "",
        "def q_values(states):",
        '    return session.run(["q_values"], {{"states": states}})[0]',
    )),
    "safetensors": (("import torch", "from atari_dqn.exchange import safetensors"), (
        "network = safetensors.load({name})",
        "actions = {actions}",
        "",
        "",
        "def q_values(states):",
        "    return network.q_values(torch.from_numpy(states)).numpy()",
    )),
    "pt": (("import atari_dqn",), (
        "agent = atari_dqn.load({name})",
        "actions = agent.actions",
        "",
        "",
        "def q_values(states):",
        "    return agent.q_values(states)",
    )),
}  # fmt: skip


def write(checkpoint: Checkpoint, kind: str, name: str, checked: str = "") -> str:
    """The card, as Markdown.

    Args:
        kind: onnx, safetensors or pt.
        name: of the file that it is about.
        checked: how the file compares with the checkpoint.
    """
    config = checkpoint.config
    trained, played = config.env, environment(config.env, config.protocol, None)
    frames = checkpoint.agent_steps * trained.frame_skip
    parts = [
        f"# {_plain(name)}",
        f"A DQN agent for {_code(trained.game)}: {FORMATS[kind]}, exported by atari_dqn {atari_dqn.__version__}. "
        f"Trained with preset {_code(config.preset)} and seed {config.seed} for {checkpoint.agent_steps:,} agent steps "
        f"({frames:,} frames). {checked}".rstrip(),
        *_origin(checkpoint),
        "## Input",
        _states(checkpoint, kind),
        *(_atari(trained, played) if trained.kind == "atari" else _gymnasium(checkpoint, played)),
        "## Output",
        _outputs(checkpoint),
        "\n".join(
            ["| column | action |", "|---|---|", *(f"| {i} | {_code(a)} |" for i, a in enumerate(checkpoint.actions))]
        ),
        *_scores(checkpoint),
        "## Use",
        _needs(kind, trained),
        _block(_choose(checkpoint, kind, name)),
    ]
    if game := _game(checkpoint, played):
        parts += ["A whole game:", _block([*game])]
    parts += ["## Settings", _block([json.dumps(json.loads(metadata.of(checkpoint)["config"]), indent=1)], "json")]
    return "\n\n".join(parts) + "\n"


def _origin(checkpoint: Checkpoint) -> Iterable[str]:
    """Where an imported network comes from."""
    told = checkpoint.content.get("imported")
    if isinstance(told, dict):
        yield (
            f"Trained by {_plain(str(told.get('layout')))} and imported from {_code(str(told.get('from')))} (sha256 "
            f"{_code(str(told.get('sha256')))}). {_plain(str(told.get('preprocessing')))}. What follows is how "
            f"atari_dqn plays it."
        )


def _states(checkpoint: Checkpoint, kind: str) -> str:
    stack, *frame = metadata.state_shape(checkpoint)
    shape = ", ".join(map(str, ["N", stack, *frame]))
    each = "the newest frame" if stack == 1 else f"the {stack} newest frames, oldest first"
    what = f"`states`: {checkpoint.frame_dtype} `[{shape}]`, for any N; each is {each}."
    if checkpoint.frame_dtype == "uint8":
        where = "part of the graph" if kind == "onnx" else "part of `network.q_values`"
        what += f" Pass bytes from 0 to 255: scaling by 1/255 is {where}."
        if checkpoint.config.network.standardize:
            what += " So is standardizing by the mean frame of training's start."
    return what


def _atari(trained: Env, played: Env) -> Iterable[str]:
    size, skip = trained.screen_size, trained.frame_skip
    steps = [
        f"An action is repeated for {skip} emulator frames (60 per second).",
        "A frame is the pixel-wise maximum of the last two of them, in gray: the ALE's own palette "
        "(`getScreenGrayscale`), 210x160 in most games.",
        f"It is resized to {size}x{size} with OpenCV's `INTER_AREA`.",
        "At a game's start, the frames that are missing in the stack are zeros. A lost life changes nothing.",
    ]
    fire = "FIRE is pressed at a game's start and after each lost life, in place of the agent's action. "
    starts = (
        f"A game starts with 0 to {played.noop_max} frames of NOOP. {fire * played.fire_reset}The emulator repeats the "
        f"previous action with probability {played.repeat_action_probability:g} in each frame (sticky actions). A game "
        f"lasts over all lives, for at most {played.max_frames:,} frames. These are the rules of the run's evaluations."
    )
    return "\n".join(f"{i}. {text}" for i, text in enumerate(steps, 1)), starts


def _gymnasium(checkpoint: Checkpoint, played: Env) -> Iterable[str]:
    env, size = checkpoint.config.env, checkpoint.config.env.screen_size
    sentences = [f"A frame is an observation of the Gymnasium environment {_code(env.game)}."]
    if env.arguments:
        sentences += [f"Its arguments are {_code(json.dumps(env.arguments))}."]
    if checkpoint.frame_dtype == "uint8" and len(checkpoint.frame_shape) == 2:
        sentences += [f"Pictures are converted to gray and resized to {size}x{size} with OpenCV's `INTER_AREA`."]
    if env.frame_skip > 1:
        sentences += [f"An action is repeated for {env.frame_skip} steps, of which the last is observed."]
    sentences += [
        "At a game's start, the frames that are missing in the stack are zeros.",
        f"A game is truncated after {played.max_frames:,} steps, or by the environment's own limit.",
    ]
    return (" ".join(sentences),)


def _outputs(checkpoint: Checkpoint) -> str:
    config, actions = checkpoint.config, len(checkpoint.actions)
    rewards = "rewards" if config.agent.reward_clip is None else f"rewards clipped to ±{config.agent.reward_clip:g}"
    how = {
        "c51": " They are means of a distribution over returns (C51).",
        "qr": " They are means of quantiles of the return (QR-DQN).",
        "iqn": f" They are means of {config.head.policy_samples} evenly spread quantiles of the return (IQN).",
    }.get(config.head.name, "")
    noisy = " Noisy layers use their mean weights." if config.agent.noisy else ""
    return (
        f"`q_values`: float32 `[N, {actions}]`, the expected sum of {rewards}, discounted by {config.agent.discount:g} "
        f"per action, of each action.{how}{noisy} The greedy agent takes the largest; evaluations took a random action "
        f"with probability {config.protocol.epsilon:g}."
    )


def _scores(checkpoint: Checkpoint) -> Iterable[str]:
    """The evaluations of this network in its run's evaluations.csv."""
    folder, steps, is_best = checkpoint.path.resolve().parent, checkpoint.agent_steps, checkpoint.path.name == "best.pt"
    rows = curves.read(folder.parent / "evaluations.csv") if folder.name == "checkpoints" else []
    again = [row for row in rows if is_best and row.get("network") == "best"]
    own = [row for row in rows if row not in again and row["agent_steps"] == str(steps)] + again
    if not own:
        return ()
    game, whole = checkpoint.config.env.game, curves.is_whole(checkpoint.config)
    lines = ["| games | protocol | mean | sd | human-normalized |", "|---|---|---|---|---|"]
    for row in own:
        human = scores.human_normalised(game, float(row["mean"])) if whole else None
        told = "-" if human is None else f"{human:.1%}"
        seeds = " (from fresh seeds)" if row in again else ""
        lines.append(
            f"| {row['episodes']}{seeds} | {_code(row.get('protocol') or '-')} | {float(row['mean']):,.1f} | "
            f"{float(row['sd']):,.1f} | {told} |"
        )
    return "## Scores", "Raw scores of whole games in the run's own evaluations.", "\n".join(lines)


def _needs(kind: str, env: Env) -> str:
    packages = {"onnx": "onnxruntime numpy", "safetensors": "'atari-dqn[export]'", "pt": "atari-dqn"}[kind]
    games = " gymnasium ale-py opencv-python-headless" if env.kind == "atari" else " gymnasium"
    return f"`pip install {packages}{games if kind == 'onnx' else ''}`"


def _choose(checkpoint: Checkpoint, kind: str, name: str) -> list[str]:
    imports, load = LOADS[kind]
    values = {"name": json.dumps(name), "actions": json.dumps(checkpoint.actions)}
    shape = ", ".join(map(str, (1, *metadata.state_shape(checkpoint))))
    return [
        *sorted((*imports, "import numpy as np"), key=lambda line: line.split()[1]),
        "",
        *(line.format(**values) for line in load),
        "",
        "",
        f"states = np.zeros(({shape}), np.{checkpoint.frame_dtype})  # put the newest frames here",
        "print(actions[q_values(states)[0].argmax()])",
    ]


def _game(checkpoint: Checkpoint, played: Env) -> list[str]:
    """A game played with Gymnasium's own wrappers, where they do all that is needed."""
    env, actions = checkpoint.config.env, checkpoint.actions
    fire = played.fire_reset and "FIRE" in actions
    stack = f'env = FrameStackObservation(env, {env.frame_stack}, padding_type="zero")'
    if env.kind == "atari":
        noops = played.noop_max if actions[0] == "NOOP" else 0
        lines = [
            "import ale_py  # registers its games",
            "import gymnasium",
            "from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation",
            "",
            f'env = gymnasium.make("ALE/{env.game}-v5", frameskip=1, full_action_space={env.full_action_space},',
            f"                     repeat_action_probability={played.repeat_action_probability})",
            f"env = AtariPreprocessing(env, noop_max={noops}, frame_skip={env.frame_skip}, "
            f"screen_size={env.screen_size})",
            stack,
        ]
        choose = "int(q_values(state[None]).argmax())"
    elif env.frame_skip == 1 and len(checkpoint.frame_shape) == 1 and checkpoint.frame_dtype == "float32":
        words = "".join(f", {key}={value!r}" for key, value in env.arguments.items() if key.isidentifier())
        lines = [
            "import gymnasium",
            "from gymnasium.wrappers import FrameStackObservation",
            "",
            f"env = gymnasium.make({json.dumps(env.game)}{words})",
            stack,
        ]
        choose = "int(q_values(state[None].astype(np.float32)).argmax() + env.action_space.start)"
    else:
        return []
    lines += ["state, info = env.reset(seed=1)", "score, over = 0.0, False"]
    lines += ['lives, lost = info["lives"], True'] * fire
    lines += ["while not over:", f"    action = {choose}"]
    lines += ["    if lost:  # or at the game's start", '        action = actions.index("FIRE")'] * fire
    lines += ["    state, reward, terminated, truncated, info = env.step(action)"]
    lines += ["    score, over = score + float(reward), terminated or truncated"]
    lines += ['    lost, lives = info["lives"] < lives, info["lives"]'] * fire
    return [*lines, "print(score)"]


def _block(lines: list[str], language: str = "python") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _plain(text: str) -> str:
    return one_line(text.translate({ord(c): None for c in "`<>[]|#*"}), 100) or "agent"


def _code(text: str) -> str:
    """Text from a file, as inline code that cannot end early or break a table."""
    return f"`{one_line(text.replace('`', '').replace('|', '/'), 100) or '-'}`"


def beside(path: Path) -> Path:
    """Where the card of an exported file goes."""
    return path.with_name(f"{path.name}.md")
