"""Valid values of each setting: its range or choices, and an example. Types are in schema.py; for consistency checks
see validate.py.

Every number of every command is listed here; a key means the same to all commands. Only `check` compares values.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from atari_dqn.utils import files
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import shown, suggest

STEPS = 10**12  # largest number of steps or frames: no run is longer, and products stay far below 2^63


class Limit(NamedTuple):
    """The range of a number.

    Attributes:
        above: whether `low` itself is excluded.
    """

    low: float
    high: float
    example: str
    whole: bool
    above: bool = False

    @property
    def kind(self) -> str:
        return "a whole number" if self.whole else "a number"

    def span(self, value: float | None = None) -> str:
        """The range in words: from its lower to its upper end, which is left out where no `value` comes near it."""
        low, high = (f"{end:,.0f}" if abs(end) >= 100_000 else f"{end:g}" for end in (self.low, self.high))
        if self.high < STEPS or (value is not None and value > self.high):
            return f"above {low}, at most {high}" if self.above else f"from {low} to {high}"
        return f"above {low}" if self.above else f"of at least {low}"

    def range(self, value: float) -> str:
        """Describe the range, for an error about `value`."""
        return f"{self.kind} {self.span(value)}, such as {self.example}"

    def holds(self, value: float) -> bool:
        """Whether a value is in the range; nan never is."""
        return self.low <= value <= self.high and not (self.above and value == self.low)


def _whole(low: int, high: int, example: str) -> Limit:
    return Limit(low, high, example, whole=True)


def _number(low: float, high: float, example: str, above: bool = False) -> Limit:
    return Limit(low, high, example, whole=False, above=above)


_RUN, _INTERVAL, _SHARE = "20000, 20k or 1M", "50000, 50k or 1M", _number(0, 1, "0.5")
LIMITS: dict[str, Limit] = {
    "seed": _whole(0, 2**32 - 1, "1"),
    "total_steps": _whole(1, STEPS, _RUN),
    "max_minutes": _number(0, 10_000_000, "60, or null", above=True),
    "num_envs": _whole(1, 4096, "16"),
    "env.frame_skip": _whole(1, 100, "4"),
    "env.frame_stack": _whole(1, 100, "4"),
    "env.screen_size": _whole(8, 512, "84"),
    "env.repeat_action_probability": _number(0, 1, "0.25"),
    "env.noop_max": _whole(0, 1000, "30"),
    "env.max_frames": _whole(1, 10**9, "108000 or 108k"),
    "env.goals.score": _number(-1e9, 1e9, "18"),
    "env.goals.games": _whole(1, 1_000_000, "100"),
    "network.hidden": _whole(1, 1_000_000, "128"),
    "head.atoms": _whole(2, 10_000, "51"),
    "head.v_min": _number(-1e6, 1e6, "-10"),
    "head.v_max": _number(-1e6, 1e6, "10"),
    "head.quantiles": _whole(1, 10_000, "200"),
    "head.samples": _whole(1, 10_000, "64"),
    "head.target_samples": _whole(1, 10_000, "64"),
    "head.policy_samples": _whole(1, 10_000, "32"),
    "head.cosines": _whole(1, 10_000, "64"),
    "optimizer.learning_rate": _number(0, 10, "1e-4", above=True),
    "optimizer.max_grad_norm": _number(0, 1e9, "10, or null", above=True),
    "optimizer.schedule_steps": _whole(1, STEPS, _RUN),
    "optimizer.final_learning_rate": _number(0, 10, "1e-5"),
    "agent.discount": _number(0, 1, "0.99"),
    "agent.n_step": _whole(1, 1000, "3"),
    "agent.reward_clip": _number(0, 1e6, "1, or null", above=True),
    "agent.dueling_gradient_scale": _number(0, 1, "0.7071"),
    "agent.noisy_sigma": _number(0, 100, "0.5"),
    "agent.munchausen_alpha": _number(0, 1, "0.9"),
    "agent.munchausen_temperature": _number(1e-6, 1e6, "0.03"),
    "agent.munchausen_floor": _number(-1e6, 0, "-1"),
    "replay.capacity": _whole(1, STEPS, "200000, 200k or 1M"),
    "replay.warmup_steps": _whole(1, STEPS, "10000 or 10k"),
    "replay.priority_exponent": _SHARE,
    "replay.importance_start": _SHARE,
    "replay.importance_end": _SHARE,
    "replay.importance_steps": _whole(1, STEPS, _RUN),
    "update.period_steps": _whole(1, STEPS, "4"),
    "update.repeats": _whole(1, 10_000, "8"),
    "update.batch_size": _whole(1, 1_000_000, "32"),
    "update.target_period_steps": _whole(1, STEPS, "1000 or 1k"),
    "update.tau": _number(0, 1, "0.005, or 1 for a hard copy", above=True),
    "exploration.start": _number(0, 1, "1.0"),
    "exploration.end": _number(0, 1, "0.01"),
    "exploration.decay_steps": _whole(1, STEPS, "250000 or 250k"),
    "exploration.begin_steps": _whole(0, STEPS, "10000 or 10k, or null"),
    "exploration.temperature": _number(1e-6, 1e6, "0.1, or null"),
    "exploration.persistence": _number(1, 100, "2, or null"),
    "evaluation.every_steps": _whole(1, STEPS, _INTERVAL),
    "evaluation.episodes": _whole(1, 100_000, "30"),
    "evaluation.num_envs": _whole(1, 1024, "10"),
    "evaluation.held_out_states": _whole(0, 100_000, "500"),
    "evaluation.video_seconds": _whole(0, 86_400, "60"),
    "evaluation.video_share": _number(0, 1, "0.05"),
    "protocol.episodes": _whole(1, 100_000, "100, or null"),
    "protocol.epsilon": _number(0, 1, "0.05"),
    "protocol.repeat_action_probability": _number(0, 1, "0.25"),
    "protocol.noop_max": _whole(0, 1000, "30"),
    "protocol.max_frames": _whole(1, 10**9, "18000 or 18k"),
    "protocol.window_frames": _whole(1, STEPS, "1000000 or 1M"),
    "protocol.window_games": _whole(1, 1_000_000, "100"),
    "checkpoint.every_steps": _whole(1, STEPS, _INTERVAL),
    "checkpoint.cut_every_turns": _whole(1, STEPS, "31250, or null"),
    "logger.every_steps": _whole(1, STEPS, "1000 or 1k, or null"),
    "logger.timeout_seconds": _number(1, 3600, "30, or null"),
    "emulators.actors": _whole(1, 4096, "4, or null"),
    "sweep.seeds": _whole(1, 10_000, "5"),
    "sweep.cpus": _whole(1, 4096, "1"),
    "sweep.gpus": _number(0, 64, "0.25, or null"),
    "sweep.retries": _whole(0, 1_000_000, "20"),
    "max_seconds": _whole(0, 86_400, "60, or 0 for the whole game"),
    "videos": _whole(0, 10_000, "3, or null"),
    "port": _whole(0, 65_535, "8000, or 0 for any free port"),
    "episodes": _whole(1, 100_000, "30"),
    "states": _whole(0, 1_000_000, "1000, or 0 for none"),
    "resamples": _whole(100, 100_000, "2000"),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "env.kind": ("atari", "gymnasium"),
    "network.padding": ("valid", "same"),
    "network.initialization": ("torch", "xavier", "he"),
    "head.name": ("scalar", "c51", "qr", "iqn"),
    "head.priority": ("divergence", "cross_entropy"),
    "agent.loss": ("huber", "squared"),
    "agent.reduction": ("mean", "sum"),
    "compute.precision": ("float32", "bf16"),
    "agent.augmentation": ("none", "shift", "drq"),
    "replay.device": ("auto", "cpu", "cuda"),
    "protocol.source": ("games", "training"),
    "emulators.kind": ("local", "ray"),
    "logger.wandb": ("online", "offline", "off"),
    "view": ("plain", "inspect"),
    "score": ("last", "best", "training"),
    "format": ("onnx", "safetensors", "pt"),
}

# Text that must not be blank.
TEXTS: dict[str, str] = {
    "env.game": "a game, such as Breakout",
    "network.name": "a network, such as nature_cnn",
    "rule.name": "a rule of your own, such as my_package.my_module:Name",
    "optimizer.name": "an optimizer, such as Adam",
    "optimizer.schedule": "constant, linear, cosine, or a class of torch.optim.lr_scheduler such as StepLR",
    "preset": "a preset, such as default",
    "protocol.name": "a protocol, such as nature",
    "device": "auto, cpu, cuda, cuda:1 or mps",
    "checkpoint": "a .pt file or a run directory, such as runs/Breakout-1",
    "run": "a run directory, such as runs/Breakout-1",
    "runs": "a directory of runs, such as runs",
    "run_dir": "a new directory, such as runs/Breakout-1",
    "resume": "a run directory, such as runs/Breakout-1, or auto",
    "output": "a path",
    "logger.mlflow_uri": "an MLflow server, such as http://host:5000",
    "emulators.address": "a Ray cluster, such as auto or host:6379",
    "sweep.address": "a Ray cluster, such as auto or host:6379",
    "sweep.games": "atari57, atari26, nature49, or games such as Pong,Breakout",
    "table.output": "a folder, such as results",
    "sweep.storage": "a directory or a URL, such as s3://bucket/directory",
}

NAMES = ("preset", "protocol.name")  # used in file names

# Settings that hold several values.
LISTS: dict[str, str] = {
    "optimizer.arguments": "the optimizer's own settings, such as {eps: 1e-5}",
    "optimizer.schedule_arguments": "the schedule's own settings, such as {step_size: 250000}",
    "network.hidden": "a list of whole numbers, such as [128,128]",
    "network.arguments": "your network's own settings, such as {width: 32}",
    "rule.arguments": "your rule's own settings, such as {networks: 10}",
    "trackers": "a list, such as [my_package.my_module:Name]",
    "callbacks": "a list, such as [my_package.my_module:Name]",
    "env.arguments": "the environment's own settings, such as {continuous: false}",
    "env.goals": "a list, such as [{score: 18, games: 20, note: solved, stop: true}]",
    "against": "a list, such as [nature_2015,dopamine_tf]",
}


def _bare(key: str) -> str:
    """The key in LIMITS of a value in a list: `env.goals.games` for `env.goals[0].games`."""
    return re.sub(r"\[\d+\]", "", key, count=1)


def _listed(options: tuple[str, ...]) -> str:
    return " or ".join(filter(None, [", ".join(options[:-1]), options[-1]]))


def expected(key: str, kind: str = "another value") -> str:
    """What a setting expects, for an error about a value of the wrong type.

    Args:
        kind: the description of keys without an entry here.
    """
    if key in LISTS:
        return LISTS[key]
    key = _bare(key)
    if limit := LIMITS.get(key):
        return f"{limit.kind} such as {limit.example}"
    return _listed(CHOICES[key]) if key in CHOICES else TEXTS.get(key) or LISTS.get(key, kind)


def one_of(key: str, value: str, options: tuple[str, ...]) -> None:
    """Raise UserError if `value` is not one of `options`."""
    if value not in options:
        raise UserError(
            f"{key}={shown(value)}: expected {_listed(options)}{suggest(value.replace('gpu', 'cuda'), options)}"
        )


def values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of a dataclass with its value; list items are named like `env.goals[0].games`."""
    for field in dataclasses.fields(config):
        yield from _values(f"{prefix}{field.name}", getattr(config, field.name))


def _values(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        yield from values(value, f"{key}.")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _values(f"{key}[{i}]", item)
    else:
        yield key, value


def check(config: Any, prefix: str = "") -> None:
    """Raise UserError for the first value that is out of range or not a valid choice.

    Args:
        config: any command's dataclass, or a section of one.
        prefix: the prefix of the section's keys.
    """
    for key, value in values(config, prefix):
        name = _bare(key)
        if "][" in key:
            raise UserError(f"{key.partition('[')[0]}: expected {LISTS[key.partition('[')[0]]}")
        if isinstance(value, str):
            if name in CHOICES:
                one_of(key, value, CHOICES[name])
            if name in NAMES and not files.is_name(value):
                raise UserError(
                    f"{key}={shown(value)}: expected letters, digits, spaces and . + - _, at most 100, because it "
                    f"becomes part of a file name"
                )
            if name in TEXTS and not value.strip():
                raise UserError(f"{key} is blank: expected {TEXTS[name]}")
        elif name in LIMITS and value is not None and not LIMITS[name].holds(value):
            raise UserError(f"{key}={shown(value)}: expected {LIMITS[name].range(value)}")
