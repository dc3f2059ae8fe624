"""Translate settings typed as key=value to Hydra's override grammar."""

import dataclasses
import errno
import functools
import os
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from atari_dqn.config import bounds
from atari_dqn.config.commands import SCHEMAS, conf_dir
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import shown

# Text settings that are paths, and those in which a comma is part of the text.
PATHS = ("checkpoint", "run", "runs", "run_dir", "resume", "output", "sweep.storage")
WITH_COMMAS = (*PATHS, "sweep.games", "sweep.address", "logger.name", "logger.notes")
LISTED = ("logger.tags", "trackers", "callbacks")  # names that may be typed without brackets
# Replacements for the config files of submitit's plugin, whose jobs end after an hour without being requeued. (Files
# of ours with the same names would be validated against the plugin's, with a warning.)
LAUNCHERS = {
    "hydra/launcher=submitit_slurm": "hydra/launcher=slurm", "hydra/launcher=submitit_local": "hydra/launcher=local",
}  # fmt: skip


def as_hydra_reads(word: str, is_many: bool = False) -> str:
    """Translate a typed setting to Hydra's grammar.

    Numbers such as `replay.capacity=200k`, 1M, 2.5M, 1e6, 200_000 or 200,000 become whole numbers; text that Hydra
    would not read as text is quoted; ~ in paths is expanded. In a multirun (`is_many`) commas separate values.
    Raises UserError for an invalid path.
    """
    word = LAUNCHERS.get(word, word)
    if re.match(r"(env|optimizer|network|rule)\.(schedule_)?arguments[.=]", word):  # their keys are not in the schema
        word = f"++{word}"
    key, equals, value = word.partition("=")
    if not equals:
        return word
    if re.search(r"\d{1000}", value):  # longer than Python converts to an int
        raise UserError(f"{key}={shown(value)}: expected {bounds.expected(key)}")
    if key.lstrip("+") in LISTED and value not in ("", "null") and not value.startswith("["):
        names = [name.strip().strip("'\"").replace("'", "\\'") for name in value.split(",")]
        quoted = ",".join(f"'{name}'" for name in names)
        return f"{key}=[{quoted}]"
    is_text = key.lstrip("+") in text_keys()
    if (
        is_many
        and not re.search(r"^\w+\(.*\)$" if is_text else r"[][(){}'\"]", value)
        and len(parts := split(value)) > 1
    ):
        return f"{key}=" + ",".join(as_hydra_reads(f"{key}={one}", True).partition("=")[2] for one in parts)
    if re.fullmatch(r"[\w.]*(steps|frames|capacity|episodes)", key):
        match = re.fullmatch(r"([\d._]+(?:e\d+)?|\d{1,3}(?:,\d{3})+)([kKmM]?)", value)
        try:
            number = (
                float(re.sub("[_,]", "", match[1])) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()] if match else 0.5
            )
        except ValueError:
            return word
        return f"{key}={int(number)}" if number.is_integer() else word
    if is_text:
        return f"{key}={_as_text(key.lstrip('+'), value, is_many)}"
    return word


def split(value: str) -> list[str]:
    """Split at commas that are not within quotes."""
    return re.findall(r"""(?:^|,)('(?:[^'\\]|\\.)*'(?=,|$)|"(?:[^"\\]|\\.)*"(?=,|$)|[^,]*)""", value)


def _as_text(key: str, value: str, is_many: bool) -> str:
    """The value of a text setting, quoted if Hydra would not read it as text."""
    try:
        read = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        read = None
    if read and (value == "" or read.value() is None):
        return value
    if read and read.is_sweep_override() and (is_many or key not in WITH_COMMAS):
        return value
    text = str(read.value()) if read and isinstance(read._value, QuotedString) else value
    known = path(key, text) if key in PATHS else text
    if known == text and read and (read.value() == value or text != value):
        return value
    # Within quotes, a backslash escapes only a quote.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), known) + "'"


def path(key: str, typed: str) -> str:
    """Expand ~ and ~name in `typed`. Raises UserError if it cannot be a file name."""
    words = typed.split(" ") if key in ("run", "runs") else [typed]
    for i, word in enumerate(words):
        words[i] = os.path.expanduser(word)
        if words[i] == word and re.match(r"~[\w.-]+(/|$)", word):
            raise UserError(
                f"{key}={typed}: no user is called {word[1:].split('/')[0]!r}; for a file of this name, type ./{word}"
            )
        try:
            os.stat(words[i])
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                raise UserError(f"{key}={typed[:60]}...: {error.strerror}") from None
        except ValueError as error:  # a null byte
            raise UserError(f"{key}={typed}: {error}") from None
        if os.fsencode(words[i]) != words[i].encode("utf-8", "replace"):  # torch would open another file
            raise UserError(f"{key}={typed}: not decoded as UTF-8; rename it, or set PYTHONUTF8=1")
    return " ".join(words)


@functools.cache
def text_keys() -> set[str]:
    """The text settings of all commands, without config groups, whose values are file names."""

    def within(schema: Any, prefix: str) -> Iterator[str]:
        for name, kind in get_type_hints(schema).items():
            if dataclasses.is_dataclass(kind):
                yield from within(kind, f"{prefix}{name}.")
            elif kind in (str, str | None):
                yield f"{prefix}{name}"

    groups = {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}
    return {key for schema in SCHEMAS.values() for key in within(schema, "")} - groups
