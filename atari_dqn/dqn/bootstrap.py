"""Which action a target bootstraps from, and which networks are asked for that."""

from typing import NamedTuple

from torch import Tensor

from atari_dqn.config.schema import AgentConfig
from atari_dqn.dqn import targets
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.replay import Batch


class Step(NamedTuple):
    """What was done in a minibatch's states, and what came of it; [B] each, as in Batch."""

    a_tm1: Tensor
    r_t: Tensor
    discount_t: Tensor


class Greedy:
    """The target network's best action: DQN.

    Attributes:
        bonus: what a target adds to a step's reward, at most.
    """

    bonus = 0.0

    def __init__(self, agent: AgentConfig) -> None:
        pass

    def look(self, target: QNetwork, batch: Batch, noise: Tensor, taus: Tensor) -> list[Tensor]:
        """What does not change while the target network stands still, for all K minibatches at once: [K, B, ...] each.

        noise [K, noise_size] and taus [K * B, n] are for `target`.
        """
        shape = batch.r_t.shape
        return [target(batch.s_t.flatten(0, 1), noise, taus).unflatten(0, shape)]

    def target(self, online: QNetwork, step: Step, noise: Tensor, *seen: Tensor) -> Tensor:
        """Targets [B, n] of a minibatch; `seen` is its part of what `look` gave, noise [1, noise_size] for `online`."""
        (z_t,) = seen
        return online.values.target(step.r_t, step.discount_t, z_t, online.values.mean(z_t))


class Double(Greedy):
    """The online network's best action, as the target network values it: Double DQN (van Hasselt et al. 2016)."""

    def look(self, target: QNetwork, batch: Batch, noise: Tensor, taus: Tensor) -> list[Tensor]:
        x_t = target.prepare(batch.s_t.flatten(0, 1))
        return [part.unflatten(0, batch.r_t.shape) for part in (target(x_t, noise, taus), x_t)]

    def target(self, online: QNetwork, step: Step, noise: Tensor, *seen: Tensor) -> Tensor:
        z_t, x_t = seen
        return online.values.target(step.r_t, step.discount_t, z_t, online.q_values(x_t, noise))


class Munchausen(Greedy):
    """All actions, as a softmax policy takes them: Munchausen DQN (Vieillard et al. 2020)."""

    def __init__(self, agent: AgentConfig) -> None:
        self._numbers = agent.munchausen_alpha, agent.munchausen_temperature, agent.munchausen_floor
        self.bonus = -agent.munchausen_alpha * agent.munchausen_floor + 3 * agent.munchausen_temperature  # ln 18 < 3

    def look(self, target: QNetwork, batch: Batch, noise: Tensor, taus: Tensor) -> list[Tensor]:
        q_tm1 = target.q_values(batch.s_tm1.flatten(0, 1), noise).unflatten(0, batch.r_t.shape)
        return [*super().look(target, batch, noise, taus), q_tm1]

    def target(self, online: QNetwork, step: Step, noise: Tensor, *seen: Tensor) -> Tensor:
        (z_t, q_tm1), values = seen, online.values
        return targets.munchausen(
            step.r_t, step.discount_t, values.samples(z_t), values.mean(z_t), q_tm1, step.a_tm1, *self._numbers
        )


def build(agent: AgentConfig) -> Greedy:
    """The rule that a config asks for."""
    if agent.munchausen:
        return Munchausen(agent)
    return Double(agent) if agent.double else Greedy(agent)
