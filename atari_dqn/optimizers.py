"""Nature's RMSProp, which no library has, and torch's own optimisers by name."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from atari_dqn.errors import UserError
from atari_dqn.games import suggest

UNSUITED = ("Optimizer", "LBFGS", "SparseAdam")  # want closures or sparse gradients
FUSED = ("Adam", "AdamW", "SGD")  # torch's one-kernel versions, on CPU and GPU


class NatureRMSProp(torch.optim.Optimizer):
    """The optimiser of the Nature paper's released code (Graves 2013, eq. 40), for gradients *summed* over the batch.

    g <- d g + (1 - d) dw;  v <- d v + (1 - d) dw^2;  w <- w - lr dw / sqrt(v - g^2 + eps)

    The square root covers eps, unlike torch's RMSprop(centered=True). There is no momentum on the step: the paper's
    "gradient momentum 0.95" is the decay of g.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 2.5e-4, decay: float = 0.95, eps: float = 0.01) -> None:
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
    lr: float,
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
    torch._foreach_addcdiv_(params, grads, scales, -lr)


def can_be_recorded(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a CUDA graph of its steps stays right: nothing in them is counted in Python."""
    plain = isinstance(optimizer, NatureRMSProp | torch.optim.SGD)
    return plain or all(group.get("capturable") for group in optimizer.param_groups)


def build(
    name: str, params: Iterable[Tensor], learning_rate: float, arguments: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimiser called `name`: NatureRMSProp or any of torch.optim."""
    known: dict[str, Any] = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and key not in UNSUITED
    }
    known["NatureRMSProp"] = NatureRMSProp
    params = list(params)
    if name not in known:
        raise UserError(f"no optimizer is called {name!r}{suggest(name, known)}; known: {', '.join(sorted(known))}")
    if name in FUSED:
        arguments = {"fused": True} | arguments
    if params[0].is_cuda and "capturable" in inspect.signature(known[name]).parameters:
        arguments = {"capturable": True} | arguments  # its step count on the device, for CUDA graphs
    try:
        optimizer: torch.optim.Optimizer = known[name](params, lr=learning_rate, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer.arguments do not suit {name}: {error}") from None
    return optimizer
