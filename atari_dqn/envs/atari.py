"""Atari games in the ALE's own C++ threads.

The only file that knows of their autoreset, lives, no-ops and stickiness.
"""

import functools
from typing import Any

import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from atari_dqn.config import schema
from atari_dqn.data.games import atari_games
from atari_dqn.envs.base import NEVER, Emulators, Scoreboard, VectorStep, flags_of
from atari_dqn.utils.machine import cpus


@functools.cache
def atari_actions(name: str, full: bool) -> tuple[str, ...]:
    """The meanings of a game's actions, in the order in which its action numbers count them."""
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.loadROM(roms.get_rom_path(atari_games()[name]))
    return tuple(action.name for action in (ale.getLegalActionSet() if full else ale.getMinimalActionSet()))


class AtariEmulators(Emulators):
    """Games in the ALE's own C++ threads, which run while Python continues."""

    def __init__(self, env: schema.Env, num_envs: int) -> None:
        self.actions = atari_actions(env.game, env.full_action_space)
        self._envs = AtariVectorEnv(
            atari_games()[env.game],
            num_envs,
            num_threads=min(num_envs, cpus()),
            stack_num=1,  # stacks are rebuilt from the replay
            frameskip=env.frame_skip,
            img_height=env.screen_size,
            img_width=env.screen_size,
            repeat_action_probability=env.repeat_action_probability,
            full_action_space=env.full_action_space,
            noop_max=env.noop_max + 1,  # it draws from 0 to noop_max - 1
            max_num_frames_per_episode=NEVER,  # its own cut repeats the frame before the last
            life_loss_info=env.terminal_on_life_loss,  # a flag; `episodic_life` would restart the game at each life
            reward_clipping=False,
            use_fire_reset=env.fire_reset,
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
        self._life_loss = env.terminal_on_life_loss
        self._fire = self.actions.index("FIRE") if env.fire_reset and "FIRE" in self.actions else None
        self.num_envs, self._max_frames = num_envs, env.max_frames
        self.frame_shape = (env.screen_size, env.screen_size)
        self.frame_dtype = np.dtype(np.uint8)
        self._scoreboard = Scoreboard(num_envs, env.frame_skip)
        self._cut, self._lost = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        self._lives = np.zeros(num_envs, np.int64)

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        which = np.ones(self.num_envs, bool) if which is None else which
        frames, info = self._envs.reset(seed=np.array(seeds, np.int64)[which], options={"reset_mask": which})
        self._scoreboard.begin(which)
        self._cut[which] = self._lost[which] = False
        self._lives[which] = info["lives"][which]
        return frames[:, 0]

    def played(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._fire is not None:  # the state is flagged, so no transition begins with the action that this replaces
            actions = np.where(self._lost, self._fire, actions)
        return actions

    def infos(self) -> dict[str, int]:
        return {"lives": int(self._lives[0])}

    def send(self, actions: NDArray[np.int64]) -> None:
        self._envs.send(self.played(actions))

    def recv(self) -> VectorStep:
        frames, rewards, terminated, _, info = self._envs.recv()
        if self._cut.any():  # by us, at the previous step; the emulator kept running
            frames, info = self._envs.reset(options={"reset_mask": self._cut})
            rewards, terminated = np.where(self._cut, 0, rewards), terminated & ~self._cut
        over, self._lost = self._lives_and_games(terminated, info["lives"])
        self._cut = (self._scoreboard.step(rewards) >= self._max_frames) & ~over
        games = self._scoreboard.end(over | self._cut, self._cut)
        return VectorStep(frames[:, 0], rewards.astype(np.float32), flags_of(terminated, self._cut), games)

    def _lives_and_games(
        self, terminated: NDArray[np.bool_], lives: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which games are over, and which lost a life but continue.

        With terminal_on_life_loss the ALE calls both `terminated`, so the learner sees a terminal state: nothing is
        bootstrapped from it, no transition starts there, and no stack reaches back over it. The game itself continues,
        and its score counts over all lives. Without, only a game's end is terminal.
        """
        over = terminated
        if self._life_loss:  # the end: no life is left (Pong counts none), or none was lost (Adventure)
            over = terminated & ((lives == 0) | (lives >= self._lives))
        lost = (lives > 0) & (lives < self._lives) & ~over & ~self._cut  # nor a new game with fewer lives
        self._lives = lives.copy()
        return over, lost

    def close(self) -> None:
        self._envs.close()
