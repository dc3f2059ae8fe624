"""Import a network of another program as a checkpoint that evaluate, video, match and all the others take."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import torch

from atari_dqn.checkpoint import checkpoints, outputs
from atari_dqn.config import compose
from atari_dqn.config.commands import ImportConfig
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data.games import atari_games, atari_name
from atari_dqn.envs import factory
from atari_dqn.envs.atari import atari_actions
from atari_dqn.exchange import foreign
from atari_dqn.exchange.foreign import Foreign, Layout
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint


def game_of(path: Path) -> str | None:
    """The Atari game that a path names, or CartPole-v1; None if it names none."""
    folded = {name.lower(): name for name in atari_games()}
    for part in reversed(path.resolve().parts):
        for word in re.split(r"[^A-Za-z0-9]+", re.sub(r"(NoFrameskip|Deterministic)?-v\d", " ", part)):
            if word.lower() in folded:
                return folded[word.lower()]
        if "cartpole" in part.lower():
            return "CartPole-v1"
    return None


def steps_of(path: Path) -> int:
    """The agent steps that a file's name ends with, as in model_50000000.gz; 0 if it does not say."""
    match = re.search(r"(?:model|steps?|ckpt)[_-](\d{4,11})", path.name)
    return int(match[1]) if match else 0


def settings(found: Foreign, layout: Layout, game: str, full_actions: bool) -> TrainConfig:
    """The settings that describe how an imported agent sees and plays."""
    preset = layout.preset
    words = [f"network={found.network}"]
    if game == "CartPole-v1":
        words += ["env=cartpole"]
        preset = "cartpole"
    else:
        words += [f"env.game={game}", f"preset={preset}", f"env.full_action_space={str(full_actions).lower()}"]
        words += ["network.padding=valid"]
    if found.hidden:
        words += [f"network.hidden=[{','.join(map(str, found.hidden))}]"]
    if found.support is not None:
        support = found.support.flatten()
        low, high, atoms = float(support[0]), float(support[-1]), len(support)
        words += ["agent.loss=huber", "head=c51", f"head.atoms={atoms}", f"head.v_min={low:g}", f"head.v_max={high:g}"]
        if not torch.allclose(support, torch.linspace(low, high, atoms), atol=1e-4):
            raise UserError("its distribution's support is not evenly spaced")
    return compose.to_train_config(compose.compose("train", words))


def convert(path: Path, game: str | None) -> tuple[dict[str, Any], Foreign, Layout]:
    """A checkpoint's content for a file of another program. Raises UserError.

    Args:
        game: the one that it learned; None if the path names it.
    """
    found = foreign.read(path)
    layout = foreign.LAYOUTS[found.layout]
    asked = game or game_of(path)
    if asked is None:
        raise UserError(f"{path} does not say which game it learned: set env.game (GAME=Pong)")
    is_cartpole = asked.lower().startswith("cartpole")
    if is_cartpole != (found.network == "mlp"):
        raise UserError(
            f"{path} is a network for {'vectors' if found.network == 'mlp' else 'pictures'}, not for {asked}"
        )
    asked = "CartPole-v1" if is_cartpole else atari_name(asked)
    values = 1 if found.support is None else found.support.numel()
    actions, rest = divmod(found.outputs, values)
    counts = [2] if is_cartpole else [len(atari_actions(asked, full)) for full in (False, True)]
    if rest or actions not in counts or (is_cartpole and found.inputs != 4):
        ours, theirs = (f"{counts[0]}", f"{found.outputs / values:g}")
        if is_cartpole:
            ours, theirs = f"4 inputs and {ours}", f"{found.inputs} inputs and {theirs}"
        raise UserError(
            f"{path} has {theirs} actions, but {asked} has {ours}: set env.game (GAME=...) to the game that it learned"
        )
    config = settings(found, layout, asked, actions != counts[0])
    if not is_cartpole and found.inputs != config.env.frame_stack:
        config = dataclasses.replace(config, env=dataclasses.replace(config.env, frame_stack=found.inputs))
    games = factory.make_emulators(config.env, 1)
    games.close()
    content = {
        "config": dataclasses.asdict(config),
        "actions": list(games.actions),
        "frame_shape": list(games.frame_shape),
        "frame_dtype": games.frame_dtype.name,
        "agent_steps": steps_of(path),
        "online": found.weights,
        "imported": {
            "from": path.name,
            "layout": layout.title,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "preprocessing": f"{layout.title} {layout.preprocessing}",
        },
    }
    return content, found, layout


def run(asked: ImportConfig, console: Console) -> None:
    """Do what the command is asked: write the checkpoint, and tell what it is."""
    source = Path(asked.source)
    content, found, layout = convert(source, asked.env.game)
    default = source.with_name(f"{source.name.split('.')[0]}-imported.pt")
    output = outputs.choose(asked.output, default, (".pt",), is_kept=True)
    with outputs.writing(output):
        checkpoints.write(output, content)
    try:
        checkpoints.Checkpoint(output)  # as every command will read it
    except UserError as error:
        output.unlink(missing_ok=True)
        raise UserError(f"{source} cannot be imported: {error}") from None
    game = content["config"]["env"]["game"]
    console.say(f"{layout.title}: {found.network}, {len(content['actions'])} actions of {game}")
    console.say(f"its pictures: {layout.title} {layout.preprocessing}")
    console.say(f"here: {foreign.OURS}")
    console.say(f"written: {output}; score it: {hint('evaluate', CKPT=output)}")
