"""The ring against plain Python lists."""

import random

import pytest
import torch

from atari_dqn.dqn.replay import Batch, Replay
from atari_dqn.envs.base import CUT, ORDINARY, TERMINAL

DISCOUNT = 0.9


class ListReplay:
    """The oracle: every state ever seen in a list; transitions rebuilt by walking, one at a time."""

    def __init__(self, rows: int, num_envs: int, stack: int) -> None:
        self.rows, self.stack_size = rows, stack
        self.games: list[list[dict]] = [[] for _ in range(num_envs)]

    def stack(self, env: int, t: int) -> list[int]:
        """Identities of the frames that a network sees at time t; 0 for blanks."""
        history, seen = self.games[env], []
        for back in range(self.stack_size):
            if t - back < 0 or (back > 0 and history[t - back]["flag"] != ORDINARY):
                break
            seen.append(history[t - back]["id"])
        return [0] * (self.stack_size - len(seen)) + seen[::-1]

    def transition(self, env: int, t: int, n: int, clip: float | None) -> tuple:
        history, r, discount, now = self.games[env], 0.0, 1.0, t
        for _ in range(n):
            reward = history[now]["reward"]
            r += discount * (reward if clip is None else max(-clip, min(clip, reward)))
            discount *= DISCOUNT
            now += 1
            if history[now]["flag"] != ORDINARY:
                break
        if history[now]["flag"] == TERMINAL:
            discount = 0.0
        return self.stack(env, t), history[t]["action"], r, discount, self.stack(env, now)

    def starts(self, n: int) -> list[tuple[int, int]]:
        """(env, t) of every whole transition: n steps old, its stack not overwritten, not starting at a flag."""
        newest = len(self.games[0]) - 1
        oldest = max(0, newest - self.rows + self.stack_size)
        return [
            (env, t)
            for env, history in enumerate(self.games)
            for t in range(oldest, newest - n + 1)
            if history[t]["flag"] == ORDINARY
        ]


def fill(replay: Replay, oracle: ListReplay, steps: int, rng: random.Random, identity: int) -> int:
    """Play `steps` random steps into both; returns the next unused frame identity."""

    def frame() -> int:
        nonlocal identity
        identity += 1
        return identity

    def picture(ids: list[int]) -> torch.Tensor:
        frames = torch.zeros(len(ids), *replay.frame_shape, dtype=torch.uint8)
        for row, number in zip(frames.view(len(ids), -1), ids, strict=True):
            row[:4] = torch.tensor([number >> 24 & 255, number >> 16 & 255, number >> 8 & 255, number & 255])
        return frames

    if not replay.written:
        ids = [frame() for _ in oracle.games]
        replay.begin(picture(ids))
        for history, number in zip(oracle.games, ids, strict=True):
            history.append({"id": number, "flag": ORDINARY})
    for _ in range(steps):
        actions = [rng.randrange(18) for _ in oracle.games]
        rewards = [rng.choice([0, 1, -2, 7.5]) for _ in oracle.games]
        flags = []
        for history in oracle.games:
            after_end = history[-1]["flag"] != ORDINARY  # what follows an end is a new game's first state
            flags.append(ORDINARY if after_end else rng.choices([ORDINARY, TERMINAL, CUT], [8, 1, 1])[0])
        ids = [frame() for _ in oracle.games]
        replay.write(torch.tensor(actions), torch.tensor(rewards), picture(ids), torch.tensor(flags, dtype=torch.uint8))
        for history, action, reward, number, flag in zip(oracle.games, actions, rewards, ids, flags, strict=True):
            history[-1] |= {"action": action, "reward": reward}
            history.append({"id": number, "flag": flag})
    return identity


def identities(stacks: torch.Tensor) -> list[list[int]]:
    words = stacks.flatten(2)[:, :, :4].long()
    return (words @ torch.tensor([1 << 24, 1 << 16, 1 << 8, 1])).tolist()


