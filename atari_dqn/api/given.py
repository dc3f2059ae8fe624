"""What a caller gives, checked: settings, paths, numbers. Everything wrong becomes a UserError."""

import functools
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from atari_dqn.config import overrides
from atari_dqn.config.schema import PlayProtocol
from atari_dqn.registry import plugins
from atari_dqn.utils.errors import RunFailed, UserError, explained
from atari_dqn.utils.text import one_line, shown

Given = ParamSpec("Given")
Made = TypeVar("Made")


def told(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Have errors of files and of memory come out as UserError and RunFailed, as a command tells them."""

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return function(*args, **kwargs)
        except (UserError, RunFailed):
            raise
        except Exception as error:
            known = explained(error)
            if known is error:
                raise
            raise known from error

    return call


def settings(given: object) -> list[str]:
    """The words of `"env.game=Pong seed=2"`, or of a sequence of such words. Raises UserError."""
    if isinstance(given, str):
        try:
            words = shlex.split(given)
        except ValueError as error:
            raise UserError(f"cannot read {shown(given)!r}: {str(error).lower()}") from None
    elif isinstance(given, Sequence) and all(isinstance(word, str) for word in given):
        words = list(given)
    else:
        raise UserError(
            f"settings={said(given)}: expected text such as 'env.game=Pong seed=2', or a list of such words"
        )
    for word in words:
        if word.startswith("-"):
            raise UserError(f"unknown option {word!r}; settings are written key=value, e.g. seed=2")
    return words


def path(key: str, given: object) -> str:
    """A path as text, with ~ expanded. Raises UserError for what cannot be one.

    Args:
        key: the setting that it stands for.
    """
    text = given if isinstance(given, str) else os.fspath(given) if isinstance(given, os.PathLike) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{key}={said(given)}: expected a path, as text or pathlib.Path; or 'latest'")
    return overrides.path(key, text)


def request(
    game: object = None, protocol: object = None, episodes: object = None, num_envs: object = None, seed: object = None
) -> list[str]:
    """The words of a request to evaluate; what is None is left out."""
    game = None if game is None else text("game", game)
    values = {"env.game": game, "evaluation.episodes": episodes, "evaluation.num_envs": num_envs, "seed": seed}
    words = [f"{key}={_typed(value)}" for key, value in values.items() if value is not None]
    if isinstance(protocol, PlayProtocol):
        protocol = {key: value for key, value in vars(protocol).items() if value is not None}
    if isinstance(protocol, str):
        words.append(f"protocol={protocol}")
    elif isinstance(protocol, Mapping):
        words += [f"protocol.{key}={_typed(value)}" for key, value in protocol.items()]
    elif protocol is not None:
        raise UserError(
            f"protocol={said(protocol)}: expected a name such as 'nature', or a dictionary of changes such as "
            f"{{'epsilon': 0.01}}"
        )
    return words


def _typed(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, str):
        return value
    return "null" if value is None else one_line(str(value).lower() if isinstance(value, bool) else value, 1000)


def share(key: str, given: object) -> float:
    """A number from 0 to 1. Raises UserError."""
    try:
        number = math.nan if isinstance(given, bool | str | bytes) else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not 0 <= number <= 1:
        raise UserError(f"{key}={said(given)}: expected a number from 0 to 1")
    return number


def whole(key: str, given: object, low: int, high: int) -> int:
    """A whole number in a range. Raises UserError."""
    try:
        number = low - 1 if isinstance(given, bool) else given.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        number = low - 1
    if not low <= number <= high:
        raise UserError(f"{key}={said(given)}: expected a whole number from {low} to {high:,}")
    return int(number)


def plugin(kind: plugins.Kind, given: object) -> str:
    """The name of a class of the caller's, or an import path, which counts as typed. Raises UserError."""
    if isinstance(given, str):
        plugins.allow(kind, given)
        return given
    if not callable(given) or not hasattr(given, "__qualname__"):
        raise UserError(
            f"{kind.setting}={said(given)}: expected a class, or its import path, my_package.my_module:Name"
        )
    return plugins.path_of(given)


def text(key: str, given: object) -> str:
    """Text. Raises UserError for anything else."""
    if not isinstance(given, str):
        raise UserError(f"{key}={said(given)}: expected text")
    return given


def said(value: object) -> str:
    """A value in a message."""
    return shown(one_line(repr(value), 1000))
