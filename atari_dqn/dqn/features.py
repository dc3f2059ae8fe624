"""What the fully connected layers see of a state: by convolutions, by an MLP, or by a network of your own."""

import abc
import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from atari_dqn.config import schema
from atari_dqn.dqn.inputs import Standardize, scaled
from atari_dqn.dqn.layers import Convolution
from atari_dqn.utils.errors import UserError


def same_padding(size: tuple[int, int], kernel: int, stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and after, for height and width, as TensorFlow's SAME: the odd one comes after."""
    height, width = (max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in size)
    return (height // 2, width // 2), (height - height // 2, width - width // 2)


# Channels, kernel and stride of each convolution, and the width of the layer that follows them.
CONVOLUTIONS = {
    "nature_cnn": (((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),  # Mnih et al. 2015
    "nips_cnn": (((16, 8, 4), (32, 4, 2)), 256),  # Mnih et al. 2013
    "small_cnn": (((32, 5, 5), (64, 5, 5)), 256),  # van Hasselt, Hessel and Aslanides 2019, "data-efficient"
}


class Features(nn.Module, abc.ABC):
    """What the fully connected layers see of a state.

    Attributes:
        widths: of the features, and of the hidden layer after them, if there is one.
    """

    widths: tuple[int, ...]

    @abc.abstractmethod
    def prepare(self, states: Tensor) -> Tensor:
        """States as stored [B, stack, *frame] -> what `forward` takes. What is prepared already stays as it is."""

    def standardize(self, frames: Tensor) -> None:
        """Measure the inputs' statistics from frames [n, *frame]; a no-op for most features."""


class Convolutions(Features):
    """Convolutions on uint8 stacks [B, stack, 84, 84] -> [B, widths[0]].

    Args:
        network: its `name`, one of CONVOLUTIONS, and its `padding`: `valid`, none, as in the Nature paper; or `same`,
            zeros around the pictures so that a convolution of stride s makes ceil(size / s) of size, as TensorFlow and
            Flax pad by default, and so Dopamine: 11x11x64 features. And `standardize`, see inputs.Standardize.
    """

    def __init__(self, network: schema.Network, frame_shape: Sequence[int], stack: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        (height, width), channels_in = frame_shape, stack
        convolutions, hidden = CONVOLUTIONS[network.name]
        for channels, kernel, stride in convolutions:
            before, after = (0, 0), (0, 0)
            if network.padding == "same":
                before, after = same_padding((height, width), kernel, stride)
            if before != after:  # torch's convolutions pad alike on both sides only
                layers.append(nn.ZeroPad2d((before[1], after[1], before[0], after[0])))
            layers += [
                Convolution(channels_in, channels, kernel, stride, before if before == after else 0),
                nn.ReLU(inplace=True),
            ]
            height = (height + before[0] + after[0] - kernel) // stride + 1
            width = (width + before[1] + after[1] - kernel) // stride + 1
            channels_in = channels
        self.convolutions = nn.Sequential(*layers)
        self.widths = channels * height * width, hidden
        self.standard = Standardize(stack, frame_shape) if network.standardize else None

    def standardize(self, frames: Tensor) -> None:
        if self.standard is not None:
            self.standard.measure(frames)

    def prepare(self, states: Tensor) -> Tensor:
        return scaled(states) if self.standard is None else self.standard(states)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolutions(x).permute(0, 2, 3, 1).flatten(1)  # in the order in which they lie in memory


class MLP(Features):
    """Fully connected layers on vectors [B, stack, features]; bytes become numbers from 0 to 1."""

    def __init__(self, network: schema.Network, frame_shape: Sequence[int], stack: int) -> None:
        super().__init__()
        sizes = [stack * int(torch.Size(frame_shape).numel()), *network.hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(sizes[:-1]):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.widths = tuple(sizes[-2:])

    def prepare(self, states: Tensor) -> Tensor:
        x = states.flatten(1).to(torch.float32)
        return x.mul_(1 / 255) if states.dtype == torch.uint8 else x

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Network(Protocol):
    """A network of your own: an nn.Module, made by `Name(frame_shape, stack, **network.arguments)`.

    frame_shape is a frame's, such as (84, 84) or (4,); `stack` frames are a state. It computes features, which fully
    connected layers take to each action's return: so all heads, Dueling and Noisy Networks combine with it. What it
    says of a state must not depend on the other states of a batch: use no BatchNorm and no dropout.

    Attributes:
        widths: how many features `forward` returns, and the sizes of the hidden layers between them and the outputs:
            (3136, 512) as in the Nature paper; (512,) for none.
    """

    widths: Sequence[int]

    def forward(self, x: Tensor) -> Tensor:
        """States float32 [B, stack, *frame] -> features [B, widths[0]]. Pictures' pixels are from 0 to 1 (or
        standardized, with network.standardize=true), in channels-last order."""


class OwnFeatures(Features):
    """A user's Network on states of any shape."""

    def __init__(self, module: nn.Module, network: schema.Network, frame_shape: Sequence[int], stack: int) -> None:
        super().__init__()
        check_own(module, network.name)
        self.module, self.widths = module, tuple(module.widths)  # type: ignore[arg-type]
        self.is_picture = len(frame_shape) == 2
        self.standard = Standardize(stack, frame_shape) if network.standardize and self.is_picture else None

    def standardize(self, frames: Tensor) -> None:
        if self.standard is not None:
            self.standard.measure(frames)

    def prepare(self, states: Tensor) -> Tensor:
        if self.is_picture:
            return scaled(states) if self.standard is None else self.standard(states)
        return states.to(torch.float32).mul_(1 / 255) if states.dtype == torch.uint8 else states.to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.module(x)
        return features


def check_own(own: object, name: str) -> None:
    """Raise UserError if a user's network lacks a Network's attributes."""
    if not isinstance(own, nn.Module):
        raise UserError(f"network={name} makes {type(own).__name__}, not a torch.nn.Module")
    for key, layer in own.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise UserError(f"network={name}: {key or 'it'} is TorchScript; give the module as it was before")
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        if layer.training and (drops or isinstance(layer, nn.modules.batchnorm._BatchNorm)):
            raise UserError(
                f"network={name}: {key or 'it'} is a {type(layer).__name__}, which looks beyond a state; "
                f"use LayerNorm or GroupNorm, or leave it out"
            )
    for key, weights in own.named_parameters():
        if weights.is_complex():
            raise UserError(
                f"network={name}: its parameter {key} is complex; torch.view_as_real makes it two real numbers"
            )
    widths = getattr(own, "widths", None)
    if not isinstance(widths, list | tuple) or not widths or not all(isinstance(n, int) and n > 0 for n in widths):
        raise UserError(
            f"network={name}: its `widths` must be the number of features and of the hidden units after them, such as "
            f"(3136, 512), not {widths!r:.60}"
        )
