"""Prioritized replay against plain lists."""

import random

import pytest
import torch
from test_replay import DISCOUNT, ListReplay, fill, identities

from atari_dqn.dqn.prioritized import BLOCK, MOST, ONE, Priorities, PrioritizedReplay
from atari_dqn.dqn.replay import Batch

DICE = 1 << 62


def naive_draw(priorities: list[int], dice: list[int]) -> list[int]:
    """Walk along all priorities, for each of B equal shares of their sum."""
    total, drawn = sum(priorities), []
    for i, die in enumerate(dice):
        start = sum(total // len(dice) + (j < total % len(dice)) for j in range(i))
        width = total // len(dice) + (i < total % len(dice))
        at, index = start + die % width, 0
        while at >= priorities[index]:
            at -= priorities[index]
            index += 1
        drawn.append(index)
    return drawn


@pytest.mark.parametrize("size", [7, BLOCK, 3 * BLOCK + 5])
def test_draws_are_those_of_a_list(size):
    rng = random.Random(size)
    priorities, plain = Priorities(size, torch.device("cpu")), [0] * size
    for _ in range(20):
        index = [rng.randrange(size) for _ in range(50)]  # some of them twice
        values = [rng.choice([0, 1, rng.randrange(1 << 20), MOST]) for _ in index]
        priorities.set(torch.tensor(index), torch.tensor(values))
        for i in index:
            plain[i] = max(value for j, value in zip(index, values, strict=True) if j == i)
        assert priorities.values.tolist() == plain
        assert priorities._sums.sum() == sum(plain)  # exactly, always
        dice = [[rng.randrange(DICE) for _ in range(9)] for _ in range(3)]
        assert priorities.draw(torch.tensor(dice)).tolist() == [naive_draw(plain, some) for some in dice]


def test_sums_do_not_drift():
    """A million changes later the sums are what adding up gives."""
    priorities = Priorities(5000, torch.device("cpu"))
    draw = torch.Generator().manual_seed(1)
    for _ in range(1000):
        priorities.set(torch.randint(5000, (1000,), generator=draw), torch.randint(MOST, (1000,), generator=draw))
    assert priorities._sums.sum() == sum(priorities.values.tolist())
    priorities.set(torch.arange(5000), torch.zeros(5000, dtype=torch.int64))
    assert priorities._sums.sum() == 0


def replay_and_list(rows=40, num_envs=2, stack=4, n_step=1, exponent=0.6, importance=(0.4, 1.0, 1000)):
    replay = PrioritizedReplay(
        rows, num_envs, (2, 4), torch.uint8, stack, n_step=n_step, exponent=exponent, importance=importance
    )
    return replay, ListReplay(rows, num_envs, stack)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("rows", "num_envs", "stack"), [(23, 3, 4), (11, 1, 4), (12, 2, 1)])
def test_whole_transitions_and_only_they_have_a_priority_at_every_moment(rows, num_envs, stack, n_step):
    rng = random.Random(rows + n_step)
    replay, oracle = replay_and_list(rows, num_envs, stack, n_step)
    draw, identity = torch.Generator().manual_seed(1), fill(replay, oracle, 0, rng, 0)
    surprise: dict[int, int] = {}  # of each state's identity, as a list would keep it
    highest = ONE
    for _ in range(60):
        identity = fill(replay, oracle, 1, rng, identity)
        starts = oracle.starts(n_step)
        for env, t in starts:
            surprise.setdefault(oracle.games[env][t]["id"], highest)
        expected = torch.zeros(rows, num_envs, dtype=torch.int64)
        for env, t in starts:
            expected[t % rows, env] = surprise[oracle.games[env][t]["id"]]
        assert torch.equal(replay.priorities.values.view(rows, num_envs), expected)
        if not starts:
            continue
        batch = replay.sample(2, 16, draw, DISCOUNT, n_step, None)
        found = Batch(*(part.flatten(0, 1) for part in batch))
        for s_tm1, a_tm1, r_t, discount_t, s_t, row, env in zip(
            identities(found.s_tm1), found.a_tm1.tolist(), found.r_t.tolist(), found.discount_t.tolist(),
            identities(found.s_t), found.rows.tolist(), found.envs.tolist(), strict=True,
        ):  # fmt: skip
            (t,) = [t for e, t in starts if e == env and t % rows == row]
            want = oracle.transition(env, t, n_step, None)
            assert (s_tm1, a_tm1, s_t) == (want[0], want[1], want[4])
            assert (r_t, discount_t) == pytest.approx((want[2], want[3]), rel=1e-5, abs=1e-5)
        errors = torch.rand(2, 16, generator=draw) * 3
        replay.update_priorities(batch, errors)
        learned: dict[int, int] = {}
        powers = (errors.flatten() ** 0.6 * ONE).round().long().tolist()
        for state, value in zip(identities(found.s_tm1), powers, strict=True):
            learned[state[-1]] = max(learned.get(state[-1], 0), value)
        surprise |= learned
        highest = max(highest, *learned.values())


