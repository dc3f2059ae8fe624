"""N games side by side behind one face: reset, send, recv.

The only file that knows of autoreset, lives, no-ops and stickiness.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from atari_dqn.config import schema
from atari_dqn.data import scores
from atari_dqn.data.games import atari_games
from atari_dqn.dqn.replay import CUT, ORDINARY, TERMINAL
from atari_dqn.envs import wrappers
from atari_dqn.registry import environments
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.machine import cpus


class Game(NamedTuple):
    """A finished game: its raw score, never clipped and over all lives."""

    env: int
    score: float
    length_frames: int  # agent steps * frame skip; the no-op start not counted
    cut: bool  # by env.max_frames, and not by a limit of its own
    stopped: bool = False  # by a person, or where a film ends

    @property
    def whole(self) -> bool:
        """Whether its score can be compared with a human's: it was played to its end, or for as long as a human's."""
        return not self.stopped and (not self.cut or self.length_frames >= scores.HUMAN_FRAMES)


NEVER = 2**31 - 1  # frames


class Turn(NamedTuple):
    """What the N games answered to one action each."""

    frames: NDArray[Any]  # [N, *frame], the newest frame only
    rewards: NDArray[np.float32]  # [N], raw
    flags: NDArray[np.uint8]  # [N], of the new state: replay.ORDINARY, TERMINAL or CUT
    games: list[Game]  # those that ended with this step


class Emulators:
    """N games. After a game's last state its next step ignores the action and shows the next game's first frame.

    Attributes:
        actions: the meaning of each action, e.g. ("NOOP", "FIRE", "RIGHT", "LEFT").
    """

    num_envs: int
    frame_shape: tuple[int, ...]
    frame_dtype: np.dtype
    actions: tuple[str, ...]

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Start games afresh, each from its own of N seeds; the frames that all games show then, [N, *frame].

        Args:
            which: the games to start, [N]; None for all. What the others show is not to be read.
        """
        raise NotImplementedError  # pragma: no cover

    def send(self, actions: NDArray[np.int64]) -> None:
        """Set the games moving with one action each, [N]; returns at once where they run on threads."""
        raise NotImplementedError  # pragma: no cover

    def recv(self) -> Turn:
        """Wait for what `send` set moving."""
        raise NotImplementedError  # pragma: no cover

    def close(self) -> None:
        raise NotImplementedError  # pragma: no cover


@functools.cache
def atari_actions(name: str, full: bool) -> tuple[str, ...]:
    """The meanings of a game's actions, in the order in which its action numbers count them."""
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.loadROM(roms.get_rom_path(atari_games()[name]))
    return tuple(action.name for action in (ale.getLegalActionSet() if full else ale.getMinimalActionSet()))


class Scoreboard:
    """Raw scores and lengths of N games in play; knows that the step after a game's end is the next game's first."""

    def __init__(self, num_envs: int, frame_skip: int) -> None:
        self._scores, self._steps = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)
        self._frame_skip = frame_skip

    def begin(self, which: NDArray[np.bool_]) -> None:
        """New games, of which nothing is counted yet."""
        self._scores[which], self._steps[which], self._ended[which] = 0, 0, False

    def step(self, rewards: NDArray[Any]) -> NDArray[np.int64]:
        """Count a step in each game; their lengths in frames."""
        self._scores = np.where(self._ended, 0, self._scores + rewards)
        self._steps = np.where(self._ended, 0, self._steps + 1)
        return self._steps * self._frame_skip

    def end(self, over: NDArray[np.bool_], cut: NDArray[np.bool_]) -> list[Game]:
        """The games that end with this step."""
        self._ended = over
        return [
            Game(int(i), float(self._scores[i]), int(self._steps[i]) * self._frame_skip, bool(cut[i]))
            for i in over.nonzero()[0]
        ]


class AtariEmulators(Emulators):
    """Games in the ALE's own C++ threads, which run while Python goes on."""

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

    def send(self, actions: NDArray[np.int64]) -> None:
        if self._fire is not None:  # the state is flagged, so no transition begins with the action that this replaces
            actions = np.where(self._lost, self._fire, actions)
        self._envs.send(actions)

    def recv(self) -> Turn:
        frames, rewards, terminated, _, info = self._envs.recv()
        if self._cut.any():  # by us, at the step before; the emulator has gone on
            frames, info = self._envs.reset(options={"reset_mask": self._cut})
            rewards, terminated = np.where(self._cut, 0, rewards), terminated & ~self._cut
        lives = info["lives"]
        over = terminated
        if self._life_loss:
            # Then it is a lost life too. It is the game's end where no life is left (Pong counts none), or where it
            # came without the loss of one (Adventure).
            over = terminated & ((lives == 0) | (lives >= self._lives))
        self._lost = (lives > 0) & (lives < self._lives) & ~over & ~self._cut  # nor a new game with fewer lives
        self._lives = lives.copy()
        self._cut = (self._scoreboard.step(rewards) >= self._max_frames) & ~over
        games = self._scoreboard.end(over | self._cut, self._cut)
        return Turn(frames[:, 0], rewards.astype(np.float32), _flags(terminated, self._cut), games)

    def close(self) -> None:
        self._envs.close()


