"""The options of Hydra that a command takes, wherever they stand among its settings: -m, --cfg job, --config-dir ..."""

from collections.abc import Collection

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException

from atari_dqn.config import aliases, compose, keys
from atari_dqn.registry import environments
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import suggest

SHORT = {"-m": "--multirun", "-c": "--cfg", "-p": "--package", "-i": "--info", "-h": "--help"}
FLAGS = ("--multirun", "--resolve", "--help", "--hydra-help")
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--package": (),  # any part of the settings
    "--config-dir": (),  # any folder
}


MOST_VALUES = 50  # of a setting of a multirun that are looked at before it begins


def apart(words: list[str], parts: Collection[str]) -> tuple[list[str], list[str]]:
    """The options among what was typed, as Hydra takes them, and the settings.

    Args:
        parts: the names of what --package may print alone.

    Raises:
        UserError: for an unknown option, one without its value, or ones that exclude each other.
    """
    options: dict[str, str] = {}
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            others.append(word)
            continue
        typed, equals, value = word.partition("=")
        name = SHORT.get(typed, typed)
        if name in FLAGS and not equals:
            options[name] = ""
        elif name in CHOICES:
            choices = CHOICES[name]
            if not equals and rest and (name != "--info" or rest[0] in choices):
                value = rest.pop(0)
            elif not equals and name == "--info":
                value = "all"
            if choices and value not in choices:
                wrong = f"{typed} {value}: must be" if value else f"{typed} needs"
                raise UserError(f"{wrong} one of {', '.join(choices)}")
            options[name] = value
        else:
            known = [*SHORT, *FLAGS, *CHOICES]
            setting = typed.lstrip("-").replace("-", "_")  # --learning-rate, as other programs have it
            if word[:2] in SHORT:
                hint = f" (did you mean {word[:2]} {word[2:]}?)"
            elif setting in parts:
                hint = f" (did you mean {setting}?)"
            else:
                hint = suggest(typed, known) or aliases.meant(setting, {*parts})
            raise UserError(f"unknown option {word!r}{hint}; settings are written key=value, e.g. seed=2")
    modes = [name for name in ("--multirun", "--cfg", "--info") if name in options]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)} exclude each other")
    for name in ("--resolve", "--package"):
        if name in options and "--cfg" not in options:
            raise UserError(f"{name} needs --cfg job, whose output it changes")
    found = keys.use_config_dir(options.get("--config-dir"))
    if found:
        options["--config-dir"] = found
    package = options.get("--package", "_global_")
    if options.get("--cfg") == "job" and package not in {"_global_", *parts}:
        raise UserError(f"--package {package}: no part of the settings is called that{suggest(package, parts)}")
    return [f"{name}={value}" if value else name for name, value in options.items()], others


def check_values(command: str, words: list[str]) -> None:
    """Compose every value of a multirun's settings once, before its folder is made and its first run takes hours.

    Raises UserError for what cannot be composed, and for a game that is none. Plugins' sweepers have a grammar of their
    own. What else is wrong with a run ends that run alone.
    """
    if any(word.startswith("hydra/sweeper=") for word in words):
        return
    words = [word for word in words if not word.startswith("hydra")]
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise compose.explain(command, words, error) from None
    values = []
    for word, override in zip(words, parsed, strict=True):
        if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
            continue
        if override.value_type == ValueType.INTERVAL_SWEEP:
            raise UserError(f"{word}: intervals are for hydra/sweeper=tune; write the values, or range(1,5)")
        key = override.get_key_element()
        values.append(
            [f"{key}={one}" for one in override.sweep_string_iterator()] if override.is_sweep_override() else [word]
        )
    for i in range(min(MOST_VALUES, max(map(len, values), default=0))):
        composed = compose.compose(command, [those[min(i, len(those) - 1)] for those in values])
        if command == "train" and composed.env.kind == "atari":
            compose.game_name("atari", composed.env.game)
        elif command == "train" and ":" not in composed.env.game:  # a module is imported by its run
            environments.find(environments.named(composed.env.game))
