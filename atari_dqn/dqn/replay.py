"""The replay memory: a uint8 ring [T, N] of single frames, from which stacks and n-step transitions are rebuilt.

Row t, column n holds one *state* of game n: its newest frame, the action taken in it, the reward that followed, and a
flag that describes the state itself. A flagged state holds a game's true last frame. It never starts a transition, it
is bootstrapped from only if CUT, and no stack reaches back over it. That one rule covers game over, life loss, time
limits and n-step tails.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from atari_dqn.envs.base import CUT, ORDINARY, TERMINAL

BYTES_BESIDE_FRAME = 6  # action 1, reward 4, flag 1


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """uint8 -> torch.uint8, and so on."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


class Batch(NamedTuple):
    """K minibatches of B transitions, time-indexed: in s_tm1 the action a_tm1 gave the n-step reward r_t and s_t."""

    s_tm1: Tensor  # [K, B, stack, *frame], as stored
    a_tm1: Tensor  # int64 [K, B]
    r_t: Tensor  # float32 [K, B], sum of gamma^i * clipped reward
    discount_t: Tensor  # float32 [K, B], gamma^steps, or 0 where s_t is terminal
    s_t: Tensor  # [K, B, stack, *frame]
    weight: Tensor  # float32 [K, B], of each transition in the loss
    rows: Tensor  # int64 [K, B], where in the ring s_tm1 is
    envs: Tensor  # int64 [K, B]


