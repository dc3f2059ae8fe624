"""What a network's outputs represent: an action's expected return, or its return distribution in one of three forms.

`z` are outputs [..., A, n], or [..., n] of one action each; n is 1 for an expectation.
"""

import torch
from torch import Tensor

from atari_dqn.config import schema
from atari_dqn.dqn import targets


class Values:
    """An action's expected return, as in DQN (Mnih et al. 2015): n = 1.

    Attributes:
        outputs: what a network gives for an action.
        cosines: that a quantile is shown to a network as; 0 for networks that are not asked for quantiles.
    """

    outputs, cosines = 1, 0

    def __init__(self, head: schema.Head, loss: str) -> None:
        self._loss = loss

    def mean(self, z: Tensor) -> Tensor:
        """Expected returns [...]."""
        return z.mean(-1)

    def draw(self, rows: int, target: bool, generator: torch.Generator, device: torch.device) -> Tensor:
        """The quantiles that a network is asked for in an update or its target, [rows, n]; n is 0 if it is not."""
        return torch.empty(rows, 0, device=device)

    def target(self, r_t: Tensor, discount_t: Tensor, z_t: Tensor, q_select_t: Tensor) -> Tensor:
        """What z_tm1 of the action taken should have been, [..., n]; see targets.greedy."""
        return targets.greedy(r_t, discount_t, self.samples(z_t), q_select_t)

    def samples(self, z_t: Tensor) -> Tensor:
        """Those of a target network's outputs that are bootstrapped from."""
        return z_t

    def spread(self, rows: int, device: torch.device) -> Tensor:
        """Quantiles in the middles of equal shares, [rows, n], if the head has quantiles."""
        return torch.full((rows, 1), 0.5, device=device)

    def loss(self, z_tm1: Tensor, y: Tensor, taus: Tensor) -> tuple[Tensor, Tensor]:
        """Of predictions z_tm1 [B, n]: the loss [B], and how surprising each was [B], for prioritized replay."""
        losses = targets.error_loss(self._loss, z_tm1, y).sum(-1)
        return losses, (y - z_tm1.detach()).abs().sum(-1)


class Categorical(Values):
    """C51: logits of n returns evenly spread from v_min to v_max (Bellemare, Dabney and Munos 2017)."""

    def __init__(self, head: schema.Head, loss: str) -> None:
        self.outputs = head.atoms
        self._range = (head.v_min, head.v_max, head.atoms)
        self._adds_entropy = head.priority == "cross_entropy"

    def _support(self, z: Tensor) -> Tensor:
        return torch.linspace(*self._range, device=z.device)

    def mean(self, z: Tensor) -> Tensor:
        return (z.softmax(-1) * self._support(z)).sum(-1)

    def target(self, r_t: Tensor, discount_t: Tensor, z_t: Tensor, q_select_t: Tensor) -> Tensor:
        return targets.categorical(r_t, discount_t, z_t.softmax(-1), q_select_t, self._support(z_t))

    def loss(self, z_tm1: Tensor, y: Tensor, taus: Tensor) -> tuple[Tensor, Tensor]:
        losses = targets.divergence(z_tm1, y)
        errors = losses.detach()
        if self._adds_entropy:
            errors = errors - torch.special.xlogy(y, y).sum(-1)
        return losses, errors.clamp(min=0)  # below which it can be rounded


class Quantiles(Values):
    """QR-DQN: n quantiles of the return, in the middle of n equal shares (Dabney et al. 2018a)."""

    def __init__(self, head: schema.Head, loss: str) -> None:
        self.outputs = self.asked = head.quantiles

    def spread(self, rows: int, device: torch.device) -> Tensor:
        return ((torch.arange(self.asked, device=device) + 0.5) / self.asked).expand(rows, -1)

    def loss(self, z_tm1: Tensor, y: Tensor, taus: Tensor) -> tuple[Tensor, Tensor]:
        losses = targets.quantile_huber(z_tm1, self._taus(z_tm1, taus), y)
        return losses, losses.detach()

    def _taus(self, z: Tensor, drawn: Tensor) -> Tensor:
        return self.spread(len(z), z.device)


class ImplicitQuantiles(Quantiles):
    """IQN: any quantiles that the network is asked for (Dabney et al. 2018b).

    For learning they are drawn from U(0, 1). Those that an action is chosen by are evenly spread, where the paper draws
    them too; in a target they come last, after those that are bootstrapped from.
    """

    def __init__(self, head: schema.Head, loss: str) -> None:
        self.outputs, self.cosines = 1, head.cosines
        self.asked, self._samples, self._target_samples = head.policy_samples, head.samples, head.target_samples

    def mean(self, z: Tensor) -> Tensor:
        return z[..., -self.asked :].mean(-1)

    def draw(self, rows: int, target: bool, generator: torch.Generator, device: torch.device) -> Tensor:
        drawn = self._target_samples if target else self._samples
        taus = torch.rand(rows, drawn, generator=generator, device=device)
        return torch.cat([taus, self.spread(rows, device)], 1) if target else taus

    def samples(self, z_t: Tensor) -> Tensor:
        return z_t[..., : self._target_samples]

    def _taus(self, z: Tensor, drawn: Tensor) -> Tensor:
        return drawn


KINDS: dict[str, type[Values]] = {
    "scalar": Values, "c51": Categorical, "qr": Quantiles, "iqn": ImplicitQuantiles,
}  # fmt: skip


def make_head(head: schema.Head, loss: str) -> Values:
    """What a config's `head` means."""
    return KINDS[head.name](head, loss)
