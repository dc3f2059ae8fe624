"""Averaged-DQN (Anschel et al. 2017): bootstrap from the mean of the last k target networks."""

import copy
import itertools

import torch

from atari_dqn.extend import Batch, Greedy, QNetwork


class Averaged(Greedy):
    def __init__(self, networks: int = 10) -> None:
        self.past_networks = networks - 1

    def begin(self, target: QNetwork) -> None:
        self.past = torch.nn.ModuleList(copy.deepcopy(target) for _ in range(self.past_networks))

    @torch.no_grad()
    def copying(self, target: QNetwork) -> None:  # past[0] is the newest; the oldest is forgotten
        for older, newer in itertools.pairwise([*self.past[::-1], target]):
            torch._foreach_copy_([*older.parameters()], [*newer.parameters()])

    def precompute(self, target: QNetwork, batch: Batch, noise: torch.Tensor, taus: torch.Tensor) -> list[torch.Tensor]:
        s_t = target.prepare(batch.s_t.flatten(0, 1))
        z_t = torch.stack([network(s_t, noise, taus) for network in [target, *self.past]]).mean(0)
        return [z_t.unflatten(0, batch.r_t.shape)]

    def state(self) -> dict:
        return dict(self.past.state_dict())

    def restore(self, state: dict) -> None:
        self.past.load_state_dict(state)
