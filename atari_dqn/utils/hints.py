"""Commands that messages name: `make ...` where the Makefile is, else the installed program's own."""

import shlex
from pathlib import Path

SETTINGS = {"GAME": "env.game", "RUN": "run", "CKPT": "checkpoint", "PRESET": "preset"}


def in_checkout() -> bool:
    """Whether `make` works here: the working directory is the checkout that this program was loaded from."""
    root = Path(__file__).resolve().parents[2]
    return (root / "Makefile").is_file() and (root / "pyproject.toml").is_file() and Path.cwd() == root


def program() -> str:
    return "python -m atari_dqn" if in_checkout() else "atari-dqn"


def reinstall() -> str:
    """What installs all packages anew."""
    return "`make clean setup`" if in_checkout() else "a new virtual environment"


def hint(target: str, **values: object) -> str:
    """A command in backquotes that works where the person is.

    Args:
        target: the Makefile's target.
        values: its variables, such as RUN="runs/a". A value of "..." stays as it is. ARGS are further settings.
    """
    more = values.pop("ARGS", "")
    typed = {name: str(value) if value == "..." else shlex.quote(str(value)) for name, value in values.items()}
    if in_checkout():
        typed |= {"ARGS": shlex.quote(str(more))} if more else {}
        return f"`{' '.join(['make', target, *(f'{name}={value}' for name, value in typed.items())])}`"
    keys = SETTINGS | ({"RUN": "resume"} if target == "resume" else {})
    words = [f"{keys[name]}={value}" for name, value in typed.items()]
    words = ["env=cartpole" if word == "env.game=CartPole" else word for word in words]
    words += [str(more)] if more else []
    return f"`{' '.join(['atari-dqn', 'train' if target == 'resume' else target, *words])}`"
