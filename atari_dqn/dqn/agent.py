"""The DQN agent: an online and a target network, how it acts and how it learns."""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn import bootstrap, networks, optimizers
from atari_dqn.dqn.exploration import Persistent, boltzmann, epsilon_greedy
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.replay import Batch
from atari_dqn.utils import seeding
from atari_dqn.utils.graphs import can_compile, compiled, scripted

Policy = Callable[[Tensor, float | Tensor, torch.Generator], Tensor]


def make(config: TrainConfig, frame_shape: tuple[int, ...], num_actions: int, device: torch.device) -> "Agent":
    """The agent that a config asks for, with the first weights that its seed gives."""
    torch.manual_seed(seeding.derive(config.seed, "network")[0])
    optimizer, exploration = config.optimizer, config.exploration
    policy: Policy = epsilon_greedy
    if exploration.temperature is not None:
        policy = functools.partial(boltzmann, temperature=exploration.temperature)
    elif exploration.persistence is not None:
        policy = Persistent(exploration.persistence, exploration.end, config.num_envs, device)
    online = networks.build(
        config.network, frame_shape, config.env.frame_stack, num_actions, config.head, config.agent
    ).to(device)
    compute = config.compute
    compiling = compute.compile
    if compiling is None:
        suits = device.type == "cuda" and isinstance(online, networks.CNN) and not compute.deterministic
        compiling = suits and can_compile(device)
    agent = Agent(
        online,
        optimizers.build(optimizer.name, online.parameters(), optimizer.learning_rate, optimizer.arguments),
        bootstrap.build(config.agent),
        config.agent.reduction,
        optimizer.max_grad_norm,
        config.update.tau,
        policy,
        script=compute.graphs and not compiling,
        fuse=compiling and device.type != "cpu",
    )
    if compiling and device.type == "cpu":  # whose fast layers the compiler does not take with gradients
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
        online: the Q-network that acts and learns; its `values` say what it predicts.
        rule: what its targets bootstrap from.
        reduction: of a minibatch's losses: `sum`, as the Nature paper's released code does, or `mean`.
        max_grad_norm: longer gradients are shortened to this norm; None leaves them.
        tau: how much of the online network a target copy takes over; 1 is all.
        policy: chooses actions by Q-values [N, A], an epsilon and a generator.
        script: on a CPU, differentiate without Python; see graphs.scripted.
        fuse: compile an update as a whole, and the target network's forward pass; see graphs.compiled.
    """

    def __init__(
        self,
        online: QNetwork,
        optimizer: torch.optim.Optimizer,
        rule: bootstrap.Greedy,
        reduction: str,
        max_grad_norm: float | None = None,
        tau: float = 1.0,
        policy: Policy = epsilon_greedy,
        script: bool = False,
        fuse: bool = False,
    ) -> None:
        self.online, self.optimizer, self.rule, self.policy = online, optimizer, rule, policy
        self.target = copy.deepcopy(online).requires_grad_(False)
        self._reduce = torch.sum if reduction == "sum" else torch.mean
        self.max_grad_norm, self._tau = max_grad_norm, tau
        self.device = next(online.parameters()).device
        self._parameters: list[Tensor] = list(online.parameters())
        self._script, self._fuse = script and self.device.type == "cpu", fuse
        self._scripts: dict[object, Callable[..., Any]] = {}
        if fuse:
            for network in (online, self.target):
                network.use_products()
            self.target.compile(dynamic=False)
            if isinstance(optimizer, optimizers.NatureRMSProp):
                optimizer.compile()
        self.gradients: list[Tensor] = []  # the last update's
        self.batch: Batch | None = None  # that was learnt from last
        self._norm_before = math.nan  # of the gradient, when it was restored
        self._sums = torch.zeros(3, device=self.device)  # loss, mean Q-value, updates
        self._shown = torch.zeros(3, pin_memory=self.device.type == "cuda")  # of them, on the host

    @torch.no_grad()
    def act(self, states: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        """The policy's actions int64 [N] for states [N, stack, *frame]; noisy weights are drawn for each game apart."""
        noise = self.online.draw_noise(len(states), generator)
        return self.policy(self.online.q_values(states, noise), epsilon, generator)

    @torch.no_grad()
    def act_at_random(self, num_games: int, generator: torch.Generator) -> Tensor:
        """What `act` does at an epsilon of 1, without a look."""
        return self.policy(torch.zeros(num_games, self.online.num_actions, device=self.device), 1.0, generator)

    def standardize(self, frames: Tensor) -> None:
        """Show both networks what is to be seen, frames [n, *frame], before they learn."""
        for network in (self.online, self.target):
            network.standardize(frames.to(self.device))

    def learn(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """An update of the online network for each of K minibatches, in turn.

        The target network stands still meanwhile, so one forward pass serves the targets of all K.

        Args:
            generator: of what is drawn beside the batch: noisy weights, quantiles.
        Returns: how surprising each transition was, [K, B]; the last minibatch's gradients.
        """
        (k, b), values = batch.r_t.shape, self.online.values
        with torch.no_grad():
            noise = self.target.draw_noise(k, generator)
            taus = values.draw(k * b, True, generator, self.device)
            seen = self.rule.look(self.target, batch, noise, taus)
        noise = self.online.draw_noise(2 * k, generator).unflatten(0, (k, 2))  # for s_tm1, and for s_t in some rules
        taus = values.draw(k * b, False, generator, self.device).unflatten(0, (k, b))
        losses, errors = [], []
        for i, s_tm1 in enumerate(batch.s_tm1):
            parts = (batch.a_tm1, batch.r_t, batch.discount_t, batch.weight, noise, taus, *seen)
            x_tm1 = s_tm1 if self._fuse else self.online.prepare(s_tm1)
            inputs = (x_tm1, *(part[i] for part in parts))
            loss, q_mean, error, *gradients = self._differentiator(*inputs)(*inputs)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
            self.optimizer.step()
            losses += [loss, q_mean]
            errors.append(error)
        self._sums[:2] += torch.stack(losses).view(k, 2).sum(0)
        self._sums[2] += k
        return torch.stack(errors), gradients

    def _differentiate(
        self,
        x_tm1: Tensor,
        a_tm1: Tensor,
        r_t: Tensor,
        discount_t: Tensor,
        weight: Tensor,
        noise: Tensor,
        taus: Tensor,
        *seen: Tensor,
    ) -> tuple[Tensor, ...]:
        """A minibatch's loss, mean Q-value, each transition's error, and the gradient of the loss by each parameter."""
        values = self.online.values
        with torch.no_grad():
            y = self.rule.target(self.online, bootstrap.Step(a_tm1, r_t, discount_t), noise[1:], *seen)
        z_tm1 = self.online(x_tm1, noise[:1], taus).take_along_dim(a_tm1[:, None, None], 1).squeeze(1)
        losses, errors = values.loss(z_tm1, y, taus)
        loss = self._reduce(weight * losses)
        q_mean = values.mean(z_tm1.detach()).mean()
        return loss.detach(), q_mean, errors, *torch.autograd.grad(loss, self._parameters)

    def _differentiator(self, *examples: Tensor) -> Callable[..., Any]:
        if not (self._script or self._fuse):
            return self._differentiate
        key = examples[0].shape, examples[0].stride()
        if key not in self._scripts:
            self._scripts[key] = (compiled if self._fuse else scripted)(self._differentiate, *examples)
        return self._scripts[key]

    @torch.no_grad()
    def copy_target(self, times: int = 1) -> None:
        """target += tau * (online - target), so many times: target := online where tau is 1."""
        share = 1 - (1 - self._tau) ** times
        torch._foreach_lerp_([*self.target.parameters()], [*self._parameters], share)

    def losses(self) -> Losses:
        """Means since the last call; nan where there was no update."""
        loss, q_mean, updates = self._sums.tolist()
        self._sums.zero_()
        return Losses(loss / updates, q_mean / updates, int(updates)) if updates else Losses(math.nan, math.nan, 0)

    def show(self) -> None:
        """Send the sums to the host, without waiting, for `is_finite` to look at."""
        self._shown.copy_(self._sums, non_blocking=True)

    def is_finite(self) -> bool:
        """Whether all losses and Q-values were finite numbers, from when `losses` was last called until the last
        `show` that the device was waited for since."""
        return math.isfinite(sum(self._shown.tolist()))

    def state(self) -> dict[str, Any]:
        """All that learning has changed, as a checkpoint keeps it."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self._sums,
            "gradient_norm": self.gradient_norm(),
            "policy": self.policy.state() if isinstance(self.policy, Persistent) else {},
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
        if isinstance(self.policy, Persistent):
            self.policy.restore(state["policy"], self.online.num_actions)

    def gradient_norm(self) -> float:
        """Norm of the last update's gradient; nan before the first."""
        return float(nn.utils.get_total_norm(self.gradients)) if self.gradients else self._norm_before