class Rows(NamedTuple):
    """Some rows of the ring as they are stored, on the CPU."""

    frames: Tensor  # [rows, N, *frame]
    actions: Tensor  # uint8 [rows, N]
    rewards: Tensor  # float32 [rows, N]
    flags: Tensor  # uint8 [rows, N]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Replay:
    """A ring of `rows` x `num_envs` states, on the CPU or a GPU.

    All that moves is counted on the device too, and nothing in `newest_stack` and `sample` waits for it, so that both
    can be parts of a CUDA graph.

    Args:
        rows: time steps held; the capacity in agent steps is rows * num_envs.
        num_envs: games that are written side by side.
        frame_shape, frame_dtype: of one frame, e.g. (84, 84) and uint8.
        stack: frames in one state, the newest last.
    """

    def __init__(
        self,
        rows: int,
        num_envs: int,
        frame_shape: tuple[int, ...],
        frame_dtype: torch.dtype = torch.uint8,
        stack: int = 4,
        device: torch.device | str = "cpu",
    ) -> None:
        if rows < stack + 1:
            raise ValueError(f"a replay of {rows} rows cannot hold a stack of {stack} and its successor")
        self.rows, self.num_envs, self.frame_shape, self.stack_size = rows, num_envs, tuple(frame_shape), stack
        self.device = torch.device(device)
        self._blank = rows * num_envs  # one more frame, always zero: what a stack shows on the far side of a flag
        # Filled at once, so that the memory is really taken now and not page by page, until there is none, hours later.
        flat = torch.empty(rows * num_envs + 1, *frame_shape, dtype=frame_dtype, device=device).zero_()
        self.frames = flat[:-1].view(rows, num_envs, *frame_shape)
        self.actions = torch.zeros(rows, num_envs, dtype=torch.uint8, device=device)
        self.rewards = torch.zeros(rows, num_envs, dtype=torch.float32, device=device)
        # What was never written counts as cut off, so that the first stacks are padded with zeros.
        self.flags = torch.full((rows, num_envs), CUT, dtype=torch.uint8, device=device)
        self.written = 0  # rows since the start; the newest state is row (written - 1) % rows
        self._newest = torch.tensor(-1, device=device)  # written - 1
        flat = flat.flatten(1)
        # Gathers are 10 times faster on 8-byte words than on bytes.
        self._words = flat.view(torch.int64) if flat.shape[1] * flat.element_size() % 8 == 0 else flat
        self._back = torch.arange(1 - stack, 1, device=device).unsqueeze(1)
        self._envs = torch.arange(num_envs, device=device)

    @property
    def size(self) -> int:
        """Transitions written and still held, in agent steps."""
        return max(0, min(self.written, self.rows) - 1) * self.num_envs

    def begin(self, frames: Tensor) -> None:
        """Append the first states of all games, [N, *frame]."""
        if self.written:
            self.cut(self.written - 1)
        self._append(frames, torch.zeros(self.num_envs, dtype=torch.uint8))

    def cut(self, row: int) -> None:
        """Mark games that are still running after a row (counted from the start) as truncated."""
        flags = self.flags[row % self.rows]
        flags[flags == ORDINARY] = CUT

    def write(self, actions: Tensor, rewards: Tensor, frames: Tensor, flags: Tensor) -> None:
        """Complete the newest states with what was done in them, and append the states that followed; all [N]."""
        newest = (self.written - 1) % self.rows
        self._put(self.actions[newest], actions.to(torch.uint8))
        self._put(self.rewards[newest], rewards)
        self._append(frames, flags)

    def _append(self, frames: Tensor, flags: Tensor) -> None:
        row = self.written % self.rows
        self._put(self.frames[row], frames)
        self._put(self.flags[row], flags)
        self.written += 1
        self._newest += 1

    def _put(self, place: Tensor, values: Tensor) -> None:
        """Copy to the ring without waiting for what a GPU is still at: by way of pinned memory."""
        if place.is_cuda and not values.is_cuda:
            values = values.pin_memory()
        place.copy_(values, non_blocking=True)

    def read(self, first: int, last: int) -> Rows:
        """Rows first to last - 1, counted since the start, on the CPU, from any thread; they must still be held.

        They may be the ring's own memory. From a GPU they come beside what it is at, by a stream of their own.
        """
        spans = self._spans(first, last)
        if self.device.type != "cuda":
            return Rows(
                *(_joined([part[span].cpu() for span in spans if span.stop > span.start]) for part in self.parts())
            )
        stream = self._reader
        stream.wait_stream(torch.cuda.default_stream(self.device))  # where the rows were written
        with torch.cuda.stream(stream):
            rows = Rows(*(self._pinned(part, spans) for part in self.parts()))
        stream.synchronize()
        return rows

    @functools.cached_property
    def _reader(self) -> torch.cuda.Stream:
        # Streams come from a pool for each priority; one of this priority is never one that a graph is recorded on.
        return torch.cuda.Stream(self.device, priority=-1)

    @staticmethod
    def _pinned(part: Tensor, spans: list[slice]) -> Tensor:
        length = sum(span.stop - span.start for span in spans)
        copy, done = torch.empty(length, *part.shape[1:], dtype=part.dtype, pin_memory=True), 0
        for span in spans:
            count = span.stop - span.start
            copy[done : done + count].copy_(part[span], non_blocking=True)
            done += count
        return copy

    def put(self, first: int, rows: Rows) -> None:
        """Write `rows` where rows from `first` on were, counted since the start. They count once `go_on` is called."""
        spans = self._spans(first, first + len(rows.flags))
        for part, values in zip(self.parts(), rows, strict=True):
            for span, some in zip(spans, values.split([span.stop - span.start for span in spans]), strict=True):
                part[span] = some.to(self.device)

    def go_on(self, written: int) -> None:
        """Take `written` rows as written; those of them that are held and were not `put` are never sampled."""
        self.written = written
        self._newest.fill_(written - 1)

    def _spans(self, first: int, last: int) -> list[slice]:
        """Where rows first to last - 1, counted since the start, lie in the ring: in one piece or two."""
        here, length = first % self.rows, last - first
        end = min(here + length, self.rows)
        return [slice(here, end), slice(0, here + length - end)]

    def parts(self) -> Rows:
        """The whole ring, where it is stored."""
        return Rows(self.frames, self.actions, self.rewards, self.flags)

    def stack(self, rows: Tensor, envs: Tensor) -> Tensor:
        """The states at (rows[b], envs[b]) as [B, stack, *frame]; frames on the far side of a flag are zero.

        In memory the oldest frames of all states lie together, then the next ones.
        """
        index = (rows + self._back) % self.rows * self.num_envs + envs  # [stack, B]
        ended = self.flags.view(-1)[index[:-1]] != ORDINARY  # the newest frame is always shown
        beyond = ended.flip(0).cumsum(0).flip(0) > 0
        index[:-1].masked_fill_(beyond, self._blank)
        frames = self._words.index_select(0, index.flatten()).view(self.frames.dtype)
        return frames.view(*index.shape, *self.frame_shape).transpose(0, 1)

    def newest_stack(self) -> Tensor:
        """The states that all games are in now, [N, stack, *frame]."""
        return self.stack((self._newest % self.rows).expand_as(self._envs), self._envs)

    def some_frames(self, most: int = 128) -> Tensor:
        """Frames of at most so many rows, evenly spread over all that are held, [n, *frame]."""
        rows = torch.linspace(0, min(self.written, self.rows) - 1, min(most, self.written), device=self.device).long()
        return self.frames[rows].flatten(0, 1)

    def sample(
        self,
        batches: int,
        batch_size: int,
        generator: torch.Generator,
        discount: float,
        n_step: int = 1,
        reward_clip: float | None = 1.0,
    ) -> Batch:
        """Draw transitions from all that are whole: not across the write head, not starting at a flag.

        Args:
            batches: K; on a CPU the same transitions as K calls for one would draw.
            batch_size: B.
            discount: gamma per agent step.
            n_step: agent steps summed into r_t; fewer where a flag comes first.
            reward_clip: each step's reward is clipped to [-reward_clip, reward_clip]; None leaves it raw.
        """
        if min(self.written - 1, self.rows - self.stack_size) < n_step:
            raise ValueError(f"{self.written} rows are too few to sample {n_step}-step transitions")
        rows, envs, weight = self._draw(batches, batch_size, generator, n_step)
        flat = self._transitions(rows.flatten(), envs.flatten(), discount, n_step, reward_clip)
        s_tm1, a_tm1, r_t, discount_t, s_t = (part.unflatten(0, (batches, batch_size)) for part in flat)
        return Batch(s_tm1, a_tm1, r_t, discount_t, s_t, weight, rows, envs)

    def _draw(
        self, batches: int, batch_size: int, generator: torch.Generator, n_step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and games of K times B transitions, drawn uniformly, and their weights in an update; [K, B] each."""
        # Ages count rows back from the newest state. The oldest start keeps its whole stack inside the ring.
        starts = (self._newest.clamp(max=self.rows - self.stack_size) - n_step + 1) * self.num_envs
        draws = self._dice(batches, 4 * batch_size, generator) % starts
        rows = (self._newest - n_step - draws // self.num_envs) % self.rows
        envs = draws % self.num_envs
        # Even where games end at every other state half of the draws are valid, and the first B valid ones of 4B are
        # uniform. (Should fewer than B be found, at odds of 1e-8 then, they are repeated.)
        valid = self.flags[rows, envs] == ORDINARY
        order = torch.argsort((~valid).view(torch.uint8), dim=1, stable=True)  # CUDA has not always sorted booleans
        wanted = torch.arange(batch_size, device=self.device) % valid.sum(1, keepdim=True).clamp(min=1)
        first = order.gather(1, wanted)
        return rows.gather(1, first), envs.gather(1, first), torch.ones(first.shape, device=self.device)

    def _dice(self, batches: int, count: int, generator: torch.Generator) -> Tensor:
        """Whole numbers below 2^62, [batches, count].

        In host memory beside a GPU they come from the GPU's generator: the draws are the same wherever the replay is.
        That waits for the GPU, just after the loop did for its actions.
        """
        place = generator.device if self.device.type == "cpu" else self.device
        return torch.randint(1 << 62, (batches, count), generator=generator, device=place).to(self.device)

    def update_priorities(self, batch: Batch, errors: Tensor) -> None:
        """Take note of how surprising the transitions of `batch` were, [K, B]."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the rows."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`, after the rows were. Raises ValueError if it does not fit."""

    def _transitions(
        self, rows: Tensor, envs: Tensor, discount: float, n_step: int, reward_clip: float | None
    ) -> tuple[Tensor, ...]:
        """s_tm1, a_tm1, r_t, discount_t and s_t of transitions that start at (rows[b], envs[b])."""
        steps = torch.arange(n_step, device=self.device)
        index = (rows.unsqueeze(1) + steps) % self.rows * self.num_envs + envs.unsqueeze(1)  # [B, n]
        rewards = self.rewards.view(-1)[index]
        if reward_clip is not None:
            rewards = rewards.clamp(-reward_clip, reward_clip)
        # A reward counts while no state between the start and it is flagged; the start itself never is.
        alive = (self.flags.view(-1)[index] == ORDINARY).cumprod(1)
        r_t = (rewards * alive * discount**steps).sum(1)
        taken = alive.sum(1)  # n, or less at a game's end
        last = (rows + taken) % self.rows
        terminal = self.flags[last, envs] == TERMINAL
        discount_t = torch.where(terminal, 0.0, torch.pow(discount, taken.float()))
        return self.stack(rows, envs), self.actions[rows, envs].long(), r_t, discount_t, self.stack(last, envs)
