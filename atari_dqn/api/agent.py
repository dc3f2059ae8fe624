"""An agent from a checkpoint: its Q-values and its actions."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atari_dqn.api import given
from atari_dqn.api.given import told
from atari_dqn.api.preprocess import Preprocess
from atari_dqn.checkpoint import checkpoints
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.exploration import epsilon_greedy
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.evaluation.protocol import environment
from atari_dqn.registry import own_modules, plugins
from atari_dqn.utils import devices, seeding
from atari_dqn.utils.errors import UserError

PART = 256  # observations that the network sees at once


class Agent:
    """A trained network that acts; `atari_dqn.load` makes one.

    Attributes:
        actions: what each action number means, e.g. ("NOOP", "FIRE", "RIGHT", "LEFT").
        config: the settings of the run that trained it.
        agent_steps: for how many agent steps it was trained.
        network: the torch module, on `device`; its parameters need no gradients.
        device: where the network is.
        path: the checkpoint's file.
        preprocess: how raw frames become observations.
    """

    def __init__(self, checkpoint: Checkpoint, seed: int = 0) -> None:
        self.checkpoint = checkpoint
        self.actions: tuple[str, ...] = checkpoint.actions
        self.config: TrainConfig = checkpoint.config
        self.agent_steps: int = checkpoint.agent_steps
        self.network: QNetwork = checkpoint.network
        self.device: torch.device = next(self.network.parameters()).device
        self.path: Path = checkpoint.path
        env = environment(self.config.env, self.config.protocol, None)
        self.preprocess: Preprocess = Preprocess(env, self.actions, checkpoint.frame_shape, checkpoint.frame_dtype)
        self._generator = seeding.generator(self.device, seed, "evaluation actions")

    def __repr__(self) -> str:
        return f"Agent({self.config.env.game}, {self.agent_steps:,} agent steps, {self.path})"

    @told
    def q_values(self, observation: Any) -> NDArray[np.float32]:
        """Q-values, float32 [A] for an observation or [N, A] for a batch of N, in the order of `actions`.

        A distributional network's are the means of its distributions; a noisy one's are those of its mean weights.

        Args:
            observation: [frame_stack, *frame], or a batch of those; see `preprocess.shape` and `preprocess.dtype`. An
                array, a tensor or lists.

        Raises:
            UserError: another shape or type, or NaN.
        """
        states, is_one = self._states(observation)
        values = self._q_values(states).cpu().numpy()
        return values[0] if is_one else values

    @told
    def act(self, observation: Any, epsilon: float = 0.0) -> Any:
        """The best action of an observation, an int; for a batch, int64 [N].

        Args:
            observation: as `q_values` takes it.
            epsilon: the probability of a random action instead, from 0 to 1.

        Raises:
            UserError: as `q_values`; or epsilon is out of range.
        """
        share = given.share("epsilon", epsilon)
        states, is_one = self._states(observation)
        chosen = epsilon_greedy(self._q_values(states), share, self._generator).cpu().numpy()
        return int(chosen[0]) if is_one else chosen

    @torch.no_grad()
    def _q_values(self, states: Tensor) -> Tensor:
        if not len(states):
            return torch.empty(0, len(self.actions), device=self.device)
        return torch.cat([self.network.q_values(part.to(self.device)) for part in states.split(PART)]).float()

    def _states(self, observation: Any) -> tuple[Tensor, bool]:
        """A batch of states, and whether it is of one that was given alone."""
        wanted = self.preprocess
        try:
            seen = observation.detach().cpu().numpy() if isinstance(observation, Tensor) else np.asarray(observation)
        except (ValueError, TypeError, RuntimeError):
            seen = np.empty((), object)
        is_one = seen.shape == wanted.shape
        if not is_one and seen.shape[1:] != wanted.shape:
            raise self._wrong(seen, f"of shape {seen.shape}")
        if wanted.dtype == np.uint8:
            fits = seen.dtype == np.uint8 or (
                seen.dtype.kind in "iu" and (not seen.size or 0 <= seen.min() <= seen.max() <= 255)
            )
            if not fits:
                raise self._wrong(seen, f"of {seen.dtype}" + " outside 0 to 255" * (seen.dtype.kind in "iu"))
        elif seen.dtype.kind not in "iuf":
            raise self._wrong(seen, f"of {seen.dtype}")
        with np.errstate(over="ignore"):
            states = torch.from_numpy(np.array(seen, wanted.dtype, order="C"))
        if not torch.isfinite(states).all():
            raise UserError("the observation has NaN, infinity or a number beyond float32 in it")
        return states.unsqueeze(0) if is_one else states, is_one

    def _wrong(self, seen: NDArray[Any], what: str) -> UserError:
        if seen.dtype == object:
            what = "that is no array of numbers"
        return UserError(
            f"observation {what}: expected {self.preprocess.dtype} {self.preprocess.shape} or a batch of them; "
            f"atari_dqn.make_env(agent) shows these, and agent.preprocess makes them of raw frames"
        )


@told
def load(
    where: str | PathLike[str],
    *,
    device: str = "auto",
    seed: int = 0,
    network: str | Callable[..., Any] | None = None,
    game: str | None = None,
) -> Agent:
    """An agent from a run or a checkpoint.

    Loading runs no code that the file names: what it was trained with of your own, you give again.

    Args:
        where: a run's folder (its best network, else the latest), its checkpoints folder, a .pt file, or "latest", the
            run in runs/ that changed last.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
        seed: of the random actions of `Agent.act`.
        network: the class of your own that it was trained with, or its import path, "my_package.my_module:Name".
        game: the environment of your own that it was trained on, "my_module:MyEnv-v0".

    Raises:
        UserError: there is no such checkpoint, it is damaged, or the device is not there.
    """
    if network is not None:
        given.plugin(plugins.NETWORK, network)
    if game is not None:
        own_modules.allow(given.text("game", game))
    seed = given.whole("seed", seed, 0, 2**63 - 1)
    found = checkpoints.find(given.path("checkpoint", where))
    return Agent(Checkpoint(found, devices.choose_device(given.text("device", device))), seed)
