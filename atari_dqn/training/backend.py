"""Where a run's games are played: in this process, or by Ray's actors."""

from collections.abc import Callable

from atari_dqn.config.schema import TrainConfig
from atari_dqn.envs import factory
from atari_dqn.envs.base import Emulators
from atari_dqn.envs.remote import RemoteEmulators


def make_emulators(config: TrainConfig, say: Callable[[str], None]) -> Emulators:
    """The emulators that a run's config asks for.

    Args:
        say: prints a line when games are lost.
    """
    if config.emulators.kind == "ray":
        return RemoteEmulators(config.env, config.num_envs, config.emulators, say)
    return factory.make_emulators(config.env, config.num_envs)