def make_single(env: schema.Env, on_frame: Callable[[], None] | None = None, **kwargs: Any) -> gymnasium.Env:
    """One Gymnasium environment whose frames a network can see.

    Raises UserError where it has none, or no actions, or skips frames by itself and is to skip them once more.
    """
    single = environments.make(env.game, env.arguments, **kwargs)
    space, actions = single.observation_space, single.action_space
    environments.own(single).check(env.game, env.frame_skip)
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise UserError(f"{env.game} has actions of kind {actions}; DQN needs discrete ones")
    if actions.n > 256:  # the replay keeps them as bytes
        raise UserError(f"{env.game} has {actions.n} actions; at most 256 can be learned")
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) > 3 or not space.shape or 0 in space.shape:
        raise UserError(
            f"{env.game} shows {str(space)[:100]}; only vectors and pictures can be learned from, each a "
            f"gymnasium.spaces.Box of 1 to 3 dimensions"
        )
    single = gymnasium.wrappers.TimeLimit(single, env.max_frames)
    if len(space.shape) == 3:
        return wrappers.pixels(single, env.game, env.frame_skip, env.screen_size, on_frame)
    if space.dtype == np.uint8 and not wrappers.is_screen(space) and (space.high < 255).all():
        single = gymnasium.wrappers.DtypeObservation(single, np.float32)  # counts and flags: no bytes to be scaled
    return wrappers.FrameSkip(single, env.frame_skip, on_frame) if env.frame_skip > 1 or on_frame else single


def cut_after(env: schema.Env, single: gymnasium.Env) -> int:
    """Frames after which a game is cut off; NEVER where its own time limit comes first.

    Args:
        single: as make_single or wrappers.atari makes it.
    """
    limits = []
    while isinstance(single, gymnasium.Wrapper):
        limits += [single._max_episode_steps] if isinstance(single, gymnasium.wrappers.TimeLimit) else []
        single = single.env
    return NEVER if any(own <= env.max_frames for own in limits[1:]) else env.max_frames  # the outermost is ours


