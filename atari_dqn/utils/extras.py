"""Packages that only some commands need."""

import importlib.util

from atari_dqn.utils.errors import UserError


def need(extra: str, *modules: str) -> None:
    """Raise UserError, naming the extra that installs them, if one of `modules` is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{module} is not installed: pip install 'atari-dqn[{extra}]'")
