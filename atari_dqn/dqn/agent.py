"""The DQN agent: an online and a target network, how it acts and how it learns."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atari_dqn.dqn import augmentation
from atari_dqn.dqn.bootstrap import Minibatch, Rule
from atari_dqn.dqn.exploration import Persistent, epsilon_greedy
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.optimizers import NatureRMSProp
from atari_dqn.dqn.replay import Batch
from atari_dqn.dqn.schedules import Schedule
from atari_dqn.utils.graphs import PerShape, compiled, scripted

Policy = Callable[[Tensor, float | Tensor, torch.Generator], Tensor]


def learned(network: nn.Module) -> list[Tensor]:
    """A network's parameters that are not frozen."""
    return [weights for weights in network.parameters() if weights.requires_grad]


class Losses(NamedTuple):
    """Mean training statistics since the last call."""

    loss: float
    q_mean: float
    updates: int


class Agent:
    """Two networks and an optimizer; knows nothing of games, logs or files.

    Args:
        online: the Q-network that acts and learns; its `values` define what it predicts.
        rule: what targets bootstrap from.
        reduction: of a minibatch's losses: `sum`, as in the Nature paper's released code, or `mean`.
        max_grad_norm: clip the gradient's norm to this; None: no clipping.
        tau: share of the online network in a target update; 1 copies it.
        policy: chooses actions from Q-values [N, A], an epsilon and a generator.
        script: on a CPU, differentiate without Python; see graphs.scripted.
        fuse: compile an update as a whole, and the target network's forward pass; see graphs.compiled.
        schedule: of the optimizer's learning rate; None: constant.
        target_is_online: both networks are the same in every update; on a CPU there is only one then.
        augment: how the pictures of an update are changed, a key of augmentation.KINDS; None: not at all.
    """

    def __init__(
        self,
        online: QNetwork,
        optimizer: torch.optim.Optimizer,
        rule: Rule,
        reduction: str,
        max_grad_norm: float | None = None,
        tau: float = 1.0,
        policy: Policy = epsilon_greedy,
        script: bool = False,
        fuse: bool = False,
        schedule: Schedule | None = None,
        augment: str | None = None,
        target_is_online: bool = False,
    ) -> None:
        self.online, self.optimizer, self.rule, self.policy = online, optimizer, rule, policy
        self.schedule = schedule or Schedule(optimizer)
        self.device = next(online.parameters()).device
        one = target_is_online and self.device.type == "cpu"
        self.target = online if one else copy.deepcopy(online).requires_grad_(False)
        rule.begin(self.target)
        self._reduce = torch.sum if reduction == "sum" else torch.mean
        self.max_grad_norm, self._tau, self._augment = max_grad_norm, tau, augment
        self._parameters: list[Tensor] = learned(online)
        self._fuse = fuse
        self._differentiated: Callable[..., Any] = self._differentiate
        if fuse or (script and self.device.type == "cpu"):
            self._differentiated = PerShape(compiled if fuse else scripted, self._differentiate)
        if fuse:
            for network in (online, self.target):
                network.use_products()
            self.target.compile(dynamic=False)
            if isinstance(optimizer, NatureRMSProp):
                optimizer.compile()
        self.gradients: list[Tensor] = []  # the last update's
        self.batch: Batch | None = None  # of the last update
        self._norm_before = math.nan  # of the gradient, when it was restored
        self._sums = torch.zeros(3, device=self.device)  # loss, mean Q-value, updates
        self._shown = torch.zeros(3, pin_memory=self.device.type == "cuda")  # of them, on the host

    @torch.no_grad()
    def act(self, states: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        """The policy's actions int64 [N] for states [N, stack, *frame]; noisy weights are drawn per game."""
        noise = self.online.draw_noise(len(states), generator)
        return self.policy(self.online.q_values(states, noise), epsilon, generator)

    @torch.no_grad()
    def act_at_random(self, num_games: int, generator: torch.Generator) -> Tensor:
        """Random actions: `act` at an epsilon of 1, without computing Q-values."""
        return self.policy(torch.zeros(num_games, self.online.num_actions, device=self.device), 1.0, generator)

    def standardize(self, frames: Tensor) -> None:
        """Let both networks measure their inputs, frames [n, *frame], before learning starts."""
        for network in (self.online, self.target):
            network.features.standardize(frames.to(self.device))

    def learn(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Update the online network by each of K minibatches, in turn.

        Args:
            generator: draws augmentations, noisy weights and quantiles.
        Returns: each transition's error, for its priority, [K, B]; the last minibatch's gradients.
        """
        if self._augment:
            batch = batch._replace(
                s_tm1=self._augmented(batch.s_tm1, generator), s_t=self._augmented(batch.s_t, generator)
            )
        self.online.round_weights()  # before they are recorded
        losses, errors = [], []
        for minibatch in self._minibatches(batch, generator):
            loss, q_mean, error, *gradients = self._differentiated(*minibatch)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
            self.optimizer.step()
            self.online.round_weights(anew=True)
            losses += [loss, q_mean]
            errors.append(error)
        self._sums[:2] += torch.stack(losses).view(-1, 2).sum(0)
        self._sums[2] += len(errors)
        return torch.stack(errors), gradients

    @torch.no_grad()
    def _augmented(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """States [K, B, stack, H, W], changed at random, as the networks' features take them."""
        assert self._augment is not None
        flat = states.flatten(0, 1)
        change = augmentation.draw(self._augment, len(flat), generator, self.device)
        x = self.online.prepare(augmentation.shifted(flat, change))
        if change.factor is not None:
            x.mul_(change.factor[:, None, None, None])
        return x.unflatten(0, states.shape[:2])

    def loss(self, m: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
        """A minibatch's loss, mean Q-value, and each transition's error [B]. For DQN (Mnih et al. 2015, Algorithm 1):

        y = r_t + discount_t max_a Q_target(s_t, a);  loss = sum of weight * huber(y - Q(s_tm1, a_tm1))
        """
        values = self.online.values
        with torch.no_grad():
            y = self.rule.target(self.online, m)  # [B, n]
        z_tm1 = self.online(m.x_tm1, m.noise[:1], m.taus)  # [B, A, n]
        z_tm1 = z_tm1.take_along_dim(m.a_tm1[:, None, None], 1).squeeze(1)  # [B, n]
        losses, errors = self.rule.loss(self.online, z_tm1, y, m)
        return self._reduce(m.weight * losses), values.mean(z_tm1.detach()).mean(), errors

    def _differentiate(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """`loss` of a Minibatch's parts, and the gradient of the loss by each parameter."""
        loss, q_mean, errors = self.loss(Minibatch(*parts))
        return loss.detach(), q_mean, errors, *torch.autograd.grad(loss, self._parameters)

    def _minibatches(self, batch: Batch, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Each minibatch's parts. The target network stands still meanwhile, so one forward pass serves all K."""
        (k, b), values = batch.r_t.shape, self.online.values
        with torch.no_grad():
            noise = self.target.draw_noise(k, generator)
            taus = values.draw(k * b, True, generator, self.device)
            bootstrapped = self.rule.precompute(self.target, batch, noise, taus)
        noise = self.online.draw_noise(2 * k, generator).unflatten(0, (k, 2))
        taus = values.draw(k * b, False, generator, self.device).unflatten(0, (k, b))
        for i, s_tm1 in enumerate(batch.s_tm1):
            x_tm1 = s_tm1 if self._fuse else self.online.prepare(s_tm1)  # which the compiler does as part of the rest
            parts = batch.a_tm1, batch.r_t, batch.discount_t, batch.weight, noise, taus, *bootstrapped
            yield x_tm1, *(part[i] for part in parts)

    @torch.no_grad()
    def copy_target(self, times: int = 1) -> None:
        """target += tau * (online - target), `times` times; with tau = 1: target := online."""
        self.rule.copying(self.target)
        if self.target is self.online:
            return
        share = 1 - (1 - self._tau) ** times
        torch._foreach_lerp_([*self.target.parameters()], [*self.online.parameters()], share)

    def losses(self) -> Losses:
        """Means since the last call; nan if there was no update."""
        loss, q_mean, updates = self._sums.tolist()
        self._sums.zero_()
        return Losses(loss / updates, q_mean / updates, int(updates)) if updates else Losses(math.nan, math.nan, 0)

    def show(self) -> None:
        """Copy the sums to the host for `is_finite`, without waiting."""
        self._shown.copy_(self._sums, non_blocking=True)

    def is_finite(self) -> bool:
        """Whether all losses and Q-values were finite numbers, from when `losses` was last called until the last
        `show` that the device was waited for since."""
        return math.isfinite(sum(self._shown.tolist()))

    def state(self) -> dict[str, Any]:
        """Everything that learning changes, for a checkpoint."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "rule": self.rule.state(),
            "sums": self._sums,
            "gradient_norm": self.gradient_norm(),
            "policy": self.policy.state() if isinstance(self.policy, Persistent) else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`. Raises ValueError, KeyError or RuntimeError if it does not fit."""
        is_own = not type(self.optimizer).__module__.startswith(("torch.optim.", "atari_dqn."))
        for index, moments in state["optimizer"]["state"].items() if not is_own else ():
            sizes = [value.numel() for value in moments.values() if isinstance(value, Tensor)]
            if len(moments) > 8 or max(sizes, default=0) > self._parameters[index].numel():
                raise ValueError("the optimizer's numbers do not fit the network")
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        self.rule.restore(state.get("rule", {}))
        own = self.optimizer.state_dict()["param_groups"]  # of the config and this device, not of the file
        if is_own:  # some count in them
            for group, saved in zip(own, state["optimizer"]["param_groups"], strict=True):
                group.update({key: saved[key] for key in group.keys() & saved.keys() - {"lr", "params"}})
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own})
        self.schedule.restore(state.get("schedule", {}))
        self._sums.copy_(state["sums"])
        self._norm_before = float(state["gradient_norm"])
        if isinstance(self.policy, Persistent):
            self.policy.restore(state["policy"], self.online.num_actions)

    def gradient_norm(self) -> float:
        """Norm of the last update's gradient; nan before the first."""
        return float(nn.utils.get_total_norm(self.gradients)) if self.gradients else self._norm_before
