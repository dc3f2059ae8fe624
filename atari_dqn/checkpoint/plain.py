"""What a checkpoint can keep."""

from typing import Any

from torch import Tensor

from atari_dqn.utils.errors import RunFailed

DEEPEST = 100  # lists and dicts in one another


def plain(state: Any, whose: str) -> Any:
    """Return a `state` that a checkpoint can keep: plain data and tensors. Raises RunFailed.

    Args:
        whose: starts the message.
    """
    left = [(state, 0)]
    while left:
        node, depth = left.pop()
        if depth > DEEPEST:
            raise RunFailed(f"{whose} has a state that contains itself, or is nested more than {DEEPEST} deep")
        if isinstance(node, dict):
            left += [(part, depth + 1) for part in (*node, *node.values())]
        elif type(node) in (list, tuple):
            left += [(part, depth + 1) for part in node]
        elif type(node) not in (bool, int, float, str, Tensor, type(None)):
            raise RunFailed(
                f"{whose} has a state that a checkpoint cannot keep, {type(node).__name__}; use numbers, strings, "
                f"lists, dicts and tensors"
            )
    return dict(state) if isinstance(state, dict) else state