class GymnasiumEmulators(Emulators):
    """Any Gymnasium environment with discrete actions, one after another in this thread."""

    def __init__(self, env: schema.Env, num_envs: int) -> None:
        self._envs = SyncVectorEnv(
            [functools.partial(make_single, env) for _ in range(num_envs)], autoreset_mode=AutoresetMode.NEXT_STEP
        )
        space = self._envs.single_observation_space
        assert isinstance(space, gymnasium.spaces.Box) and space.shape is not None
        assert isinstance(self._envs.single_action_space, gymnasium.spaces.Discrete)
        self.num_envs = num_envs
        self.frame_shape = space.shape
        self.frame_dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
        self.actions = tuple(f"ACTION{i}" for i in range(int(self._envs.single_action_space.n)))
        self._first_action = int(self._envs.single_action_space.start)
        self._scoreboard = Scoreboard(num_envs, env.frame_skip)
        self._cut_after = cut_after(env, self._envs.envs[0])

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        which = np.ones(self.num_envs, bool) if which is None else which
        frames, _ = self._envs.reset(seed=list(seeds), options={"reset_mask": which})
        self._scoreboard.begin(which)
        return frames.astype(self.frame_dtype)

    def send(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions + self._first_action

    def recv(self) -> Turn:
        frames, rewards, terminated, truncated, _ = self._envs.step(self._actions)
        cut = truncated & ~terminated & (self._scoreboard.step(rewards) >= self._cut_after)
        games = self._scoreboard.end(terminated | truncated, cut)
        return Turn(frames.astype(self.frame_dtype), rewards.astype(np.float32), _flags(terminated, truncated), games)

    def close(self) -> None:
        self._envs.close()


def _flags(terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(terminated, TERMINAL, np.where(truncated, CUT, ORDINARY)).astype(np.uint8)


class Journal(Emulators):
    """Emulators that write down what each game was told since it last began from a seed of its own, and so can be
    brought back to where they were. (The ALE's vector environment can neither save nor load its state, but answers the
    same to the same.)

    So that this does not become ever longer, `renew` gives each game a new seed, which it begins its next game with.
    No game is cut off for it: one that lasts longer would be lost more often, and scores with it.

    Args:
        keep: whether to write it down.
    """

    def __init__(self, inner: Emulators, keep: bool) -> None:
        self._inner, self._keep = inner, keep
        self.num_envs, self.frame_shape, self.frame_dtype = inner.num_envs, inner.frame_shape, inner.frame_dtype
        self.actions = inner.actions
        self._begin([0] * inner.num_envs)

    def _begin(self, seeds: list[int]) -> None:
        self._seeds = list(seeds)
        self._starts = np.zeros(self.num_envs, np.int64)  # turns told before a game began from its seed
        self._next: list[int] | None = None  # seeds that are waiting for a game's end,
        self._wait = np.zeros(self.num_envs, bool)  # and the games that still wait
        self._ended = np.zeros(self.num_envs, bool)  # with the last turn
        self._told = bytearray()  # an action of each game, turn by turn
        self._frames: NDArray[Any] = np.zeros(0)

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        assert which is None
        self._begin(seeds)
        self._frames = self._inner.reset(seeds)
        return self._frames

    def renew(self, seeds: list[int]) -> None:
        """Have each game begin its next game with its own of N seeds."""
        self._next, self._wait = list(seeds), np.ones(self.num_envs, bool)

    def send(self, actions: NDArray[np.int64]) -> None:
        if self._keep:
            self._told += actions.astype(np.uint8).tobytes()
        self._inner.send(actions)

    def recv(self) -> Turn:
        turn = self._inner.recv()
        if (fresh := self._ended & self._wait).any():  # they have just begun anew, from no seed of theirs
            turn = turn._replace(frames=self._renewed(fresh, turn.frames))
        self._ended[:] = False
        for game in turn.games:
            self._ended[game.env] = True
        self._frames = turn.frames
        return turn

    def _renewed(self, fresh: NDArray[np.bool_], frames: NDArray[Any]) -> NDArray[Any]:
        """Begin games again from their new seeds, and forget what no game needs any more; the frames then."""
        assert self._next is not None
        self._seeds = [new if is_new else old for new, old, is_new in zip(self._next, self._seeds, fresh, strict=True)]
        self._wait &= ~fresh
        self._starts[fresh] = len(self._told) // self.num_envs
        first = int(self._starts.min())
        self._starts -= first
        del self._told[: first * self.num_envs]
        return self._shown(fresh, frames)

    def _shown(self, fresh: NDArray[np.bool_], frames: NDArray[Any]) -> NDArray[Any]:
        firsts, frames = self._inner.reset(self._seeds, fresh), frames.copy()
        frames[fresh] = firsts[fresh]
        return frames

    def close(self) -> None:
        self._inner.close()

    def state(self) -> dict[str, Any] | None:
        """What `rewind` needs; None where it is not written down."""
        if not self._keep:
            return None
        told = torch.from_numpy(np.frombuffer(bytes(self._told), np.uint8).copy()).view(-1, self.num_envs)
        return {
            "seeds": self._seeds,
            "starts": self._starts.tolist(),
            "next_seeds": self._next,
            "waiting": self._wait.tolist(),
            "actions": told,
            "frames_crc": zlib.crc32(self._frames.tobytes()),
        }

    def rewind(self, state: dict[str, Any], stop: Callable[[], bool] = lambda: False) -> bool:
        """Play what `state` tells, as fast as the games go; whether they then show what they showed.

        Raises ValueError where `state` does not fit these emulators.
        """
        seeds, told = [int(seed) for seed in state["seeds"]], state["actions"]
        starts = np.array(state.get("starts", [0] * self.num_envs), np.int64)  # an older program's all began together
        waiting, upcoming = np.array(state.get("waiting", [False] * self.num_envs), bool), state.get("next_seeds")
        if len(seeds) != self.num_envs or told.dtype != torch.uint8 or tuple(told.shape[1:]) != (self.num_envs,):
            raise ValueError("the actions do not fit the number of games")
        if told.numel() and int(told.max()) >= len(self.actions):
            raise ValueError("there are actions that the game has not")
        if starts.shape != (self.num_envs,) or not ((starts >= 0) & (starts <= len(told))).all():
            raise ValueError("a game begins where no turn is")
        if waiting.shape != starts.shape or (waiting.any() and len(upcoming or ()) != self.num_envs):
            raise ValueError("the next seeds do not fit the number of games")
        self.reset(seeds)
        for turn, actions in enumerate([*told.numpy().astype(np.int64)], 1):
            if stop():
                return False
            self.send(actions)
            self.recv()  # nobody waits yet
            if (fresh := starts == turn).any():
                self._frames = self._shown(fresh, self._frames)
                self._ended &= ~fresh
        self._starts, self._wait = starts, waiting
        self._next = None if upcoming is None else [int(seed) for seed in upcoming]
        return zlib.crc32(self._frames.tobytes()) == state["frames_crc"]


def make(
    env: schema.Env,
    num_envs: int,
    where: schema.EmulatorsConfig | None = None,
    say: Callable[[str], None] = print,
) -> Emulators:
    """The emulators that a config asks for.

    Args:
        where: in this process (None, too), or in Ray's.
        say: what tells a person of games that were lost.
    """
    if where and where.kind == "ray":
        from atari_dqn.envs.remote import RemoteEmulators  # Ray is an extra

        return RemoteEmulators(env, num_envs, where, say)
    return AtariEmulators(env, num_envs) if env.kind == "atari" else GymnasiumEmulators(env, num_envs)
