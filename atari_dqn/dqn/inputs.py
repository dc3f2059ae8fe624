"""Stacks of pictures as a network's inputs."""

from collections.abc import Sequence

import cv2
import torch
from torch import Tensor, nn

PART = 32  # states: so many stay in a core's cache


def scaled(states: Tensor) -> Tensor:
    """uint8 stacks [B, C, H, W] as floats from 0 to 1 in channels-last order. Floats are taken as they are."""
    if states.dtype != torch.uint8:
        return states.to(torch.float32).contiguous(memory_format=torch.channels_last)
    is_interleaved = states.is_contiguous(memory_format=torch.channels_last)
    if states.device.type == "cpu" and not is_interleaved and not torch.compiler.is_compiling():
        states = interleaved(states)
    return states.to(torch.float32, memory_format=torch.channels_last).mul_(1 / 255)


def interleaved(states: Tensor) -> Tensor:
    """The same bytes [B, C, H, W] in channels-last order, by OpenCV: several times faster than torch."""
    batch, stack, height, width = states.shape
    planes = [plane.contiguous().view(-1, width).numpy() for plane in states.unbind(1)]
    return torch.from_numpy(cv2.merge(planes)).view(batch, height, width, stack).permute(0, 3, 1, 2)


class Standardize(nn.Module):
    """Pictures minus their mean, over their standard deviation (LeCun et al. 1998, "Efficient BackProp", 4.3).

    An Atari's background is 10 to 30 times as strong as all that moves before it, and gradient descent is slow where
    inputs are so uneven. Mean and deviation are `measure`d once, of random play, and stay with the weights: a mean for
    each pixel, one deviation for all. Black frames, which fill a stack before a game's start, become zeros; they would
    be the strongest inputs of all.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, stack: int, frame_shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, stack, *frame_shape))  # the same for each frame of a stack
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def measure(self, frames: Tensor) -> None:
        """Take mean and deviation of frames uint8 [n, H, W]."""
        frames = frames.float() / 255
        mean = frames.mean(0)
        self.mean.copy_(mean.expand_as(self.mean))
        self.scale.copy_(1 / (frames - mean).std().clamp(min=1 / 255))

    def forward(self, states: Tensor) -> Tensor:
        """uint8 stacks [B, C, H, W] standardized, in channels-last order. Floats are taken as they are."""
        if states.dtype != torch.uint8:
            return scaled(states)
        if torch.compiler.is_compiling() or states.device.type != "cpu" or len(states) <= PART:
            return self._part(states)
        return torch.cat([self._part(some) for some in states.split(PART)])

    def _part(self, states: Tensor) -> Tensor:
        black = states.flatten(2).amax(2) == 0
        x = scaled(states).sub_(self.mean).mul_(self.scale)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            for state, frame in black.nonzero().tolist():  # there are few; a mask costs three times the rest
                x[state, frame] = 0
            return x
        return x.masked_fill_(black[:, :, None, None], 0)
