"""The options of Hydra that a command takes, wherever they stand among its settings: -m, --cfg job ..."""

from collections.abc import Collection

from atari_dqn.errors import UserError
from atari_dqn.games import suggest

SHORT = {"-m": "--multirun", "-c": "--cfg", "-p": "--package", "-i": "--info", "-h": "--help"}
FLAGS = ("--multirun", "--resolve", "--help", "--hydra-help")
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--package": (),  # any part of the settings
}


def apart(words: list[str], parts: Collection[str]) -> tuple[list[str], list[str]]:
    """The options among what was typed, as Hydra takes them, and the settings.

    Args:
        parts: the names of what --package may print alone.

    Raises:
        UserError: for an unknown option, one without its value, or ones that exclude each other.
    """
    options: dict[str, str] = {}
    settings = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            settings.append(word)
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
            hint = f" (did you mean {word[:2]} {word[2:]}?)" if word[:2] in SHORT else suggest(typed, known)
            raise UserError(f"unknown option {word!r}{hint}; settings are written key=value, e.g. seed=2")
    modes = [name for name in ("--multirun", "--cfg", "--info") if name in options]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)} exclude each other")
    for name in ("--resolve", "--package"):
        if name in options and "--cfg" not in options:
            raise UserError(f"{name} needs --cfg job, whose output it changes")
    package = options.get("--package", "_global_")
    if options.get("--cfg") == "job" and package not in {"_global_", *parts}:
        raise UserError(f"--package {package}: no part of the settings is called that{suggest(package, parts)}")
    return [f"{name}={value}" if value else name for name, value in options.items()], settings
