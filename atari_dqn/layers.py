"""Fully connected layers: fast ones, noisy ones, and streams of them."""

import itertools
import math
import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


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
        large = self.in_features * self.out_features > 1 << 16
        if large and HAS_ONE_DNN and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return OneDnnProduct.apply(x, self.weight, self.bias)
        return super().forward(x)


class NoisyDense(nn.Module):
    """A layer whose weights are uncertain, and learn how much: Noisy Networks (Fortunato et al. 2018, section 3).

    y = (W + S * e_out e_in^T) x + b + s * e_out, where W and b begin as they do elsewhere, S and s at
    sigma / sqrt(inputs), and e = f(normal noise), f(z) = sgn(z) sqrt|z| (eq. 10 and 11, "factorised").
    """

    def __init__(self, inputs: int, outputs: int, sigma: float) -> None:
        super().__init__()
        self.mean, self.spread = Dense(inputs, outputs), Dense(inputs, outputs)
        self.sizes, self._sigma = (inputs, outputs), sigma
        self.reset_spread()

    def reset_spread(self) -> None:
        for parameter in self.spread.parameters():
            nn.init.constant_(parameter, self._sigma / math.sqrt(self.sizes[0]))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x [B, inputs], noise [G, inputs + outputs]: e_in and e_out of each of G groups of rows -> [B, outputs]."""
        each = noise.unsqueeze(1).expand(-1, x.shape[0] // noise.shape[0], -1).flatten(0, 1)
        e_in, e_out = each.split(self.sizes, 1)
        return self.mean(x) + e_out * self.spread(x * e_in)  # no noisy matrix is made


class Stream(nn.Sequential):
    """Fully connected layers with ReLUs between them; `widths` from the features to the outputs.

    Args:
        noisy: sigma of noisy layers, or None for plain ones.
    """

    def __init__(self, widths: Sequence[int], noisy: float | None) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [Dense(inputs, outputs) if noisy is None else NoisyDense(inputs, outputs, noisy)]
            layers += [nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])
        self.noise_size = sum(sum(layer.sizes) for layer in layers if isinstance(layer, NoisyDense))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:  # type: ignore[override]
        """x [B, features], noise [G, noise_size] or None for the mean weights -> [B, outputs]."""
        for layer in self:
            if not isinstance(layer, NoisyDense):
                x = layer(x)
            elif noise is None:
                x = layer.mean(x)
            else:
                x, noise = layer(x, noise[:, : sum(layer.sizes)]), noise[:, sum(layer.sizes) :]
        return x
