"""What a target bootstraps from: the rules of DQN, Double DQN and Munchausen DQN."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from atari_dqn.config.schema import AgentConfig
from atari_dqn.dqn import targets
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.replay import Batch


class Minibatch(NamedTuple):
    """A minibatch of B transitions, and all that its loss depends on beside the online network.

    Attributes:
        x_tm1: [B, stack, *frame], states as the network's features take them
        a_tm1: int64 [B]
        r_t: [B]
        discount_t: [B]
        weight: [B]
        noise: [2, noise_size], for the online network: at s_tm1, and at s_t in Double DQN
        taus: [B, n], quantiles that the online network is asked for
        z_t: [B, A, n], the target network's outputs at s_t
        more: that the rule precomputed beside z_t
    """

    x_tm1: Tensor
    a_tm1: Tensor
    r_t: Tensor
    discount_t: Tensor
    weight: Tensor
    noise: Tensor
    taus: Tensor
    z_t: Tensor
    more: Tensor | None = None


class Rule(Protocol):
    """What targets bootstrap from, and how predictions are compared with them. Derive your own from Greedy.

    Its methods run inside CUDA graphs and TorchScript: tensors in, tensors out, nothing that waits for the device, and
    what it keeps in tensors is changed in place.

    Attributes:
        bonus: the most that a target adds to a step's reward.
    """

    bonus: float

    def begin(self, target: QNetwork) -> None:
        """Called once, with the target network as it is at the start."""

    def copying(self, target: QNetwork) -> None:
        """The target network is about to be copied from the online one."""

    def precompute(self, target: QNetwork, batch: Batch, noise: Tensor, taus: Tensor) -> list[Tensor]:
        """z_t, and `more` where the rule needs it, for all K minibatches at once: the target network stands still.

        Args:
            noise: [K, noise_size], for `target`.
            taus: [K * B, n], for `target`.

        Returns:
            [K, B, ...] each.
        """

    def target(self, online: QNetwork, m: Minibatch) -> Tensor:
        """Targets y [B, n] for the action taken, without gradients."""

    def loss(self, online: QNetwork, z_tm1: Tensor, y: Tensor, m: Minibatch) -> tuple[Tensor, Tensor]:
        """Of predictions z_tm1 [B, n] against y: the loss [B], and the error [B] that priorities follow, detached."""

    def state(self) -> dict[str, Any]:
        """What learning changes, for a checkpoint: plain data and tensors."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""


class Greedy:
    """Bootstrap from the target network's best action: DQN (Mnih et al. 2015)."""

    bonus = 0.0

    def begin(self, target: QNetwork) -> None: ...
    def copying(self, target: QNetwork) -> None: ...

    def precompute(self, target: QNetwork, batch: Batch, noise: Tensor, taus: Tensor) -> list[Tensor]:
        return [target(batch.s_t.flatten(0, 1), noise, taus).unflatten(0, batch.r_t.shape)]

    def target(self, online: QNetwork, m: Minibatch) -> Tensor:
        return online.values.target(m.r_t, m.discount_t, m.z_t, q_select_t=online.values.mean(m.z_t))

    def loss(self, online: QNetwork, z_tm1: Tensor, y: Tensor, m: Minibatch) -> tuple[Tensor, Tensor]:
        return online.values.loss(z_tm1, y, m.taus)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...


class Double(Greedy):
    """Bootstrap from the online network's best action, valued by the target network (van Hasselt et al. 2016)."""

    def precompute(self, target: QNetwork, batch: Batch, noise: Tensor, taus: Tensor) -> list[Tensor]:
        x_t = target.prepare(batch.s_t.flatten(0, 1))
        return [part.unflatten(0, batch.r_t.shape) for part in (target(x_t, noise, taus), x_t)]

    def target(self, online: QNetwork, m: Minibatch) -> Tensor:
        assert m.more is not None
        return online.values.target(m.r_t, m.discount_t, m.z_t, q_select_t=online.q_values(m.more, m.noise[1:]))


class Munchausen(Greedy):
    """Bootstrap from all actions, as a softmax policy takes them (Vieillard et al. 2020)."""

    def __init__(self, alpha: float = 0.9, temperature: float = 0.03, floor: float = -1.0) -> None:
        self._numbers = alpha, temperature, floor
        self.bonus = -alpha * floor + 3 * temperature  # ln 18 < 3

    def precompute(self, target: QNetwork, batch: Batch, noise: Tensor, taus: Tensor) -> list[Tensor]:
        q_tm1 = target.q_values(batch.s_tm1.flatten(0, 1), noise).unflatten(0, batch.r_t.shape)
        return [*super().precompute(target, batch, noise, taus), q_tm1]

    def target(self, online: QNetwork, m: Minibatch) -> Tensor:
        values, q_tm1 = online.values, m.more
        assert q_tm1 is not None
        return targets.munchausen(
            m.r_t, m.discount_t, values.samples(m.z_t), values.mean(m.z_t), q_tm1, m.a_tm1, *self._numbers
        )


def make_rule(agent: AgentConfig, target_is_online: bool = False) -> Rule:
    """The rule that the switches say.

    Args:
        target_is_online: the target network equals the online one in every update, so that Double DQN is DQN.
    """
    if agent.munchausen:
        return Munchausen(agent.munchausen_alpha, agent.munchausen_temperature, agent.munchausen_floor)
    return Double() if agent.double and not target_is_online else Greedy()
