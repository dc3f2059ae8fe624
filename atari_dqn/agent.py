"""The DQN agent: an online and a target network, how it acts and how it learns."""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atari_dqn import networks, optimizers, seeding, targets
from atari_dqn.config import TrainConfig
from atari_dqn.graphs import scripted
from atari_dqn.networks import QNetwork
from atari_dqn.replay import Batch


def epsilon_greedy(q_values: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
    """An action for each row of q_values [N, A]: the best, or with probability epsilon any; drawn for each game apart.

    Actions whose value is -inf are not available and never chosen.
    """
    random = torch.rand(q_values.shape[0], generator=generator, device=q_values.device) < epsilon
    anything = torch.rand(q_values.shape, generator=generator, device=q_values.device)
    anything.masked_fill_(q_values == -torch.inf, -1)
    return torch.where(random, anything.argmax(1), q_values.argmax(1))


def make(config: TrainConfig, frame_shape: tuple[int, ...], num_actions: int, device: torch.device) -> "Agent":
    """The agent that a config asks for, with the first weights that its seed gives."""
    torch.manual_seed(seeding.derive(config.seed, "network")[0])
    network, optimizer = config.network, config.optimizer
    online = networks.build(network, frame_shape, config.env.frame_stack, num_actions).to(device)
    agent = Agent(
        online,
        num_actions,
        optimizers.build(optimizer.name, online.parameters(), optimizer.learning_rate, optimizer.arguments),
        config.agent.loss,
        config.agent.reduction,
        optimizer.max_grad_norm,
        script=config.compute.graphs and not config.compute.compile,
    )
    if config.compute.compile:
        for part in (agent.online, agent.target):
            part.compile()
    return agent


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
        max_grad_norm: longer gradients are shortened to this norm; None leaves them.
        script: on a CPU, differentiate without Python; see graphs.scripted.
    """

    def __init__(
        self,
        online: QNetwork,
        num_actions: int,
        optimizer: torch.optim.Optimizer,
        loss: str,
        reduction: str,
        max_grad_norm: float | None = None,
        script: bool = False,
    ) -> None:
        self.online, self.num_actions, self.optimizer = online, num_actions, optimizer
        self.target = copy.deepcopy(online).requires_grad_(False)
        self.loss, self.reduction, self.max_grad_norm = loss, reduction, max_grad_norm
        self.device = next(online.parameters()).device
        self._parameters = list(online.parameters())
        self._script = script and self.device.type == "cpu"
        self._scripts: dict[torch.Size, Callable[..., Any]] = {}
        self.gradients: list[Tensor] = []  # the last update's
        self.batch: Batch | None = None  # that was learnt from last
        self._norm_before = math.nan  # of the gradient, when it was restored
        self._sums = torch.zeros(3, device=self.device)  # loss, mean Q-value, updates

    @torch.no_grad()
    def act(self, states: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        """Epsilon-greedy actions int64 [N] for states [N, stack, *frame]."""
        return epsilon_greedy(self.online(states), epsilon, generator)

    @torch.no_grad()
    def act_at_random(self, num_games: int, generator: torch.Generator) -> Tensor:
        """What `act` does at an epsilon of 1, without a look."""
        return epsilon_greedy(torch.zeros(num_games, self.num_actions, device=self.device), 1.0, generator)

    def learn(self, batch: Batch) -> list[Tensor]:
        """An update of the online network for each of K minibatches, in turn; the last one's gradients.

        The target network stands still meanwhile, so one forward pass gives the targets of all K.
        """
        with torch.no_grad():
            q_target_t = self.target(batch.s_t.flatten(0, 1)).unflatten(0, batch.r_t.shape)
            targets_t = targets.dqn(batch.r_t, batch.discount_t, q_target_t)
        for s_tm1, a_tm1, y in zip(batch.s_tm1, batch.a_tm1, targets_t, strict=True):
            x_tm1 = self.online.prepare(s_tm1)
            loss, q_mean, *gradients = self._differentiator(x_tm1, a_tm1, y)(x_tm1, a_tm1, y)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
            self.optimizer.step()
            self._sums += torch.stack((loss, q_mean, torch.ones_like(loss)))
        return gradients

    def _differentiate(self, x_tm1: Tensor, a_tm1: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """The loss of a minibatch, its mean Q-value, and the gradient of the loss by each parameter."""
        q_tm1 = self.online(x_tm1).gather(1, a_tm1.unsqueeze(1)).squeeze(1)
        loss = targets.loss(self.loss, self.reduction, q_tm1, y)
        return loss.detach(), q_tm1.detach().mean(), *torch.autograd.grad(loss, self._parameters)

    def _differentiator(self, *examples: Tensor) -> Callable[..., Any]:
        if not self._script:
            return self._differentiate
        shape = examples[0].shape
        if shape not in self._scripts:
            self._scripts[shape] = scripted(self._differentiate, *examples)
        return self._scripts[shape]

    def copy_target(self) -> None:
        """Target network := online network."""
        self.target.load_state_dict(self.online.state_dict())

    def losses(self) -> Losses:
        """Means since the last call; nan where there was no update."""
        loss, q_mean, updates = self._sums.tolist()
        self._sums.zero_()
        return Losses(loss / updates, q_mean / updates, int(updates)) if updates else Losses(math.nan, math.nan, 0)

    def is_finite(self) -> bool:
        """Whether all losses and Q-values since `losses` was last called were finite numbers."""
        return bool(self._sums.isfinite().all())

    def state(self) -> dict[str, Any]:
        """All that learning has changed, as a checkpoint keeps it."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self._sums,
            "gradient_norm": self.gradient_norm(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a `state`. Raises ValueError, KeyError or RuntimeError where it does not fit."""
        for index, moments in state["optimizer"]["state"].items():
            sizes = [value.numel() for value in moments.values() if isinstance(value, Tensor)]
            if len(moments) > 8 or max(sizes, default=0) > self._parameters[index].numel():
                raise ValueError("the optimizer's numbers do not fit the network")
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        own = self.optimizer.state_dict()["param_groups"]  # of the config and this device, not of the file
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own})
        self._sums.copy_(state["sums"])
        self._norm_before = float(state["gradient_norm"])

    def gradient_norm(self) -> float:
        """Norm of the last update's gradient; nan before the first."""
        return float(nn.utils.get_total_norm(self.gradients)) if self.gradients else self._norm_before
