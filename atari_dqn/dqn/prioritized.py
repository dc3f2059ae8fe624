"""Prioritized replay, proportional (Schaul et al. 2016): surprising transitions are drawn more often.

Priorities are whole numbers, so that their sums are exact: nothing drifts, however long a run is, and a resumed run
draws what it would have drawn.
"""

from typing import Any

import torch
from torch import Tensor

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.replay import Batch, Replay
from atari_dqn.envs.base import ORDINARY

ONE = 1 << 20  # stands for the priority 1
MOST = 1 << 34  # so that the sum of 100 million of them is still a whole number of 64 bits
BLOCK = 1024


class Priorities:
    """Whole numbers >= 0, from which indices are drawn in proportion; all at once on the device.

    Sums are kept of blocks. So a draw looks for its block among their sums, and then in the block: of a million numbers
    it touches two thousand.

    Args:
        size: how many numbers; all are 0.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self._blocks = torch.zeros(-(-size // BLOCK), BLOCK, dtype=torch.int64, device=device)
        self._sums = torch.zeros(len(self._blocks), dtype=torch.int64, device=device)

    @property
    def values(self) -> Tensor:
        """All numbers [size]; to read."""
        return self._blocks.view(-1)[: self.size]

    def set(self, index: Tensor, values: Tensor) -> None:
        """Change some numbers. Of those given for one index the largest counts."""
        flat = self._blocks.view(-1)
        flat.index_fill_(0, index, 0)
        flat.scatter_reduce_(0, index, values, "amax")
        block = index // BLOCK
        self._sums[block] = self._blocks[block].sum(1)

    def fill(self, values: Tensor) -> None:
        """Change all numbers, to values [size]."""
        self._blocks.view(-1)[: self.size] = values
        torch.sum(self._blocks, 1, out=self._sums)

    def draw(self, dice: Tensor) -> Tensor:
        """Indices [..., B] for dice [..., B], int64 below 2^62: one from each of B equal shares of the sum."""
        sums = self._sums.cumsum(0)
        share, odd = sums[-1] // dice.shape[-1], sums[-1] % dice.shape[-1]
        i = torch.arange(dice.shape[-1], device=dice.device)
        # The first `odd` shares are larger by 1, so that they end where the sum does.
        at = i * share + i.minimum(odd) + dice % (share + (i < odd)).clamp(min=1)
        block = torch.searchsorted(sums, at, right=True).clamp(max=len(sums) - 1)
        at -= sums[block] - self._sums[block]
        within = self._blocks[block].cumsum(-1)
        place = torch.searchsorted(within, at.unsqueeze(-1), right=True).squeeze(-1)
        return (block * BLOCK + place).clamp(max=self.size - 1)  # whatever, where all are 0


class PrioritizedReplay(Replay):
    """A replay that draws transition i with probability P(i) = p_i / sum_j p_j, p = |error|^exponent (eq. 1).

    A new transition counts as surprising as the most surprising one so far, and has at least a priority of 1. A
    transition's weight in an update is (P(i) / min_j P(j))^-importance, with the least P of its minibatch (section
    3.4). What cannot be drawn has priority 0.

    Args:
        n_step: agent steps of the transitions that will be drawn.
        exponent: alpha; 0 is uniform.
        importance: beta at the start, at the end, and agent steps from the one to the other.
        steps_before: agent steps that the run made before this replay's first row.
        others: see Replay.
    """

    def __init__(
        self,
        *others: Any,
        n_step: int,
        exponent: float,
        importance: tuple[float, float, int],
        steps_before: int = 0,
    ) -> None:
        super().__init__(*others)
        self._before = torch.tensor(steps_before, device=self.device)
        self._n_step, self._exponent, self._importance = n_step, exponent, importance
        self.priorities = Priorities(self.rows * self.num_envs, self.device)
        self._highest = torch.tensor(ONE, device=self.device)

    def _append(self, frames: Tensor, flags: Tensor) -> None:
        super()._append(frames, flags)
        if self.written <= self._n_step:
            return
        # The transitions that have become whole, and those of whose stacks the oldest frame was written over.
        whole, leaving = (self.written - 1 - self._n_step) % self.rows, (self.written + self.stack_size - 2) % self.rows
        new = torch.where(self.flags[whole] == ORDINARY, self._highest, 0)
        index = torch.cat([whole * self.num_envs + self._envs, leaving * self.num_envs + self._envs])
        self.priorities.set(index, torch.cat([new, torch.zeros_like(new)]))

    def _draw(
        self, batches: int, batch_size: int, generator: torch.Generator, n_step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        if n_step != self._n_step:
            raise ValueError(f"the priorities are those of {self._n_step}-step transitions, not of {n_step}-step ones")
        index = self.priorities.draw(self._dice(batches, batch_size, generator))
        drawn = self.priorities.values[index].clamp(min=1).float()
        start, end, steps = self._importance
        done = (self._before + self._newest * self.num_envs) / steps
        importance = start + done.clamp(max=1) * (end - start)
        weights = (drawn / drawn.amin(1, keepdim=True)) ** -importance
        return index // self.num_envs, index % self.num_envs, weights

    def update_priorities(self, batch: Batch, errors: Tensor) -> None:
        values = (errors.flatten().clamp(min=0) ** self._exponent * ONE).round().clamp(1, MOST).long()
        values = values.to(self.device)  # from a GPU to the host this waits for the update: the next draw needs it
        self.priorities.set((batch.rows * self.num_envs + batch.envs).flatten(), values)
        torch.maximum(self._highest, values.max(), out=self._highest)

    def state(self) -> dict[str, Any]:
        rows = self._held(min(self.written, self.rows))
        return {
            "priorities": self.priorities.values.view(self.rows, -1)[rows],
            "highest": self._highest,
            "steps_before": self._before,
        }

    def restore(self, state: dict[str, Any]) -> None:
        kept, highest, before = state["priorities"], int(state["highest"]), int(state["steps_before"])
        if kept.ndim != 2 or kept.shape[1] != self.num_envs or not 0 <= before < 1 << 48:
            raise ValueError("its priorities do not fit the replay")
        kept = kept[-self.rows :]
        rows = self._held(len(kept))
        age = self.written - 1 - torch.arange(self.written - len(kept), self.written, device=self.device)
        whole = (self._n_step <= age) & (age <= self.rows - self.stack_size)
        drawable = whole.unsqueeze(1) & (self.flags[rows] == ORDINARY)
        values = torch.zeros(self.rows, self.num_envs, dtype=torch.int64, device=self.device)
        values[rows] = torch.where(drawable, kept.to(self.device, torch.int64).clamp(0, MOST), 0)
        self.priorities.fill(values.flatten())
        self._highest.fill_(highest).clamp_(ONE, MOST)
        self._before.fill_(before)

    def _held(self, count: int) -> Tensor:
        """Where the newest `count` rows lie, the oldest first."""
        return torch.arange(self.written - count, self.written, device=self.device) % self.rows


def make_replay(config: TrainConfig, steps_before: int, *size: Any) -> Replay:
    """The replay that a config asks for; `size` as Replay takes it."""
    replay = config.replay
    if not replay.prioritized:
        return Replay(*size)
    importance = (replay.importance_start, replay.importance_end, replay.importance_steps)
    return PrioritizedReplay(
        *size,
        n_step=config.agent.n_step,
        exponent=replay.priority_exponent,
        importance=importance,
        steps_before=steps_before,
    )