@pytest.mark.parametrize("frame_shape", [(2, 4), (2, 3)], ids=["whole words", "odd bytes"])
@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize(("rows", "num_envs", "stack"), [(23, 3, 4), (11, 1, 4), (12, 2, 1)])
def test_equals_the_list_at_every_moment(rows, num_envs, stack, n_step, frame_shape):
    rng = random.Random(rows * 100 + n_step)
    replay, oracle = Replay(rows, num_envs, frame_shape, stack=stack), ListReplay(rows, num_envs, stack)
    draw = torch.Generator().manual_seed(1)
    identity = fill(replay, oracle, 0, rng, 0)
    for _ in range(60):  # through several turns of the ring, and before it is full
        identity = fill(replay, oracle, 1, rng, identity)
        newest = identities(replay.newest_stack())
        assert newest == [oracle.stack(env, len(oracle.games[0]) - 1) for env in range(num_envs)]
        starts = oracle.starts(n_step)
        if not starts:
            continue
        clip = rng.choice([1.0, None])
        expected = {oracle.games[env][t]["id"]: oracle.transition(env, t, n_step, clip) for env, t in starts}
        batch = Batch(*(part.flatten(0, 1) for part in replay.sample(2, 100, draw, DISCOUNT, n_step, clip)))
        for s_tm1, a_tm1, r_t, discount_t, s_t in zip(
            identities(batch.s_tm1), batch.a_tm1.tolist(), batch.r_t.tolist(), batch.discount_t.tolist(),
            identities(batch.s_t), strict=True,
        ):  # fmt: skip
            want = expected[s_tm1[-1]]  # KeyError: a start that is not whole
            assert (s_tm1, a_tm1, s_t) == (want[0], want[1], want[4])
            assert (r_t, discount_t) == pytest.approx((want[2], want[3]), rel=1e-5, abs=1e-5)


def test_draws_are_uniform_over_all_whole_transitions():
    rng = random.Random(3)
    replay, oracle = Replay(40, 2, (2, 4)), ListReplay(40, 2, 4)
    fill(replay, oracle, 70, rng, 0)
    starts = oracle.starts(1)
    batch = replay.sample(1, 100 * len(starts), torch.Generator().manual_seed(1), DISCOUNT)
    counts = torch.bincount(torch.tensor(identities(batch.s_tm1[0]))[:, -1], minlength=1000)
    counts = counts[[oracle.games[env][t]["id"] for env, t in starts]]
    assert counts.sum() == 100 * len(starts)
    chi_square = float(((counts - 100.0) ** 2 / 100).sum())
    assert chi_square < len(starts) + 4 * (2 * len(starts)) ** 0.5  # four standard deviations


def test_minibatches_drawn_together_are_those_drawn_one_by_one():
    rng = random.Random(4)
    replay, oracle = Replay(40, 3, (2, 4)), ListReplay(40, 3, 4)
    fill(replay, oracle, 70, rng, 0)
    together = replay.sample(5, 16, torch.Generator().manual_seed(1), DISCOUNT, 3)
    draw = torch.Generator().manual_seed(1)
    for k in range(5):
        alone = replay.sample(1, 16, draw, DISCOUNT, 3)
        for part, whole in zip(alone, together, strict=True):
            assert torch.equal(part[0], whole[k])


def test_games_that_end_at_every_step_still_fill_batches():
    replay = Replay(30, 1, (8,), stack=1)
    replay.begin(torch.zeros(1, 8, dtype=torch.uint8))
    for i in range(50):
        flag = torch.tensor([TERMINAL if i % 2 == 0 else ORDINARY], dtype=torch.uint8)
        replay.write(torch.tensor([i % 2]), torch.tensor([1.0]), torch.zeros(1, 8, dtype=torch.uint8), flag)
    batch = replay.sample(1, 64, torch.Generator().manual_seed(0), DISCOUNT)
    assert batch.a_tm1.sum() == 0 and batch.discount_t.sum() == 0  # odd steps start at flags


def test_a_million_transitions_cost_seven_gigabytes_and_little_besides():
    replay = Replay(1000, 8, (84, 84))
    beside = sum(t.nbytes for t in (replay.actions, replay.rewards, replay.flags))
    assert replay.frames.nbytes * 125 == 7_056_000_000
    assert beside * 125 < 100_000_000


def test_too_few_rows_to_sample_is_said():
    replay = Replay(10, 1, (8,))
    replay.begin(torch.zeros(1, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="too few"):
        replay.sample(1, 4, torch.Generator(), DISCOUNT)
    with pytest.raises(ValueError, match="cannot hold"):
        Replay(4, 1, (8,), stack=4)
