"""A replay in host memory beside a GPU: what it gives is brought to the agent, and the loop stays the same.

The ring itself is plain memory. Pinned, it would take up to twice as much, for torch rounds a pinned block up to a
power of two; and nothing would be gained, for the host gathers the frames of a batch anyway. Only these few megabytes
are pinned, on their way.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Way = Callable[..., Sequence[Tensor]]


class Courier:
    """Brings tensors to a device without waiting for it, always to the same places for the same shapes.

    So a CUDA graph can read them there. What was brought before is overwritten.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._pinned = device, device.type == "cuda"
        self._places: dict[object, list[Tensor]] = {}

    def __call__(self, *parts: Tensor) -> Sequence[Tensor]:
        key = tuple((part.shape, part.stride(), part.dtype) for part in parts)
        if key not in self._places:
            self._places[key] = [torch.empty_like(part, device=self._device) for part in parts]  # of the same strides
        for place, part in zip(self._places[key], parts, strict=True):
            # torch uses pinned memory again only after the copy that reads it.
            place.copy_(part.pin_memory() if self._pinned else part, non_blocking=self._pinned)
        return self._places[key]


def at_hand(*parts: Tensor) -> Sequence[Tensor]:
    """The same tensors, where they are wanted already."""
    return parts


def way(here: torch.device, there: torch.device) -> Way:
    """What brings a replay's tensors from its device to the agent's."""
    return at_hand if here == there else Courier(there)
