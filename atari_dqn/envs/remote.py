"""Games on other machines: Ray's actors, each of which steps a share of them."""

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atari_dqn.config import schema
from atari_dqn.envs import factory
from atari_dqn.envs.base import CUT, Emulators, VectorStep
from atari_dqn.registry import own_modules
from atari_dqn.utils import ray_cluster, seeding
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.utils.text import plural

ROOM_SECONDS = 300.0  # that an actor may wait for a CPU
RETURN_SECONDS = 5.0  # within which the CPUs of an ended actor are free again


class Player:
    """A share of the games, in its own process."""

    def __init__(self, env: schema.Env, num_envs: int) -> None:
        self._env, self._num_envs = env, num_envs

    @functools.cached_property
    def _envs(self) -> Emulators:
        own_modules.allow(self._env.game, self._env.arguments)  # the run has made one, so they were typed there
        return factory.make_emulators(self._env, self._num_envs)

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        return self._envs.reset(seeds, which)

    def step(self, actions: NDArray[np.int64]) -> VectorStep:
        self._envs.send(actions)
        return self._envs.recv()


class RemoteEmulators(Emulators):
    """The same games as the local ones, bit-identical for the same seeds and actions.

    Where an actor is lost its games are cut off at the frame that they last showed, for what came after is not known,
    and another actor begins new ones.
    """

    def __init__(
        self, env: schema.Env, num_envs: int, where: schema.EmulatorsConfig, say: Callable[[str], None] = print
    ) -> None:
        one = factory.make_emulators(env, 1)  # which also says what is wrong with `env`
        self.frame_shape, self.frame_dtype, self.actions = one.frame_shape, one.frame_dtype, one.actions
        one.close()
        self._ray, self._env, self._say, self.num_envs = ray_cluster.join(where.address), env, say, num_envs
        count = min(num_envs, where.actors or max(1, self._free_cpus(num_envs)))
        if count > max(1, free := self._free_cpus(count)):
            raise UserError(f"emulators.actors={count}: Ray has {free} free CPUs; set fewer, or join a larger cluster")
        ends = [num_envs * i // count for i in range(count + 1)]
        self._shares = [slice(first, last) for first, last in itertools.pairwise(ends)]
        self._players = [self._begin(share) for share in self._shares]
        self._answers: list[Any] = []
        self._losses = 0
        say(f"emulators: {plural(num_envs, 'game')} in {plural(count, 'actor')} of Ray")

    def _free_cpus(self, wanted: int) -> int:
        """CPUs that Ray has free. Actors that have just ended give theirs back a moment later."""
        until, there = time.monotonic() + RETURN_SECONDS, int(self._ray.cluster_resources().get("CPU", 0))
        while (free := int(self._ray.available_resources().get("CPU", 0))) < min(wanted, there):
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        return free

    def _begin(self, share: slice) -> Any:
        player = self._ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Player)
        return player.remote(self._env, share.stop - share.start)

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        self._seeds = seeds
        if which is not None:
            return self._reset_some(which)
        self._fresh: dict[int, NDArray[Any]] = {}  # of shares whose games begin: what they show first
        asked = [player.reset.remote(seeds[share]) for share, player in zip(self._shares, self._players, strict=True)]
        first = [self._get(answer) for answer in asked]
        for i, share in enumerate(self._shares):
            if first[i] is None:  # nothing was played yet, so nothing is lost
                first[i] = self._again(i, seeds[share])
        self._frames: NDArray[Any] = np.concatenate(first)
        return self._frames

    def _reset_some(self, which: NDArray[np.bool_]) -> NDArray[Any]:
        """Start some games afresh; where an actor is lost, the next turn says so of all its games."""
        asked = {
            i: self._players[i].reset.remote(self._seeds[share], which[share])
            for i, share in enumerate(self._shares)
            if which[share].any() and i not in self._fresh
        }
        for i, answer in asked.items():
            if (frames := self._get(answer)) is not None:
                share, started = self._shares[i], which[self._shares[i]]
                self._frames[share][started] = frames[started]
        return self._frames

    def send(self, actions: NDArray[np.int64]) -> None:
        actions = actions.copy()  # the caller's may change before an actor has read them
        self._answers = [
            None if i in self._fresh else player.step.remote(actions[share])
            for i, (share, player) in enumerate(zip(self._shares, self._players, strict=True))
        ]

    def recv(self) -> VectorStep:
        turns = [self._turn(i, answer) for i, answer in enumerate(self._answers)]
        games = [
            game._replace(env=game.env + share.start)
            for share, turn in zip(self._shares, turns, strict=True)
            for game in turn.games
        ]
        frames, rewards, flags = (np.concatenate([turn[part] for turn in turns]) for part in range(3))
        self._frames = frames
        return VectorStep(frames, rewards, flags, games)

    def _turn(self, i: int, answer: Any) -> VectorStep:
        share = self._shares[i]
        count = share.stop - share.start
        nothing = np.zeros(count, np.float32)
        if i in self._fresh:  # as after any game's end, this step only shows the next game's first frame
            return VectorStep(self._fresh.pop(i), nothing, np.zeros(count, np.uint8), [])
        turn = self._get(answer)
        if turn is not None:
            return VectorStep(*turn)
        self._losses += 1
        self._say(f"a Ray actor was lost: {count} games are truncated and new ones started")
        self._fresh[i] = self._again(i, seeding.derive(self._seeds[share.start], "lost", self._losses, count=count))
        return VectorStep(self._frames[share], nothing, np.full(count, CUT, np.uint8), [])

    def _get(self, answer: Any) -> Any:
        """An actor's answer; None if it was lost. Raises RunFailed if no CPU becomes free for it."""
        try:
            return self._ray.get(answer, timeout=ROOM_SECONDS)
        except self._ray.exceptions.GetTimeoutError:
            raise RunFailed(f"Ray found no CPU for the emulators within {ROOM_SECONDS:.0f} s") from None
        except self._ray.exceptions.RayActorError:
            return None
        except self._ray.exceptions.RayTaskError as error:  # whose text is a traceback
            if isinstance(error.cause, RunFailed | UserError):
                raise error.cause from None
            raise

    def _again(self, i: int, seeds: list[int]) -> NDArray[Any]:
        """The first frames of a share's games, from another actor. Raises RunFailed if it is lost as well."""
        self._players[i] = self._begin(self._shares[i])
        frames: NDArray[Any] | None = self._get(self._players[i].reset.remote(seeds))
        if frames is None:
            raise RunFailed("Ray lost an actor of the emulators, and the one in its place")
        return frames

    def close(self) -> None:
        for player in self._players:
            self._ray.kill(player)
        self._players = []
