"""Every target and loss against a slow transcription of its paper's equation, on hand-made transitions."""

import math

import numpy as np
import pytest
import torch

from atari_dqn.dqn import targets

# Six transitions of three actions: ordinary, terminal, cut off (bootstrapped from like an ordinary one), the tail of a
# 3-step one that ended after two, ties between actions, and returns beyond any support.
R_T = [1.0, -1.0, 0.5, 0.81, 0.0, 30.0]
DISCOUNT_T = [0.9, 0.0, 0.9, 0.81, 0.9, 0.729]
A_TM1 = [0, 2, 1, 1, 0, 2]
Q_TARGET = [[2.0, 3.0, 1.0], [50.0, 60.0, 7.0], [-1.0, -2.0, -3.0], [0.0, 0.5, 0.25], [1.0, 1.0, 1.0], [9.0, 8.0, 7.0]]
Q_ONLINE = [[5.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-3.0, -2.0, -1.0], [1.0, 1.0, 0.0], [2.0, 2.0, 2.0], [0.0, 1.0, 2.0]]
B, A = 6, 3


def tensors(*parts):
    return [torch.tensor(part, dtype=torch.float32) for part in parts]


def outputs(n: int) -> np.ndarray:
    """Something for [B, A, n]."""
    return np.random.default_rng(n).normal(size=(B, A, n)).astype(np.float32)


def first_best(values) -> int:
    """The best action; of equal ones the first."""
    return max(range(len(values)), key=lambda a: (values[a], -a))


@pytest.mark.parametrize("q_select", [Q_TARGET, Q_ONLINE], ids=["DQN", "Double"])
def test_dqn_and_double(q_select):
    r_t, discount_t, z_t, select = tensors(R_T, DISCOUNT_T, Q_TARGET, q_select)
    y = targets.greedy(r_t, discount_t, z_t.unsqueeze(-1), select)
    slow = [R_T[b] + DISCOUNT_T[b] * Q_TARGET[b][first_best(q_select[b])] for b in range(B)]
    assert y.squeeze(-1).tolist() == pytest.approx(slow, rel=1e-6)
    by_hand = {"DQN": [3.7, -1.0, -0.4], "Double": [2.8, -1.0, -2.2]}
    assert slow[:3] == pytest.approx(by_hand["DQN" if q_select is Q_TARGET else "Double"])


def test_quantiles_are_bootstrapped_from_apart():
    z_t = outputs(4)
    y = targets.greedy(*tensors(R_T, DISCOUNT_T, z_t, Q_ONLINE))
    for b in range(B):
        for i in range(4):
            assert y[b, i].item() == pytest.approx(
                R_T[b] + DISCOUNT_T[b] * z_t[b, first_best(Q_ONLINE[b]), i], rel=1e-5
            )


@pytest.mark.parametrize("n", [1, 5], ids=["M-DQN", "M-IQN"])
def test_munchausen(n):
    alpha, temperature, floor = 0.9, 0.3, -1.0
    z_t = outputs(n) * 2
    q_t, q_tm1 = z_t.mean(-1), np.array(Q_ONLINE)
    y = targets.munchausen(*tensors(R_T, DISCOUNT_T, z_t, q_t, q_tm1), torch.tensor(A_TM1), alpha, temperature, floor)

    def policy(q):
        weights = [math.exp((value - max(q)) / temperature) for value in q]
        return [weight / sum(weights) for weight in weights]

    clipped = 0
    for b in range(B):
        log = temperature * math.log(max(policy(q_tm1[b])[A_TM1[b]], 1e-300))
        clipped += log < floor
        bonus = alpha * min(0.0, max(floor, log))
        pi = policy(q_t[b])
        for i in range(n):
            soft = sum(pi[a] * (z_t[b, a, i] - temperature * math.log(pi[a])) for a in range(A))
            assert y[b, i].item() == pytest.approx(R_T[b] + bonus + DISCOUNT_T[b] * soft, rel=1e-4, abs=1e-4)
    assert 0 < clipped < B
    # Without its bonus and at a low temperature it is DQN's.
    cold = targets.munchausen(*tensors(R_T, DISCOUNT_T, z_t, q_t, q_tm1), torch.tensor(A_TM1), 0.0, 1e-3, floor)
    torch.testing.assert_close(cold, targets.greedy(*tensors(R_T, DISCOUNT_T, z_t, q_t)), rtol=1e-3, atol=1e-3)


