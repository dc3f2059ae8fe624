"""What --help prints: the commands, or one command's settings, described by the comments in conf/ and schema.py."""

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from atari_dqn.config import described
from atari_dqn.utils import hints

SUMMARIES = {
    "train": "train a network on a game, or resume a run (resume=PATH)",
    "demo": "learn a game for 15 minutes, score it, film it, plot its curve",
    "sweep": "train many games with many seeds, here or on a Ray cluster",
    "atari100k": "the 26 games of Atari-100k, and a table beside published runs",
    "aggregate": "statistics over many games and seeds, beside published agents",
    "evaluate": "play whole games with a checkpoint and report the score",
    "match": "rank several checkpoints on one game, and film them side by side",
    "compare": "plot a run's learning curve against a published one",
    "video": "film a game played by a checkpoint",
    "watch": "show a checkpoint's games in a window",
    "export": "write a checkpoint's network for other programs, with a model card",
    "import": "make a checkpoint of a network that another program trained",
    "collect": "store games that a checkpoint plays as a Minari data set",
    "runs": "list the runs in runs/: progress, scores, disk space",
    "report": "write one HTML file about runs: settings, curves, scores, films",
    "dashboard": "the same page, live in a browser on this machine",
    "play": "play a game yourself, with or without a checkpoint's advice",
    "profile": "show where training time goes",
    "games": "list the games",
    "doctor": "check this machine: what works, what does not, how fast it is",
}
EXAMPLES = {
    "train": ("train env.game=Pong preset=laptop seed=2", "train env=cartpole agent.double=true"),
    "demo": ("demo", "demo env.game=Breakout logger.wandb=off"),
    "sweep": ("sweep sweep.games=atari26 sweep.seeds=3", "sweep sweep.games=Pong,Breakout preset=nature"),
    "atari100k": ("atari100k", "atari100k preset=der sweep.games=Pong,Breakout", "atari100k table.only=true"),
    "aggregate": ("aggregate", "aggregate runs=runs/sweeps/default score=best"),
    "evaluate": ("evaluate checkpoint=latest", "evaluate checkpoint=runs/NAME protocol=nature"),
    "match": (
        'match "checkpoint=runs/A latest"',
        'match "checkpoint=A.pt B.pt" protocol=machado',
    ),
    "compare": ("compare run=latest", "compare run=runs/NAME published=nnabla output=curve.png"),
    "video": ("video checkpoint=latest", "video checkpoint=runs/NAME view=inspect max_seconds=60"),
    "watch": ("watch checkpoint=latest", "watch checkpoint=runs/NAME view=inspect"),
    "export": ("export checkpoint=latest", "export checkpoint=runs/NAME format=safetensors"),
    "import": ("import source=BreakoutNoFrameskip-v4.zip", "import source=dqn_atari.cleanrl_model env.game=Pong"),
    "collect": ("collect checkpoint=latest episodes=10", "collect checkpoint=runs/NAME protocol=machado"),
    "runs": ("runs", "runs runs=runs/sweeps/default"),
    "report": ("report run=latest", "report run=runs/ videos=0 output=report.html"),
    "dashboard": ("dashboard", "dashboard runs=runs/sweeps/default port=8001"),
    "play": ("play env.game=Pong", "play checkpoint=latest"),
    "profile": ("profile env.game=Pong", "profile preset=rainbow total_steps=20k"),
}
WIDTH, COLUMN = 80, 31
OPTIONS = (
    ("--cfg job", "print the settings that result, as YAML, and do nothing else"),
    ("--config-dir DIR", "a folder with presets of your own: DIR/preset/NAME.yaml for preset=NAME"),
    ("-m, --multirun", "one run for each value: -m env.game=Pong,Breakout seed=1,2,3"),
)


def overview() -> str:
    """All commands, a line each."""
    program = hints.program()
    return "\n".join(
        [
            f"{program} COMMAND key=value ...",
            "",
            "Commands:",
            *(f"  {name:<11}{text}" for name, text in SUMMARIES.items()),
            "",
            f"{program} COMMAND --help    shows a command's settings",
            f"{program} --version         shows the version",
            f'eval "$({program} -sc install=bash)"    turns on Tab completion',
        ]
    )


class Sources(NamedTuple):
    """What describes a command's settings.

    Attributes:
        comments: of each key, from the YAML files that the command is composed of.
        groups: its choices of files: conf/<group>/.
        base: the command with train's settings, which are too many to list again; nothing if it has no such.
    """

    comments: dict[str, str]
    groups: list[str]
    base: str


def command(name: str, words: list[str]) -> str:
    """A command's settings. Those that are typed count as defaults: `train preset=nature --help`."""
    from atari_dqn.config import commands, compose

    composed = compose.compose(name, words)
    own = _sources(f"{name}.yaml")
    described = _described(composed, own, name)
    mine = _comments(commands.conf_dir() / f"{name}.yaml")
    listed = [key for key in described if not own.base or key in mine]
    listed.sort(key=lambda key: "." in key)
    program = hints.program()
    lines = [f"{program} {name} key=value ...", "", *_wrapped(_sentence(SUMMARIES[name])), ""]
    if own.groups and not own.base:
        lines += ["Choices, each a file in conf/:"]
        for group in own.groups:
            options = " | ".join(compose.known_keys(name)[1][group])
            lines += _entry(f"{group}={_choice(name, group, words) or 'null'}", options)
        lines += [""]
    lines += ["Settings and their defaults:"]
    section = ""
    for key in listed:
        if "." in key and key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines += [""] if key != listed[0] else []
        lines += _entry(f"{key}={described[key][0]}", described[key][1])
    if own.base:
        lines += ["", *_wrapped(f"All settings of {own.base} as well: `{program} {own.base} --help` lists them.")]
    lines += ["", "Options:"]
    for option, text in OPTIONS:
        if option[:2] != "-m" or name == "train":
            lines += _entry(option, text)
    lines += [
        "",
        *_wrapped("Any setting is changed by key=value; 20k is 20000, 1M a million, null none. Examples:"),
        *(f"  {program} {example}" for example in EXAMPLES[name]),
    ]
    return "\n".join(line.rstrip() for line in lines)


