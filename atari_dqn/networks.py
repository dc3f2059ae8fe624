"""Q-networks: a state in, one value for each action out."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atari_dqn.errors import UserError
from atari_dqn.machine import cpus


def scaled(states: Tensor) -> Tensor:
    """uint8 stacks [B, C, H, W] as floats from 0 to 1 in channels-last order. Floats are taken as they are."""
    if states.dtype != torch.uint8:
        return states.to(torch.float32).contiguous(memory_format=torch.channels_last)
    if states.shape[1] == 4 and states.device.type == "cpu":
        # Four planes of bytes into one of little-endian words: the same numbers in a third of the time.
        planes = states.to(torch.int32)
        words = planes[:, 0] | planes[:, 1] << 8 | planes[:, 2] << 16 | planes[:, 3] << 24
        channels_last = words.unsqueeze(3).view(torch.uint8).permute(0, 3, 1, 2)
    else:
        channels_last = states.contiguous(memory_format=torch.channels_last)
    return channels_last.to(torch.float32).mul_(1 / 255)


class NatureCNN(nn.Module):
    """The network of Mnih et al. 2015: three convolutions and a layer of 512, on uint8 stacks [B, stack, 84, 84].

    torch's default initialisation is Torch7's, which the paper's code used: U(+-1/sqrt(fan_in)).
    """

    def __init__(self, frame_shape: Sequence[int], stack: int, num_actions: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(stack, 32, 8, stride=4), nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        with torch.no_grad():
            features = self.convolutions(torch.zeros(1, stack, *frame_shape)).numel()
        self.head = nn.Sequential(nn.Linear(features, 512), nn.ReLU(inplace=True), nn.Linear(512, num_actions))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU

    def forward(self, states: Tensor) -> Tensor:
        """Q-values [B, A]."""
        return self.head(self.convolutions(scaled(states)).flatten(1))


class MLP(nn.Module):
    """A multi-layer perceptron on vector observations [B, stack, features]."""

    def __init__(self, frame_shape: Sequence[int], stack: int, num_actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [stack * int(torch.Size(frame_shape).numel()), *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(sizes):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_actions))

    def forward(self, states: Tensor) -> Tensor:
        """Q-values [B, A]."""
        return self.layers(states.flatten(1).to(torch.float32))


def set_threads(name: str) -> None:
    """Let torch use as many CPU threads as the network called `name` gains from; an MLP is too small to share."""
    torch.set_num_threads(1 if name == "mlp" else cpus())


def build(name: str, hidden: Sequence[int], frame_shape: Sequence[int], stack: int, num_actions: int) -> nn.Module:
    """The network called `name`. Raises UserError where it cannot see such frames."""
    if name == "mlp":
        return MLP(frame_shape, stack, num_actions, hidden)
    if name == "nature_cnn":
        if len(frame_shape) != 2 or min(frame_shape) < 36:
            raise UserError(f"network=nature_cnn needs pictures of 36x36 or more, not {frame_shape}; use network=mlp")
        return NatureCNN(frame_shape, stack, num_actions)
    raise UserError(f"no network is called {name!r}; known: nature_cnn, mlp")
