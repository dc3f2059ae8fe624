"""Check that settings are consistent. The valid values of single settings are in bounds.py."""

import re
from collections.abc import Iterable

from atari_dqn.config import bounds
from atari_dqn.config.bounds import one_of
from atari_dqn.config.schema import Env, Head, Logger, Protocol, TrainConfig
from atari_dqn.data import scores
from atari_dqn.registry.environments import check_arguments, own_of
from atari_dqn.utils import extras
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import plural, shown

# Environment settings that a protocol may fix.
PLAYED = (
    "repeat_action_probability", "noop_max", "fire_reset", "max_frames", "full_action_space", "terminal_on_life_loss",
)  # fmt: skip

# What is on by default where its package is installed: the setting, its name, the package.
WHERE_INSTALLED = {
    "logger.wandb": ("W&B", "wandb"),
    "logger.tensorboard": ("TensorBoard", "tensorboard"),
    "evaluation.video_seconds": ("videos", "av"),
}


def played_by(env: Env) -> tuple[str, ...]:
    """The settings in PLAYED that an environment uses: Gymnasium's have no sticky actions or no-op starts."""
    return PLAYED if env.kind == "atari" else ("max_frames",)


def check_training(protocol: Protocol, env: Env) -> None:
    """Raise UserError if a protocol scores the training games but the environment does not match it."""
    if protocol.source != "training":
        return
    if (protocol.window_frames is None) == (protocol.window_games is None):
        raise UserError("protocol.source=training needs protocol.window_frames or protocol.window_games, and not both")
    wanted = {f"env.{key}": getattr(protocol, key) for key in played_by(env) if getattr(protocol, key) is not None}
    if any(value != getattr(env, key.removeprefix("env.")) for key, value in wanted.items()):
        words = " ".join(f"{key}={str(value).lower()}" for key, value in wanted.items())
        raise UserError(f"protocol={protocol.name} scores the training games, so train with {words}")


def check(config: TrainConfig) -> None:
    """Raise UserError for the first value out of bounds, and for settings that contradict each other."""
    bounds.check(config)
    env, exploration = config.env, config.exploration
    check_logger(config.logger)
    if config.published is not None:
        one_of("published", config.published, scores.LEARNING_CURVES)
    if len(config.network.hidden) > 100:
        raise UserError(f"network.hidden: {len(config.network.hidden)} layers; at most 100")
    if config.network.standardize and config.network.name == "mlp":
        raise UserError("network.standardize=true needs images, which network=mlp does not use: set it to false")
    if config.agent.augmentation != "none" and config.network.name == "mlp":
        raise UserError(
            f"agent.augmentation={config.agent.augmentation} needs images, which network=mlp does not use: set it to "
            f"none"
        )
    if env.fire_reset and not env.terminal_on_life_loss:
        raise UserError(
            "env.fire_reset=true replaces the chosen action by FIRE after a lost life, so no transition may start "
            "there: set env.terminal_on_life_loss=true, or env.fire_reset=false"
        )
    if exploration.persistence is not None and exploration.temperature is not None:
        raise UserError("exploration.persistence and exploration.temperature are mutually exclusive; set one to null")
    optimizer = config.optimizer
    if optimizer.schedule in ("linear", "cosine") and optimizer.schedule_steps is None:
        raise UserError(
            f"optimizer.schedule={optimizer.schedule} needs optimizer.schedule_steps=..., the agent steps from the "
            f"first to the last learning rate"
        )
    if config.compute.deterministic and config.compute.compile:
        raise UserError(
            "compute.deterministic=true and compute.compile=true are mutually exclusive: resumed on a GPU, a compiled "
            "run is not bit-identical; leave out compute.compile"
        )
    check_head(config.head)
    check_agent(config)
    check_training(config.protocol, env)
    check_arguments(env.kind, env.game, env.arguments)
    check_replay(config)


def check_replay(config: TrainConfig) -> None:
    """Raise UserError if the replay is too small for any update, or the warm-up too short for the first one."""
    replay, n_step, games = config.replay, config.agent.n_step, config.num_envs
    for_games = f"for {plural(games, 'game')} (num_envs)"
    least = games * (config.env.frame_stack + n_step + 1)
    if replay.capacity < least:
        raise UserError(
            f"replay.capacity={replay.capacity}: expected at least {least} {for_games}, states of "
            f"{config.env.frame_stack} frames and {n_step}-step returns"
        )
    if config.update.batch_size > replay.capacity:
        raise UserError(
            f"update.batch_size={config.update.batch_size}: expected at most replay.capacity={replay.capacity}"
        )
    if replay.warmup_steps > replay.capacity:
        raise UserError(
            f"replay.warmup_steps={replay.warmup_steps}: expected at most replay.capacity={replay.capacity}, or "
            f"learning never starts"
        )
    least = games * (n_step - 1) + 1  # by then, each game has been played for n steps
    if replay.warmup_steps < least:
        raise UserError(
            f"replay.warmup_steps={replay.warmup_steps}: expected at least {least} {for_games} and {n_step}-step "
            f"returns, or a smaller num_envs"
        )