def choices(name: str) -> list[str]:
    """The groups that a command chooses a file of."""
    return _sources(f"{name}.yaml").groups


def bare(name: str) -> str:
    """A command that takes no settings."""
    return f"{hints.program()} {name}\n\n{_sentence(SUMMARIES[name])} It takes no settings."


def _choice(name: str, group: str, words: list[str]) -> str:
    """What a group's choice is, as typed or by default."""
    typed = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    return typed[-1] if typed else _defaults(f"{name}.yaml").get(group, "")


def _described(composed: Any, own: Sources, name: str) -> dict[str, tuple[str, str]]:
    """Each setting's default and description."""
    from atari_dqn.config import bounds, commands, schema

    elsewhere = {key: text for key, _, text in fields(schema.TrainConfig, "") if text} | _sources("train.yaml").comments
    found = {}
    for key, kind, behind in fields(commands.SCHEMAS[name], ""):
        text = own.comments.get(key) or behind or elsewhere.get(key, "")
        if key in bounds.CHOICES and not all(option in text for option in bounds.CHOICES[key]):
            text = f"{' | '.join(bounds.CHOICES[key])}{text and ': '}{text}"
        if kind is bool and "true" not in text and "false" not in text:
            text += f"{text and '; '}true or false"
        elif limit := bounds.LIMITS.get(key):
            span = limit.span().removeprefix("of ")
            text = f"{text} ({span})" if text else span
        found[key] = (_value(composed, key), text)
    return found


def _value(composed: Any, key: str) -> str:
    """A setting's value as it is typed."""
    import yaml  # type: ignore[import-untyped]
    from omegaconf import OmegaConf

    value = OmegaConf.select(composed, key, throw_on_missing=False)
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(composed, parent) if parent else composed
    if node is None or OmegaConf.is_missing(node, last):
        return "..."
    if OmegaConf.is_config(value):
        flow: str = yaml.safe_dump(OmegaConf.to_container(value), default_flow_style=True, sort_keys=False, width=1000)
        return re.sub("(?<=,) ", "", flow.strip()) if ":" not in flow else flow.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    return "null" if value is None else str(value)


def fields(kind: Any, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Each setting of a dataclass: its key, its type, and the comment behind it in schema.py."""
    behind = described.of_fields(kind)
    for name, hint in get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from fields(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint, behind.get(name, "")


def _defaults(file: str) -> dict[str, str]:
    """The choices in a YAML file's list of defaults, and in those of the commands that it names: group -> option."""
    from atari_dqn.config import commands

    found: dict[str, str] = {}
    text = (commands.conf_dir() / file).read_text(encoding="utf-8")
    block = re.search(r"^defaults:\n((?:  .*\n)+)", text, re.MULTILINE)
    for word, option in re.findall(
        r"^  - (?:override )?/?([\w/]+)(?:: (\w+))?", block[1] if block else "", re.MULTILINE
    ):
        if option:
            found[word] = "" if option == "null" else option
        elif (commands.conf_dir() / f"{word}.yaml").is_file():
            found = _defaults(f"{word}.yaml") | found
    return found


def _sources(file: str) -> Sources:
    from atari_dqn.config import commands

    text = (commands.conf_dir() / file).read_text(encoding="utf-8")
    own = re.findall(r"^  - (\w+)$", text, re.MULTILINE)
    base = next((word for word in own if word == "train" or (word in SUMMARIES and _sources(f"{word}.yaml").base)), "")
    comments: dict[str, str] = {}
    for other in own:
        if (commands.conf_dir() / f"{other}.yaml").is_file():
            comments |= _sources(f"{other}.yaml").comments
    groups = {group: option for group, option in _defaults(file).items() if group != "hydra"}
    for group, option in groups.items():
        if option and group not in ("preset", "protocol"):  # which say what is special about them
            comments |= _comments(commands.conf_dir() / group / f"{option}.yaml", group)
    comments |= _comments(commands.conf_dir() / file)
    return Sources({key: text for key, text in comments.items() if text}, list(groups), base)


def _comments(file: Path, group: str = "") -> dict[str, str]:
    """The keys of a YAML file, each with the comment behind it."""
    prefix = f"{group}." if group and "@package _global_" not in file.read_text(encoding="utf-8") else ""
    settings = described.read(file)[1]
    return {f"{prefix}{key}": one.comment for key, one in settings.items() if key.partition(".")[0] != "defaults"}


def _entry(left: str, text: str) -> list[str]:
    """A setting and what it means, beside each other or below."""
    lines = textwrap.wrap(text, WIDTH - COLUMN, break_on_hyphens=False, break_long_words=False) or [""]
    if len(left) + 4 > COLUMN and text:
        return [*textwrap.wrap(left, WIDTH - 2, initial_indent="  ", subsequent_indent="    "), *_indented(lines)]
    return [f"  {left:<{COLUMN - 2}}{lines[0]}", *_indented(lines[1:])]


def _indented(lines: list[str]) -> list[str]:
    return [f"{' ' * COLUMN}{line}" for line in lines]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
