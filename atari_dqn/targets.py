"""Learning targets: one pure function each, on time-indexed tensors. Shapes are [..., B] and [..., B, A]."""

import torch
from torch import Tensor


def dqn(r_t: Tensor, discount_t: Tensor, q_target_t: Tensor) -> Tensor:
    """y = r_t + discount_t * max_a Q_target(s_t, a), [..., B]. (Mnih et al. 2015, Algorithm 1.)

    discount_t is 0 where s_t is terminal, so that nothing is bootstrapped there.
    """
    return r_t + discount_t * q_target_t.amax(-1)


def loss(kind: str, reduction: str, q_tm1: Tensor, y: Tensor) -> Tensor:
    """The scalar loss of predictions q_tm1 against targets y.

    kind: `huber`, whose gradient is the paper's TD error clipped to [-1, 1]; or `squared`, (y - q)^2.
    reduction: `sum` over the batch as the paper's released code does, or `mean`.
    """
    if kind == "huber":
        return torch.nn.functional.huber_loss(q_tm1, y, reduction=reduction, delta=1.0)
    return torch.nn.functional.mse_loss(q_tm1, y, reduction=reduction)
