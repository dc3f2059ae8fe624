"""The RMSProp variant of the Nature paper, which no library provides."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class NatureRMSProp(torch.optim.Optimizer):
    """The optimizer of the Nature paper's released code (Graves 2013, eq. 40), for gradients *summed* over the batch.

    g <- d g + (1 - d) dw;  v <- d v + (1 - d) dw^2;  w <- w - lr dw / sqrt(v - g^2 + eps)

    The square root covers eps, unlike torch's RMSprop(centered=True). There is no momentum on the step: the paper's
    "gradient momentum 0.95" is the decay of g.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 2.5e-4, decay: float = 0.95, eps: float = 0.01) -> None:
        if not 0 <= decay < 1 or not 0 < eps < math.inf:
            raise ValueError(f"decay={decay:g} must be from 0 to below 1, eps={eps:g} above 0")
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps})
        self._apply: Callable[..., None] = nature_rmsprop

    def compile(self) -> None:
        """One kernel in place of eight."""
        self._apply = torch.compile(nature_rmsprop, dynamic=False, fullgraph=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
            grads = [p.grad for p in params]
            means = [self.state[p]["mean"] for p in params]
            squares = [self.state[p]["square"] for p in params]
            self._apply(params, grads, means, squares, group["lr"], group["decay"], group["eps"])


def nature_rmsprop(
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    lr: float | Tensor,
    decay: float,
    eps: float,
) -> None:
    """A step of NatureRMSProp, in place."""
    torch._foreach_lerp_(means, grads, 1 - decay)
    torch._foreach_mul_(squares, decay)
    torch._foreach_addcmul_(squares, grads, grads, 1 - decay)
    scales = torch._foreach_addcmul(squares, means, means, -1)  # v - g^2
    torch._foreach_clamp_min_(scales, 0)  # which rounding can push below 0
    torch._foreach_add_(scales, eps)
    torch._foreach_sqrt_(scales)
    if isinstance(lr, Tensor):  # which addcdiv would have to read on the host
        steps = torch._foreach_div(grads, scales)
        torch._foreach_mul_(steps, -lr)
        torch._foreach_add_(params, steps)
    else:
        torch._foreach_addcdiv_(params, grads, scales, -lr)


def can_be_recorded(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a CUDA graph of its steps stays right: nothing in them is counted or read in Python."""
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], Tensor) and (
        isinstance(optimizer, torch.optim.ASGD)
        or (isinstance(optimizer, torch.optim.SGD) and not group["fused"])
        or (isinstance(optimizer, torch.optim.RMSprop | torch.optim.Adadelta) and group["foreach"] is False)
    ):
        return False  # these read it
    plain = isinstance(optimizer, NatureRMSProp | torch.optim.SGD)
    return plain or all(group.get("capturable") for group in optimizer.param_groups)
