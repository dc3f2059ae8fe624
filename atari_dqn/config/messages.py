"""One-line messages for errors in typed settings."""

import dataclasses
import re
from typing import get_type_hints

import omegaconf
from hydra.errors import OverrideParseException

from atari_dqn.config import aliases, bounds
from atari_dqn.config.keys import is_known, known_keys
from atari_dqn.config.schema import Goal
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import suggest

# OmegaConf's messages for a value of the wrong type.
ANOTHER_KIND = (
    "Value '|Invalid value assigned|Cannot (merge|convert|assign)|Invalid type assigned|.* is not a subclass of|"
    ".* is not Optional|Incompatible value 'None'"
)
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def explain_value(error: BaseException) -> str:
    """A one-line message for an OmegaConf error about a value."""
    text = str(getattr(error, "msg", None) or error).split("\n")[0]
    key, owner = getattr(error, "full_key", None) or "", getattr(error, "object_type", None)
    if owner is Goal and "." not in key:
        key = f"env.goals.{key}"
    if isinstance(error, omegaconf.errors.MissingMandatoryValue):
        more = "; the file of a preset has a line with its name, preset: NAME" if (key or text) == "preset" else ""
        return f"{key or text} must be given{more}"
    if isinstance(error, omegaconf.errors.ConfigKeyError) and owner is Goal:
        return f"{key}: a goal has score, games, note and stop"
    if "is not in struct" in text:
        return f"no setting is called {key!r}; add a new one with a plus, +{key}=..."
    if key and re.match(ANOTHER_KIND, text):
        typed = re.match(r"Value '(.*?)' (?:of type|could not|is not)", text)
        value = "=null" if "None" in text or "Optional" in text else f"={bounds.shown(typed[1])}" if typed else ""
        hints = get_type_hints(owner) if dataclasses.is_dataclass(owner) else {}
        kinds = {KINDS[kind] for kind in KINDS if hints.get(key.rpartition(".")[2]) in (kind, kind | None)}
        return f"{key}{value}: expected {bounds.expected(key, *kinds)}"
    return f"{key}: {text}" if key and key not in text else text


def sections(keys: set[str]) -> dict[str, str]:
    """Config sections, each with its first setting."""
    return {key.rpartition(".")[0]: key for key in sorted(keys, reverse=True) if "." in key}


GROUP_REMEDIES = {
    "env": "name a game with env.game=Breakout",
    "network": "your own: network=my_package.my_module:Name",
    "optimizer": "choose any of torch.optim with optimizer.name=AdamW",
}


def explain(command: str, overrides: list[str], error: BaseException) -> UserError:
    """A one-line message that replaces Hydra's exception."""
    keys, groups = known_keys(command)
    for override in overrides:
        match = re.match(r"[+~]*([^=@]+)(?:@[^=]*)?=?(.*)", override)
        if not match or ("=" not in override and not override.startswith("~")):
            return UserError(f"cannot read {override!r}; settings are written key=value, e.g. seed=2")
        key, value = match.groups()
        if key.startswith("hydra"):
            continue
        if key in groups:
            options = groups[key]
            wrong = next((one for one in value.split(",") if one not in (*options, "null")), None)
            wrong = wrong if value != "null" else value
            if wrong is not None and not re.search(r"[/(]", value) and key not in keys - {*groups}:
                more = f"; {GROUP_REMEDIES[key]}" if key in GROUP_REMEDIES else ""
                return UserError(
                    f"{key}={wrong}: no such {key}{suggest(wrong, options)}; known: {', '.join(options)}{more}"
                )
        elif override.startswith("~") and key in keys:
            return UserError(f"~{key}: a setting cannot be removed; leave it out for its default")
        elif key in sections(keys):
            more = "; to resume a run, set resume=PATH" if key == "checkpoint" else ""
            return UserError(f"{key}={value}: {key} is a section with settings such as {sections(keys)[key]}=...{more}")
        elif not is_known(key, keys):
            return UserError(f"no setting is called {key!r}{aliases.meant(key, keys | {*groups})}")
    if match := re.match(r"Could not append to config. An item is already at '(.*)'", str(error)):
        return UserError(f"+{match[1]}: this setting already exists; write it without the plus")
    if match := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
        return UserError(f"{match[1]}: several values make several runs; put -m before them")
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        expected = bounds.expected(key, "")
        if expected and not re.search(r"""[][(){}'"]""", value):
            return UserError(f"{key}={bounds.shown(value)}: expected {expected}")
        return UserError(f"cannot read {error.override!r}; is a bracket or a quote missing?")
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, omegaconf.errors.OmegaConfBaseException):
            return UserError(explain_value(chain))
        chain = chain.__cause__ or chain.__context__
    text = " ".join(str(error).split("\n")[0].split())
    if match := re.match(r"Could not override '(\w+)'", text):  # a group of other commands
        remedy = "; name the game, env.game=CartPole" if match[1] == "env" else ""
        return UserError(f"{command} takes no {match[1]}=...{remedy}")
    return UserError(text)
