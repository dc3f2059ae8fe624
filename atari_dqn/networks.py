"""Q-networks: a state in, one value for each action out."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atari_dqn.errors import UserError
from atari_dqn.machine import cpus


class NatureCNN(nn.Module):
    """The network of Mnih et al. 2015: three convolutions and a layer of 512, on uint8 stacks [B, stack, 84, 84].

    torch's default initialisation is Torch7's, which the paper's code used: U(+-1/sqrt(fan_in)).
    """

    def __init__(self, frame_shape: Sequence[int], stack: int, num_actions: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(stack, 32, 8, stride=4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(),
        )  # fmt: skip
        with torch.no_grad():
            features = self.convolutions(torch.zeros(1, stack, *frame_shape)).numel()
        self.head = nn.Sequential(nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, num_actions))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU

    def forward(self, states: Tensor) -> Tensor:
        """Q-values [B, A]."""
        x = states.to(torch.float32, memory_format=torch.channels_last).mul_(1 / 255)
        return self.head(self.convolutions(x).flatten(1))


class MLP(nn.Module):
    """A multi-layer perceptron on vector observations [B, stack, features]."""

    def __init__(self, frame_shape: Sequence[int], stack: int, num_actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [stack * int(torch.Size(frame_shape).numel()), *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(sizes):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
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
