"""Behavior policies: from Q-values to actions."""

from typing import Any

import torch
from torch import Tensor


def epsilon_greedy(q_values: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
    """An action for each row of q_values [N, A]: the best, or with probability epsilon a random one.

    Actions whose value is -inf are not available and never chosen.
    """
    random = torch.rand(q_values.shape[0], generator=generator, device=q_values.device) < epsilon
    anything = torch.rand(q_values.shape, generator=generator, device=q_values.device)
    anything.masked_fill_(q_values == -torch.inf, -1)
    return torch.where(random, anything.argmax(1), q_values.argmax(1))


def boltzmann(q_values: Tensor, epsilon: float | Tensor, generator: torch.Generator, temperature: float) -> Tensor:
    """As epsilon_greedy, but in place of the best action one with probability in proportion to exp(Q / temperature)."""
    uniform = torch.rand(q_values.shape, generator=generator, device=q_values.device).clamp(min=1e-20)
    gumbel = -(-uniform.log()).log()  # the largest of Q / T + Gumbel noise is a draw from the softmax of Q / T
    return epsilon_greedy(q_values / temperature + gumbel, epsilon, generator)


LONGEST = 100  # agent steps that a random action is repeated for at most: 6.7 seconds of an Atari game


class Persistent:
    """As epsilon_greedy, but a random action is repeated for n agent steps, with p(n) in proportion to n^-exponent.

    Many games reward nothing that single random actions lead to: they cancel out. (Dabney, Ostrovski and Barreto 2021,
    "Temporally-extended epsilon-greedy exploration"; epsilon is the probability of starting one while none is running.)

    Args:
        end: at this epsilon and below, a random action lasts one step, so that a good policy is not disturbed for long.
    """

    def __init__(self, exponent: float, end: float, num_envs: int, device: torch.device) -> None:
        self._end = end
        self._upto = torch.arange(1, LONGEST + 1, dtype=torch.float64).pow(-exponent).cumsum(0)
        self._upto = (self._upto / self._upto[-1]).to(device, torch.float32)
        self.action = torch.zeros(num_envs, dtype=torch.int64, device=device)  # being repeated in each game
        self.left = torch.zeros_like(self.action)  # for so many agent steps more

    def __call__(self, q_values: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        """Actions int64 [N] for q_values [N, A]; running repeats are updated in place, as a CUDA graph requires."""
        begin, length = torch.rand(2, len(q_values), generator=generator, device=q_values.device)
        begins = (self.left == 0) & (begin < epsilon)
        n = torch.searchsorted(self._upto, length).clamp_(max=LONGEST - 1) * (epsilon > self._end) + 1
        self.action.copy_(torch.where(begins, epsilon_greedy(q_values, 1.0, generator), self.action))
        self.left.copy_(torch.where(begins, n, self.left))
        chosen = torch.where(self.left > 0, self.action, q_values.argmax(1))
        self.left.sub_(1).clamp_(min=0)
        return chosen

    def state(self) -> dict[str, Any]:
        """The running repeats, for a checkpoint."""
        return {"action": self.action, "left": self.left}

    def restore(self, state: dict[str, Any], num_actions: int) -> None:
        """Restore a `state`. Raises ValueError, KeyError or RuntimeError if it does not fit."""
        for name, top in (("action", num_actions - 1), ("left", LONGEST)):
            if not 0 <= int(state[name].min()) <= int(state[name].max()) <= top:
                raise ValueError("a repeated action that cannot be")
            getattr(self, name).copy_(state[name])
