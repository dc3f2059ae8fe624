"""Format numbers, names and errors for people."""

import difflib
from collections.abc import Iterable
from datetime import timedelta

LONG = 60  # characters of a value shown in an error


def shown(value: object) -> str:
    """A value as typed on the command line, shortened if long."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def suggest(word: str, options: Iterable[str]) -> str:
    """`" (did you mean X?)"` if one of `options` is similar to `word`, else empty."""
    plain = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), plain, n=1, cutoff=0.6)
    return f" (did you mean {plain[near[0]]}?)" if near else ""


def one_line(error: object, most: int = 200) -> str:
    """One line of at most `most` characters; an error without text gives the name of its type."""
    text = " ".join(str(error).split())[:most]
    return text or (type(error).__name__ if isinstance(error, BaseException) else "")


def plural(number: float, noun: str) -> str:
    """`1 game`, `1,000 games`, `0.25 GPUs`."""
    shown_number = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown_number} {noun}{'s' * (number != 1)}"


def some(names: Iterable[str], most: int = 5) -> str:
    """`a, b, c`, and `...` after so many."""
    listed = list(names)
    return ", ".join(listed[:most]) + " ..." * (len(listed) > most)


def compact(number: float) -> str:
    """1234567 -> 1.23M"""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{suffix}" if number < limit * 999.5 else f"{number / limit:.0f}{suffix}"
    return f"{number:.0f}"


def hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def memory_size(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number > 1e8 else f"{number / 1e6:.1f} MB"
