"""Learning targets and losses: one pure function each, on time-indexed tensors.

Shapes: r_t, discount_t [...]; q [..., A], expected returns; z [..., A, n], n samples or quantiles of the return.
discount_t is gamma^k after k steps, and 0 where s_t is terminal, so that nothing is bootstrapped there.
"""

import torch
from torch import Tensor


def greedy(r_t: Tensor, discount_t: Tensor, z_t: Tensor, q_select_t: Tensor) -> Tensor:
    """y = r_t + discount_t * z_t[a*], a* = argmax_a q_select_t[a]; [..., n].

    z_t is the target network's at s_t, and
    - DQN (Mnih et al. 2015, Algorithm 1): n = 1, q_select_t is z_t itself, so y = r_t + discount_t max_a Q(s_t, a);
    - Double DQN (van Hasselt, Guez and Silver 2016, eq. 4): q_select_t is the online network's;
    - QR-DQN and IQN (Dabney et al. 2018a, eq. 11; 2018b, eq. 2): n quantiles, each bootstrapped separately.
    """
    z = z_t.take_along_dim(q_select_t.argmax(-1)[..., None, None], -2).squeeze(-2)
    return r_t.unsqueeze(-1) + discount_t.unsqueeze(-1) * z


def munchausen(
    r_t: Tensor,
    discount_t: Tensor,
    z_t: Tensor,
    q_t: Tensor,
    q_tm1: Tensor,
    a_tm1: Tensor,
    alpha: float,
    temperature: float,
    floor: float,
) -> Tensor:
    """y = r_t + alpha [T ln pi(a_tm1 | s_tm1)]^0_floor + discount_t sum_a pi(a | s_t) (z_t[a] - T ln pi(a | s_t))

    [..., n]; pi = softmax(q / T), all of the target network. (Vieillard, Pietquin and Geist 2020, eq. 1 and 2, with
    l_0 = floor; for quantiles their M-IQN, appendix B.)
    """
    scaled_log_pi_tm1 = temperature * (q_tm1 / temperature).log_softmax(-1)
    bonus = alpha * scaled_log_pi_tm1.gather(-1, a_tm1.unsqueeze(-1)).clamp(floor, 0)
    log_pi_t = (q_t / temperature).log_softmax(-1).unsqueeze(-1)
    soft = (log_pi_t.exp() * (z_t - temperature * log_pi_t)).sum(-2)
    return r_t.unsqueeze(-1) + bonus + discount_t.unsqueeze(-1) * soft


def categorical(r_t: Tensor, discount_t: Tensor, p_t: Tensor, q_select_t: Tensor, support: Tensor) -> Tensor:
    """The distribution of r_t + discount_t * Z_target(s_t, a*), on the support's n returns again; [..., n].

    m_i = sum_j [1 - |[r_t + discount_t z_j]^vmax_vmin - z_i| / Delta z]^1_0 p_j(s_t, a*)

    p_t [..., A, n] are the target network's probabilities of the returns `support` [n], evenly spaced.
    (Bellemare, Dabney and Munos 2017, eq. 7. Double: a* by the online network's q_select_t, as in Rainbow.)
    """
    p = p_t.take_along_dim(q_select_t.argmax(-1)[..., None, None], -2)  # [..., 1, n]
    moved = r_t.unsqueeze(-1) + discount_t.unsqueeze(-1) * support
    moved = moved.clamp(support[0], support[-1]).unsqueeze(-2)
    near = 1 - (moved - support.unsqueeze(-1)).abs() / (support[1] - support[0])  # [..., n to, n from]
    return (near.clamp(0, 1) * p).sum(-1)


def error_loss(kind: str, q_tm1: Tensor, y: Tensor) -> Tensor:
    """The loss of each prediction q_tm1 against y, any shape.

    kind: `huber`, whose gradient is the Nature paper's TD error clipped to [-1, 1]; or `squared`, (y - q)^2.
    """
    if kind == "huber":
        return torch.nn.functional.huber_loss(q_tm1, y, reduction="none", delta=1.0)
    return torch.nn.functional.mse_loss(q_tm1, y, reduction="none")


def divergence(logits_tm1: Tensor, y: Tensor) -> Tensor:
    """KL(y || softmax(logits_tm1)), [B] of [B, n]. (Bellemare, Dabney and Munos 2017, Algorithm 1; Hessel et al. 2018.)

    Its gradient is the cross-entropy's; its least value is 0.
    """
    return (torch.special.xlogy(y, y) - y * logits_tm1.log_softmax(-1)).sum(-1)


def quantile_huber(z_tm1: Tensor, taus: Tensor, y: Tensor) -> Tensor:
    """sum_i mean_j |tau_i - 1{u_ij < 0}| L_1(u_ij), u_ij = y_j - z_i; [B].

    z_tm1 [B, n] are quantiles taus [B, n]; y [B, m] are samples or quantiles of the target. (Dabney et al. 2018a, eq. 9
    and 10; 2018b, eq. 3; kappa = 1.)
    """
    z, y, tau = (
        part.expand(*z_tm1.shape, y.shape[-1]) for part in (z_tm1[..., None], y[..., None, :], taus[..., None])
    )
    side = torch.where(y < z.detach(), 1 - tau, tau)  # [B, n, m]
    return (side * torch.nn.functional.huber_loss(z, y, reduction="none")).mean(-1).sum(-1)
