"""Q-networks: a state in, one value for each action out."""

import itertools
import platform
from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import torch
from torch import Tensor, nn

from atari_dqn import config
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


def same_padding(size: tuple[int, int], kernel: int, stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and after, for height and width, as TensorFlow's SAME: the odd one comes after."""
    height, width = (max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in size)
    return (height // 2, width // 2), (height - height // 2, width - width // 2)


# Channels, kernel and stride of each convolution, and the width of the layer that follows them.
CONVOLUTIONS = {
    "nature_cnn": (((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),  # Mnih et al. 2015
    "small_cnn": (((32, 5, 5), (64, 5, 5)), 256),  # "data-efficient": van Hasselt, Hessel and Aslanides 2019, App. E
}


class CNN(nn.Module):
    """Convolutions and a layer, on uint8 stacks [B, stack, 84, 84].

    Args:
        name: one of CONVOLUTIONS.
        padding: `valid`, none, as in the paper; or `same`, zeros around the pictures so that a convolution of stride s
            makes ceil(size / s) of size, as TensorFlow and Flax pad by default, and so Dopamine: 11x11x64 features.
        initialization: `torch`, U(+-1/sqrt(fan_in)), which is Torch7's and so the paper's code's; or `xavier`, Glorot
            and Bengio 2010, eq. 16, with biases of 0, as in Dopamine.
    """

    def __init__(
        self,
        name: str,
        frame_shape: Sequence[int],
        stack: int,
        num_actions: int,
        padding: str = "valid",
        initialization: str = "torch",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        (height, width), channels_in = frame_shape, stack
        convolutions, hidden = CONVOLUTIONS[name]
        for channels, kernel, stride in convolutions:
            before, after = (0, 0), (0, 0)
            if padding == "same":
                before, after = same_padding((height, width), kernel, stride)
            if before != after:  # torch's convolutions pad alike on both sides only
                layers.append(nn.ZeroPad2d((before[1], after[1], before[0], after[0])))
            layers += [
                nn.Conv2d(channels_in, channels, kernel, stride, before if before == after else 0),
                nn.ReLU(inplace=True),
            ]
            height = (height + before[0] + after[0] - kernel) // stride + 1
            width = (width + before[1] + after[1] - kernel) // stride + 1
            channels_in = channels
        self.convolutions = nn.Sequential(*layers)
        features = channels * height * width
        self.head = nn.Sequential(Dense(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_actions))
        if initialization == "xavier":
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
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


QNetwork: TypeAlias = CNN | MLP


def build(network: config.Network, frame_shape: Sequence[int], stack: int, num_actions: int) -> QNetwork:
    """The network that a config asks for. Raises UserError where it cannot see such frames."""
    if network.name == "mlp":
        return MLP(frame_shape, stack, num_actions, network.hidden)
    if network.name in CONVOLUTIONS:
        if len(frame_shape) != 2 or min(frame_shape) < 36:
            raise UserError(
                f"network={network.name} needs pictures of 36x36 or more, not {frame_shape}; use network=mlp"
            )
        return CNN(network.name, frame_shape, stack, num_actions, network.padding, network.initialization)
    raise UserError(f"no network is called {network.name!r}; known: {', '.join(CONVOLUTIONS)}, mlp")
