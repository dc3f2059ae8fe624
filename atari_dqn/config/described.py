"""What the comments in conf/ and in the config's dataclasses say of each setting."""

import inspect
import re
from pathlib import Path
from typing import NamedTuple


class Setting(NamedTuple):
    """A line of a YAML file: its value as it is written there, and its comment."""

    value: str
    comment: str


def read(path: Path) -> tuple[str, dict[str, Setting]]:
    """A YAML file's opening comment, and its settings by dotted key."""
    settings: dict[str, Setting] = {}
    opening: list[str] = []
    parents: list[tuple[int, str]] = []
    last = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"^\s*#\s?(.*)$", line):
            text = match[1].strip()
            if last:
                value, comment = settings[last]
                settings[last] = Setting(value, f"{comment} {text}".strip())
            elif not text.startswith("@package"):
                opening.append(text)
            continue
        match = re.match(r"^(\s*)([\w/ ]+):(?:\s+(.*?))?\s*$", line)
        if not match:
            continue
        indent, key = len(match[1]), match[2]
        while parents and parents[-1][0] >= indent:
            parents.pop()
        value, _, comment = (match[3] or "").partition("#") if "#" in (match[3] or "") else (match[3] or "", "", "")
        last = ".".join([*(name for _, name in parents), key])
        settings[last] = Setting(value.strip(), comment.strip())
        if not value.strip():
            parents.append((indent, key))
    return " ".join(opening), settings


def of_fields(kind: type) -> dict[str, str]:
    """The comments behind a dataclass's fields, inherited ones included."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        found |= dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(owner), re.MULTILINE))
    return found
