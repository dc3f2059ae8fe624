"""The DQN agent: an online and a target network, how it acts and how it learns."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atari_dqn import targets
from atari_dqn.replay import Batch


def epsilon_greedy(q_values: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """An action for each row of q_values [N, A]: the best, or with probability epsilon any; drawn for each game apart.

    Actions whose value is -inf are not available and never chosen.
    """
    random = torch.rand(q_values.shape[0], generator=generator, device=q_values.device) < epsilon
    available = (q_values != -torch.inf).float()
    anything = torch.multinomial(available, 1, generator=generator).squeeze(1)
    return torch.where(random, anything, q_values.argmax(1))


class Losses(NamedTuple):
    """What learning showed since it was last asked, as means over updates."""

    loss: float
    q_mean: float
    updates: int


class Agent:
    """Two networks and an optimiser; knows nothing of games, logs or files.

    Args:
        online: the Q-network that acts and learns.
        loss, reduction: see targets.loss.
    """

    def __init__(
        self, online: nn.Module, num_actions: int, optimizer: torch.optim.Optimizer, loss: str, reduction: str
    ) -> None:
        self.online, self.num_actions, self.optimizer = online, num_actions, optimizer
        self.target = copy.deepcopy(online).requires_grad_(False)
        self.loss, self.reduction = loss, reduction
        self.device = next(online.parameters()).device
        self._sums = torch.zeros(2, device=self.device)
        self._updates = 0

    @torch.no_grad()
    def act(self, states: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
        """Epsilon-greedy actions int64 [N] for states [N, stack, *frame]."""
        if epsilon >= 1:  # no need to look
            q_values = torch.zeros(len(states), self.num_actions, device=self.device)
        else:
            q_values = self.online(states)
        return epsilon_greedy(q_values, epsilon, generator)

    def learn(self, batch: Batch) -> None:
        """One update of the online network."""
        with torch.no_grad():
            y = targets.dqn(batch.r_t, batch.discount_t, self.target(batch.s_t))
        q_tm1 = self.online(batch.s_tm1).gather(1, batch.a_tm1.unsqueeze(1)).squeeze(1)
        loss = targets.loss(self.loss, self.reduction, q_tm1, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._sums += torch.stack((loss.detach(), q_tm1.detach().mean()))
        self._updates += 1

    def copy_target(self) -> None:
        """Target network := online network."""
        self.target.load_state_dict(self.online.state_dict())

    def losses(self) -> Losses:
        """Means since the last call; nan where there was no update."""
        loss, q_mean = (self._sums / self._updates).tolist() if self._updates else (float("nan"), float("nan"))
        result = Losses(loss, q_mean, self._updates)
        self._sums.zero_()
        self._updates = 0
        return result

    def gradient_norm(self) -> float:
        """Norm of the last update's gradient; nan before the first."""
        gradients = [p.grad for p in self.online.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients)) if gradients else float("nan")
