"""The emulators that a config asks for, in this process."""

from atari_dqn.config import schema
from atari_dqn.envs.atari import AtariEmulators
from atari_dqn.envs.base import Emulators
from atari_dqn.envs.gym import GymnasiumEmulators


def make_emulators(env: schema.Env, num_envs: int) -> Emulators:
    return AtariEmulators(env, num_envs) if env.kind == "atari" else GymnasiumEmulators(env, num_envs)
