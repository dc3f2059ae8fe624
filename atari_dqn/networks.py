"""Q-networks: a state in, one value for each action out."""

import itertools
import platform
from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import torch
from torch import Tensor, nn

from atari_dqn.errors import UserError
from atari_dqn.machine import cpus


def scaled(states: Tensor) -> Tensor:
    """uint8 stacks [B, C, H, W] as floats from 0 to 1 in channels-last order. Floats are taken as they are."""
    if states.dtype != torch.uint8:
        return states.to(torch.float32).contiguous(memory_format=torch.channels_last)
    if states.device.type == "cpu" and not torch.compiler.is_compiling():
        states = interleaved(states)
    return states.to(torch.float32, memory_format=torch.channels_last).mul_(1 / 255)


def interleaved(states: Tensor) -> Tensor:
    """The same bytes [B, C, H, W] in channels-last order, by OpenCV: several times faster than torch."""
    batch, stack, height, width = states.shape
    planes = [plane.contiguous().view(-1, width).numpy() for plane in states.unbind(1)]
    return torch.from_numpy(cv2.merge(planes)).view(batch, height, width, stack).permute(0, 3, 1, 2)


class OneDnnProduct(torch.autograd.Function):
    """x @ w.T + b and its gradients by oneDNN. torch asks MKL, which takes twice as long on an AMD CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return _one_dnn(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return _one_dnn(g, w.t(), None), _one_dnn(g.t().contiguous(), x.t(), None), g.sum(0)


def _one_dnn(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")


HAS_ONE_DNN = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # torch's compiler uses it; it has no public name
)


class Dense(nn.Linear):
    """torch's Linear, faster on a CPU where the layer is large."""

    def forward(self, x: Tensor) -> Tensor:
        if HAS_ONE_DNN and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return OneDnnProduct.apply(x, self.weight, self.bias)
        return super().forward(x)


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
        self.head = nn.Sequential(Dense(features, 512), nn.ReLU(inplace=True), nn.Linear(512, num_actions))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU

    prepare = staticmethod(scaled)  # what forward begins with, and leaves as it is where it is done

    def forward(self, states: Tensor) -> Tensor:
        """Q-values [B, A]."""
        features = self.convolutions(self.prepare(states))
        return self.head(features.permute(0, 2, 3, 1).flatten(1))  # in the order in which they lie in memory


class MLP(nn.Module):
    """A multi-layer perceptron on vector observations [B, stack, features]."""

    def __init__(self, frame_shape: Sequence[int], stack: int, num_actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [stack * int(torch.Size(frame_shape).numel()), *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(sizes):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_actions))

    @staticmethod
    def prepare(states: Tensor) -> Tensor:
        return states.flatten(1).to(torch.float32)

    def forward(self, states: Tensor) -> Tensor:
        """Q-values [B, A]."""
        return self.layers(self.prepare(states))


def set_threads(name: str) -> None:
    """Let torch use as many CPU threads as the network called `name` gains from; an MLP is too small to share."""
    torch.set_num_threads(1 if name == "mlp" else cpus())


QNetwork: TypeAlias = NatureCNN | MLP


def build(name: str, hidden: Sequence[int], frame_shape: Sequence[int], stack: int, num_actions: int) -> QNetwork:
    """The network called `name`. Raises UserError where it cannot see such frames."""
    if name == "mlp":
        return MLP(frame_shape, stack, num_actions, hidden)
    if name == "nature_cnn":
        if len(frame_shape) != 2 or min(frame_shape) < 36:
            raise UserError(f"network=nature_cnn needs pictures of 36x36 or more, not {frame_shape}; use network=mlp")
        return NatureCNN(frame_shape, stack, num_actions)
    raise UserError(f"no network is called {name!r}; known: nature_cnn, mlp")
