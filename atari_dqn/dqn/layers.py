"""Fully connected layers: fast ones, noisy ones, and streams of them."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atari_dqn.utils.onednn import HAS_ONE_DNN, OneDnnProduct


class Dense(nn.Linear):
    """torch's Linear, faster on a CPU where the layer is large.

    Attributes:
        in_bfloat16: multiply in bfloat16 where the layer is large; it takes any floats and returns float32.
    """

    in_bfloat16 = False
    _rounded: Tensor | None = None  # the weights in bfloat16, for all products on a CPU until they change
    _rounded_of: tuple[int, int] | None = None

    @property
    def is_large(self) -> bool:
        return self.in_features * self.out_features > 1 << 16

    def forward(self, x: Tensor) -> Tensor:
        large = self.is_large
        plain = x.device.type != "cpu" or torch.compiler.is_compiling()
        if large and self.in_bfloat16:
            rounded = self.weight.detach().bfloat16() if plain else self.rounded()
            return Bfloat16Product.apply(x, self.weight, self.bias, rounded)
        if large and HAS_ONE_DNN and not plain:
            return OneDnnProduct.apply(x, self.weight, self.bias)
        return super().forward(x.float())

    def rounded(self, anew: bool = False) -> Tensor:
        """The weights in bfloat16, in memory that stays; rounded again if they have changed, or `anew`."""
        now = self.weight.data_ptr(), self.weight._version
        if self._rounded is None:
            self._rounded = self.weight.detach().bfloat16()
        elif anew or now != self._rounded_of:
            self._rounded.copy_(self.weight.detach())
        self._rounded_of = now
        return self._rounded


class Bfloat16Product(torch.autograd.Function):
    """x @ w.T + b in bfloat16, with weights that were rounded before. The result and w's gradient are rounded, too, but
    given as float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, rounded: Tensor) -> Tensor:
        ctx.save_for_backward(x.bfloat16(), rounded)
        ctx.dtype = x.dtype
        return nn.functional.linear(x.bfloat16(), rounded, b.bfloat16()).float()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (x, rounded), low = ctx.saved_tensors, g.bfloat16()
        return (low @ rounded).to(ctx.dtype), (low.t() @ x).float(), g.sum(0), None


def convolution_product(x: Tensor, w: Tensor, b: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """A convolution as one matrix product; k is a multiple of the stride, and pictures end where a window does.

    Args:
        x: [B, H, W, C].
        w: [O, k, k, C].
        b: [O].
    Returns: [B, oh, ow, O], and the windows that were multiplied, [B * oh * ow, k * k * C].
    """
    k = w.shape[1]
    windows = x.unfold(1, k, stride).unfold(2, k, stride).permute(0, 1, 2, 4, 5, 3)  # [B, oh, ow, k, k, C]
    columns = windows.reshape(-1, w[0].numel())
    return torch.addmm(b, columns, w.flatten(1).t()).view(*windows.shape[:3], -1), columns


class ConvolutionProduct(torch.autograd.Function):
    """convolution_product with gradients by matrix products, too: deterministic, and on a GPU with small pictures and
    few channels faster than cuDNN's, once a compiler has fused the copies around them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, stride: int) -> Tensor:
        y, columns = convolution_product(x, w, b, stride)
        ctx.save_for_backward(columns, w)
        ctx.stride = stride
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        (columns, w), s, (batch, oh, ow, outputs) = ctx.saved_tensors, ctx.stride, g.shape
        rows = g.reshape(-1, outputs)
        dx = None
        if ctx.needs_input_grad[0]:
            # Each pixel lies in m x m windows; those that are i down and j right of a window's start have a part each.
            m, channels = w.shape[1] // s, w.shape[3]
            parts = (rows @ w.flatten(1)).view(batch, oh, ow, m, s, m, s, channels)
            shifted = [
                nn.functional.pad(
                    parts[:, :, :, i, :, j].transpose(2, 3), (0, 0, 0, 0, j, m - 1 - j, 0, 0, i, m - 1 - i)
                )
                for i in range(m)
                for j in range(m)
            ]
            dx = sum(shifted[1:], shifted[0]).reshape(batch, (oh + m - 1) * s, (ow + m - 1) * s, channels)
        return dx, (rows.t() @ columns).view_as(w), rows.sum(0), None


class Convolution(nn.Conv2d):
    """torch's Conv2d with square kernels.

    Attributes:
        as_product: compute it as ConvolutionProduct does, where sizes allow it.
    """

    as_product = False

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        fits = self.padding == (0, 0) and kernel % stride == 0 and all((n - kernel) % stride == 0 for n in x.shape[2:])
        if not (self.as_product and fits):
            return super().forward(x)
        assert self.bias is not None
        parts = x.permute(0, 2, 3, 1), self.weight.permute(0, 2, 3, 1), self.bias, stride
        y = ConvolutionProduct.apply(*parts) if torch.is_grad_enabled() else convolution_product(*parts)[0]
        return y.permute(0, 3, 1, 2)


class NoisyDense(nn.Module):
    """A layer whose weights are uncertain, and learn how much: Noisy Networks (Fortunato et al. 2018, section 3).

    y = (W + S * e_out e_in^T) x + b + s * e_out, where W and b begin at U(+-1/sqrt(inputs)), S and s at
    sigma / sqrt(inputs), and e = f(normal noise), f(z) = sgn(z) sqrt|z| (eq. 10 and 11, "factorised").
    """

    def __init__(self, inputs: int, outputs: int, sigma: float) -> None:
        super().__init__()
        self.mean, self.spread = Dense(inputs, outputs), Dense(inputs, outputs)
        self.sizes = (inputs, outputs)
        for parameter in self.spread.parameters():
            nn.init.constant_(parameter, sigma / math.sqrt(inputs))

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
