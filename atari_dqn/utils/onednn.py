"""Matrix products by oneDNN, which torch uses on some CPUs only."""

import platform
from typing import Any

import torch
from torch import Tensor


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