def check_logger(logger: Logger) -> None:
    """Raise UserError for the first value that W&B would reject, and for a password."""
    for key, most, banned in (
        ("project", 128, "/\\#?%:"), ("entity", 128, "/\\#?%:"), ("name", 128, ""), ("group", 128, ""),
    ):  # fmt: skip
        value = getattr(logger, key)
        if value is not None and (not value.strip() or len(value) > most or {*banned} & {*value}):
            without = f", without {' '.join(banned)}" if banned else ""
            raise UserError(
                f"logger.{key}={value:.150}: must have 1 to {most} characters{without}; null for the default"
            )
    if logger.mlflow_uri is not None and re.search(r"//[^/]*@", logger.mlflow_uri):
        raise UserError(
            "logger.mlflow_uri holds a password, which would be stored with the run: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI"
        )
    for tag in logger.tags or []:
        if not 1 <= len(tag) <= 64:
            raise UserError(f"logger.tags: {tag[:70]!r} must have 1 to 64 characters")


def check_head(head: Head) -> None:
    """Raise UserError if the atoms of c51 are too close together."""
    gap = max(1e-3, 1e-6 * abs(head.v_min), 1e-6 * abs(head.v_max))  # that float32 can resolve
    if head.v_max - head.v_min < gap * head.atoms:
        raise UserError(
            f"head.v_min={head.v_min:g}: expected at least {gap * head.atoms:g} below head.v_max={head.v_max:g}, "
            f"{gap:g} for each atom"
        )


def check_agent(config: TrainConfig) -> None:
    """Raise UserError for algorithm settings that cannot be combined."""
    agent, head = config.agent, config.head.name
    if agent.loss != "huber" and head != "scalar":
        raise UserError(
            f"agent.loss={agent.loss} needs head=scalar: head={head} learns a distribution with its own loss; use "
            f"agent.loss=huber"
        )
    if agent.munchausen and agent.double:
        raise UserError(
            "agent.double=true selects the target's greedy action, but agent.munchausen=true averages over a softmax "
            "policy instead: set one of them to false"
        )
    if agent.munchausen and agent.n_step > 1:
        raise UserError(
            f"agent.n_step={agent.n_step}: agent.munchausen=true adds the policy's log-probability to each reward, but "
            f"only computes it for the first step; set agent.n_step=1"
        )
    if agent.munchausen and head == "c51":
        raise UserError(
            "head=c51 has fixed atoms, which agent.munchausen=true would shift differently for each action: use "
            "head=scalar, qr or iqn"
        )


def _not_installed(config: TrainConfig) -> dict[str, tuple[str, str]]:
    """Of WHERE_INSTALLED, what a config asks for in vain."""
    sections = {key: key.split(".") for key in WHERE_INSTALLED}
    asked = [key for key, (part, name) in sections.items() if getattr(getattr(config, part), name) not in ("off", 0)]
    return {key: WHERE_INSTALLED[key] for key in asked if not extras.there(WHERE_INSTALLED[key][1])}


def check_installed(config: TrainConfig, words: Iterable[str]) -> None:
    """Raise UserError if a setting was typed that needs a package which is not installed."""
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    for key, (_, package) in _not_installed(config).items():
        if key in typed:
            part, name = key.split(".")
            extras.need(f"{key}={shown(getattr(getattr(config, part), name))}", package)


def notes(config: TrainConfig) -> list[str]:
    """Warnings to print before a run starts."""
    from atari_dqn.config import unread  # circular: unread composes configs, which are checked here

    head, found = config.head, [*unread.notes(config), *own_notes(config.env)]
    if head.name == "c51" and config.agent.reward_clip is None:
        found.append(
            f"rewards are not clipped, but head=c51 only represents returns from head.v_min={head.v_min:g} to "
            f"head.v_max={head.v_max:g}"
        )
    if lacking := _not_installed(config).values():
        names, packages = zip(*lacking, strict=True)
        found.append(f"off in this run, because not installed: {', '.join(names)} ({extras.install(*packages)})")
    return found


def own_notes(env: Env) -> list[str]:
    """Built-in behavior of a Gymnasium environment that may be unexpected."""
    own = own_of(env.game, env.arguments) if env.kind == "gymnasium" else None
    if own is None or not own.note:
        return []
    remedy = f"; env=atari env.game={own.atari} has settings for it" if own.atari else ""
    return [f"{env.game} by itself {own.note}{remedy}"]