def test_frequencies_and_weights():
    """Chi-square of draws against p^alpha; weights by eq. 1 and section 3.4."""
    rng = random.Random(3)
    replay, oracle = replay_and_list(exponent=0.7, importance=(0.4, 1.0, 1000))
    fill(replay, oracle, 70, rng, 0)
    starts, draw = oracle.starts(1), torch.Generator().manual_seed(1)
    place = {(t % 40, env): i for i, (env, t) in enumerate(starts)}
    errors = torch.rand(len(starts), generator=draw) * 2
    rows, envs = torch.tensor([[t % 40 for _, t in starts]]), torch.tensor([[env for env, _ in starts]])
    empty = torch.zeros(1)
    replay.update_priorities(Batch(*[empty] * 6, rows, envs), errors.unsqueeze(0))
    p = errors**0.7 / (errors**0.7).sum()
    counts, n = torch.zeros(len(starts)), 200_000
    dice = torch.randint(DICE, (n, 1), generator=draw)  # each from the whole sum
    index = torch.cat([replay.priorities.draw(some).flatten() for some in dice.split(2_000)])
    for flat, count in zip(*(part.tolist() for part in index.unique(return_counts=True)), strict=True):
        counts[place[flat // 2, flat % 2]] = count
    chi_square = float(((counts - n * p) ** 2 / (n * p)).sum())
    degrees = len(starts) - 1
    assert abs(chi_square - degrees) < 4 * (2 * degrees) ** 0.5
    # In a minibatch, one from each equal share, none is drawn much more or less often than that.
    minibatch = replay.sample(1, 200, draw, DISCOUNT)
    drawn = torch.zeros(len(starts))
    for row, env in zip(minibatch.rows[0].tolist(), minibatch.envs[0].tolist(), strict=True):
        drawn[place[row, env]] += 1
    assert (drawn - 200 * p).abs().max() < 2
    chosen = p[[place[row, env] for row, env in zip(*(x[0].tolist() for x in minibatch[-2:]), strict=True)]]
    beta = 0.4 + 0.6 * (70 * 2 / 1000)
    weights = (len(starts) * chosen) ** -beta
    torch.testing.assert_close(minibatch.weight[0], weights / weights.max(), rtol=1e-3, atol=1e-4)


def test_an_exponent_of_0_is_uniform_and_weighs_all_alike():
    replay, oracle = replay_and_list(exponent=0.0)
    fill(replay, oracle, 70, random.Random(3), 0)
    draw = torch.Generator().manual_seed(1)
    for _ in range(50):
        batch = replay.sample(1, 32, draw, DISCOUNT)
        replay.update_priorities(batch, torch.rand(1, 32, generator=draw) * 100)
        assert batch.weight.unique().tolist() == [1.0]
    assert replay.priorities.values.unique().tolist() == [0, ONE]


@pytest.mark.parametrize("rows", [20, 40, 60], ids=["smaller", "as large", "larger"])
def test_priorities_come_back_into_a_ring_of_any_size(rows):
    replay, oracle = replay_and_list(n_step=3)
    fill(replay, oracle, 70, random.Random(5), 0)
    batch = replay.sample(1, 32, torch.Generator().manual_seed(1), DISCOUNT, 3)
    replay.update_priorities(batch, torch.rand(1, 32, generator=torch.Generator().manual_seed(2)))
    other, _ = replay_and_list(rows=rows, n_step=3)
    held = max(31, 71 - rows)
    other.put(held, replay.read(held, 71))
    other.go_on(71)
    other.restore(replay.state())
    for t in range(held + (3 if rows == 20 else 0), 71):  # of a smaller ring's first rows the stacks are lost
        here, there = (r.priorities.values.view(r.rows, 2)[t % r.rows] for r in (replay, other))
        assert torch.equal(here, there)
    assert other.priorities._sums.sum() == other.priorities.values.sum()
    assert replay._highest == other._highest
    with pytest.raises(ValueError, match="do not fit"):
        other.restore(replay.state() | {"priorities": torch.zeros(40, 3)})


def test_an_error_rounded_below_0_is_small_and_not_lost():
    replay, oracle = replay_and_list()
    fill(replay, oracle, 70, random.Random(5), 0)
    batch = replay.sample(1, 32, torch.Generator().manual_seed(1), DISCOUNT)
    replay.update_priorities(batch, torch.full((1, 32), -1e-8))
    assert replay.priorities.values[(batch.rows * 2 + batch.envs).flatten()].unique().tolist() == [1]


def test_transitions_of_other_lengths_are_refused():
    replay, oracle = replay_and_list(n_step=3)
    fill(replay, oracle, 70, random.Random(5), 0)
    with pytest.raises(ValueError, match="3-step"):
        replay.sample(1, 4, torch.Generator(), DISCOUNT, 1)


def test_where_nothing_can_be_drawn_an_index_is_given_all_the_same():
    assert Priorities(7, torch.device("cpu")).draw(torch.tensor([[5, DICE - 1]])).tolist() == [[6, 6]]


def test_importance_goes_on_where_a_refilled_replay_begins():
    weights = []
    for before in (0, 500, 5000):
        replay = PrioritizedReplay(
            40, 2, (2, 4), torch.uint8, 4, n_step=1, exponent=0.6, importance=(0.0, 1.0, 1000), steps_before=before
        )
        fill(replay, ListReplay(40, 2, 4), 70, random.Random(5), 0)
        draw = torch.Generator().manual_seed(1)
        replay.update_priorities(replay.sample(1, 32, draw, DISCOUNT), torch.rand(1, 32, generator=draw))
        batch = replay.sample(1, 32, draw, DISCOUNT)
        p = replay.priorities.values[(batch.rows * 2 + batch.envs)[0]].float()
        weights.append(batch.weight[0])
        beta = min(1.0, (before + 70 * 2) / 1000)
        torch.testing.assert_close(batch.weight[0], (p / p.min()) ** -beta)
        other = PrioritizedReplay(40, 2, (2, 4), torch.uint8, 4, n_step=1, exponent=0.6, importance=(0.0, 1.0, 1000))
        other.put(31, replay.read(31, 71))
        other.go_on(71)
        other.restore(replay.state())
        draws = [torch.Generator().manual_seed(3) for _ in range(2)]
        here, there = (r.sample(1, 32, d, DISCOUNT) for r, d in zip((replay, other), draws, strict=True))
        torch.testing.assert_close(here.weight, there.weight)