def projected(r: float, discount: float, p, support) -> list[float]:
    """Algorithm 1 of Bellemare et al. 2017, with the share of an atom that is hit exactly kept whole."""
    low, high, spacing = support[0], support[-1], support[1] - support[0]
    m = [0.0] * len(support)
    for j, z in enumerate(support):
        place = (min(high, max(low, r + discount * z)) - low) / spacing
        lower, upper = math.floor(place), math.ceil(place)
        if lower == upper:
            m[lower] += p[j]
        else:
            m[lower] += p[j] * (upper - place)
            m[upper] += p[j] * (place - lower)
    return m


@pytest.mark.parametrize("support", [[-2.0, -1.0, 0.0, 1.0, 2.0], [0.0, 10.0], [-10.0, -9.5, -9.0, -8.5]])
def test_categorical(support):
    p = torch.softmax(torch.from_numpy(outputs(len(support))), -1)
    m = targets.categorical(*tensors(R_T, DISCOUNT_T), p, *tensors(Q_ONLINE, support))
    for b in range(B):
        slow = projected(R_T[b], DISCOUNT_T[b], p[b, first_best(Q_ONLINE[b])].tolist(), support)
        assert m[b].tolist() == pytest.approx(slow, abs=1e-5)
    torch.testing.assert_close(m.sum(-1), torch.ones(B))


def test_categorical_at_the_supports_edges():
    support = torch.tensor([-1.0, 0.0, 1.0])
    p = torch.tensor([[[0.2, 0.3, 0.5]]]).expand(5, 1, 3)
    r_t, discount_t = tensors([5.0, -5.0, 1.0, 0.5, 0.0], [1.0, 1.0, 0.0, 0.0, 1.0])
    m = targets.categorical(r_t, discount_t, p, torch.zeros(5, 1), support)
    expected = [[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0.5, 0.5], [0.2, 0.3, 0.5]]
    torch.testing.assert_close(m, torch.tensor(expected))


def test_huber_gradient_is_the_clipped_error():
    q = torch.tensor([0.0, 0.0, 0.0, 0.0], requires_grad=True)
    y = torch.tensor([0.3, -0.4, 5.0, -7.0])
    targets.error_loss("huber", q, y).sum().backward()
    assert q.grad.tolist() == pytest.approx([-0.3, 0.4, -1.0, 1.0])
    assert targets.error_loss("squared", q, y).tolist() == pytest.approx([0.09, 0.16, 25, 49])


def test_divergence():
    logits = torch.from_numpy(outputs(4)[:, 0]).requires_grad_()
    y = torch.softmax(torch.from_numpy(outputs(4)[:, 1]), -1)
    y[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # 0 ln 0 counts 0
    losses = targets.divergence(logits, y)
    p = logits.detach().softmax(-1)
    for b in range(B):
        slow = sum(y[b, i] * math.log(y[b, i] / p[b, i]) for i in range(4) if y[b, i] > 0)
        assert losses[b].item() == pytest.approx(float(slow), rel=1e-4)
    losses.sum().backward()
    torch.testing.assert_close(logits.grad, p - y)  # as of the cross-entropy
    assert targets.divergence(y.clamp(min=1e-9).log(), y).abs().max() < 1e-5  # on either side of 0


@pytest.mark.parametrize("m", [3, 5])
def test_quantile_huber(m):
    z, y = outputs(3)[:, 0], outputs(m)[:, 1] * 3  # errors on both sides of 1
    taus = np.array([[0.1, 0.5, 0.9]] * B)
    losses = targets.quantile_huber(*tensors(z, taus, y))
    for b in range(B):
        slow = 0.0
        for i in range(3):
            for j in range(m):
                u = y[b, j] - z[b, i]
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                slow += abs(taus[b, i] - (1.0 if u < 0 else 0.0)) * huber / m
        assert losses[b].item() == pytest.approx(slow, rel=1e-4)


def test_quantile_regression_finds_the_quantiles():
    """Minimised, it gives the quantiles of what it sees, but for what Huber smooths."""
    seen = torch.from_numpy(np.random.default_rng(1).exponential(30, size=(1, 2000)).astype(np.float32))
    taus = torch.tensor([[0.1, 0.5, 0.9]])
    z = torch.full((1, 3), 20.0, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=0.5)
    for _ in range(500):
        optimizer.zero_grad()
        targets.quantile_huber(z, taus, seen).sum().backward()
        optimizer.step()
    assert z[0].tolist() == pytest.approx(torch.quantile(seen[0], taus[0]).tolist(), abs=1.0)
