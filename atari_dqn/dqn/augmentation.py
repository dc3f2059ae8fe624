"""Random changes of the pictures that a network learns from: "DrQ" (Yarats, Kostrikov and Fergus 2021, section 3).

The network never sees the same state twice, so that it cannot learn a small replay by heart. It acts on pictures as
they are.
"""

from typing import NamedTuple

import cv2
import torch
from torch import Tensor

from atari_dqn.dqn.inputs import interleaved


class Kind(NamedTuple):
    """How pictures are changed.

    Attributes:
        least, most: a shift, in pixels, down as well as right; all are equally likely.
        brightness: pixels are multiplied by 1 + brightness * clip(N(0, 1), -2, 2).
    """

    least: int
    most: int
    brightness: float


KINDS = {
    "shift": Kind(-4, 4, 0.0),  # Yarats et al. 2021: pad by 4 pixels, crop anywhere
    # google/dopamine at 5873f54, labs/atari_100k/atari_100k_rainbow_agent.py: jax.random.randint leaves out the last
    # crop, and the brightness follows Schwarzer et al. 2021 (SPR).
    "drq": Kind(-3, 4, 0.05),
}


class Change(NamedTuple):
    """What happens to each of B states; all of its frames are changed alike."""

    down: Tensor  # int64 [B], pixels
    right: Tensor  # int64 [B], pixels
    factor: Tensor | None  # float32 [B], of the brightness


def draw(kind: str, states: int, generator: torch.Generator, device: torch.device) -> Change:
    """Changes for so many states."""
    least, most, brightness = KINDS[kind]
    down, right = torch.randint(least, most + 1, (2, states), generator=generator, device=device)
    if not brightness:
        return Change(down, right, None)
    noise = torch.randn(states, generator=generator, device=device).clamp(-2, 2)
    return Change(down, right, 1 + brightness * noise)


def shifted(states: Tensor, change: Change) -> Tensor:
    """Pictures [B, C, H, W], moved; what is uncovered repeats the picture's edge. Bytes on a CPU become
    channels-last."""
    bytes_here = states.dtype == torch.uint8 and states.device.type == "cpu" and not torch.compiler.is_compiling()
    if bytes_here and min(states.shape[2:]) > 4:
        return _shifted_by_opencv(states, change)
    return shifted_by_index(states, change)


def shifted_by_index(states: Tensor, change: Change) -> Tensor:
    """The same, in plain torch."""
    (batch, channels, height, width), device = states.shape, states.device
    rows = (torch.arange(height, device=device) - change.down[:, None]).clamp(0, height - 1)  # [B, H]
    columns = (torch.arange(width, device=device) - change.right[:, None]).clamp(0, width - 1)  # [B, W]
    batches = torch.arange(batch, device=device)[:, None, None, None]
    return states[batches, torch.arange(channels, device=device)[:, None, None], rows[:, None, :, None],
                  columns[:, None, None, :]]  # fmt: skip


def _shifted_by_opencv(states: Tensor, change: Change) -> Tensor:
    """The same by OpenCV, much faster: a copy of what stays, and of the edges."""
    pictures = interleaved(states).permute(0, 2, 3, 1).numpy()
    moved = torch.empty(pictures.shape, dtype=torch.uint8)
    for source, place, down, right in zip(
        pictures, moved.numpy(), change.down.tolist(), change.right.tolist(), strict=True
    ):
        height, width = source.shape[:2]
        stays = source[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
        cv2.copyMakeBorder(
            stays, max(0, down), max(0, -down), max(0, right), max(0, -right), cv2.BORDER_REPLICATE, dst=place
        )
    return moved.permute(0, 3, 1, 2)
