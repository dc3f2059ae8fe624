"""Whole games, side by side, played by a network or at random."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from atari_dqn.config.schema import Env
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.replay import Replay, torch_dtype
from atari_dqn.envs import factory
from atari_dqn.envs.base import Emulators, Game
from atari_dqn.evaluation.player import Player
from atari_dqn.utils import seeding
from atari_dqn.utils.graphs import graphed
from atari_dqn.utils.machine import cpus


class EvalEnvs:
    """Games side by side, each on its own emulators, so that some can continue when others have stopped.

    Making one takes longer than many of its steps, so they can begin again.

    Args:
        device: where the states are wanted.
    """

    def __init__(self, env: Env, num_envs: int, device: torch.device) -> None:
        self.all = tuple(range(num_envs))
        self._envs: list[Emulators] = []
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            for _ in self.all:
                self._envs.append(factory.make_emulators(env, 1))
            on_error.pop_all()
        shape, dtype = self._envs[0].frame_shape, torch_dtype(self._envs[0].frame_dtype)
        # The replay of a few rows is the history that the network sees: training and evaluation stack alike.
        self._history = Replay(env.frame_stack + 1, num_envs, shape, dtype, env.frame_stack, device)
        self._rewards, self._flags = torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.uint8)
        self._actions = torch.zeros(num_envs, dtype=torch.int64)

    def begin(self, seed: int) -> None:
        """New games, whose starts come from a seed."""
        seeds = seeding.derive(seed, "evaluation games", count=len(self.all))
        with ThreadPoolExecutor(cpus()) as pool:  # a start takes as long as 300 steps
            firsts = pool.map(lambda envs, one: envs.reset([one]), self._envs, seeds)
            self._frames = torch.from_numpy(np.concatenate(list(firsts)))
        self._flags.zero_()
        self._history.begin(self._frames)

    def states(self, which: Sequence[int]) -> Tensor:
        """The states that some games are in, [len(which), stack, *frame]."""
        states = self._history.newest_stack()
        return states if len(which) == len(self.all) else states[list(which)]

    def step(self, which: Sequence[int], actions: Tensor) -> list[Game]:
        """Take an action in each of some games, which are given for all; the games that ended.

        Args:
            actions: int64 [games].
        """
        ended = []
        for i in which:
            self._envs[i].send(actions[i : i + 1].numpy())
        for i in which:
            turn = self._envs[i].recv()
            self._frames[i], self._flags[i] = torch.from_numpy(turn.frames[0]), int(turn.flags[0])
            self._rewards[i] = float(turn.rewards[0])
            ended += [game._replace(env=i) for game in turn.games]
        self._history.write(actions, self._rewards, self._frames, self._flags)
        return ended

    def close(self) -> None:
        for envs in self._envs:
            envs.close()


def play(
    player: Player,
    games: EvalEnvs,
    epsilon: float,
    episodes: int,
    seed: int,
    on_step: Callable[[list[Game]], None] = lambda games: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Game]:
    """Whole games, `episodes` in all, side by side; fewer only if `stop` says so.

    Each emulator has its quota beforehand, so that short games are not counted more often than long ones. A game ends
    by itself or at env.max_frames, so this returns.

    Args:
        on_step: called at each step with the finished games; one game can take minutes.
    """
    num_envs = len(games.all)
    quota = [episodes // num_envs + (i < episodes % num_envs) for i in games.all]
    generator = seeding.generator(player.device, seed, "evaluation actions")

    def ask(which: tuple[int, ...]) -> Tensor:
        return player.act(games.states(which), epsilon, generator)

    act = graphed(ask, player.device, [generator])
    played: list[Game] = []
    games.begin(seed)
    actions = torch.zeros(num_envs, dtype=torch.int64)
    while any(quota) and not stop():
        going = tuple(i for i in games.all if quota[i])
        asked = games.all if player.device.type == "cuda" else going  # one graph serves all the time
        actions[list(asked)] = act(asked).cpu()
        for game in games.step(going, actions):
            quota[game.env] -= 1
            played.append(game)
        on_step(played)
    return played


def visited(player: Player, games: EvalEnvs, epsilon: float, states: int, seed: int) -> Tensor:
    """The states [states, stack, *frame] that a network comes to at first, in games side by side."""
    generator = seeding.generator(player.device, seed, "compared actions")
    kept: list[Tensor] = []
    games.begin(seed)
    for _ in range(-(-states // len(games.all))):
        kept.append(games.states(games.all))
        games.step(games.all, player.act(kept[-1], epsilon, generator).cpu())
    return torch.cat(kept)[:states]


HELD_OUT_EVERY = 10  # agent steps from one state that is kept to the next


def held_out(games: EvalEnvs, num_actions: int, states: int, seed: int) -> Tensor:
    """Some states [states, stack, *frame] of random play, on which the growth of Q-values can be followed.

    (Mnih et al. 2015, Figure 2: "a held-out set of states"; its code kept 500 of the first 50,000 steps, which are
    random.)
    """
    generator = torch.Generator().manual_seed(seeding.derive(seed, "held-out actions")[0])
    kept: list[Tensor] = []
    games.begin(seed)
    for step in range(-(-states // len(games.all)) * HELD_OUT_EVERY):
        if step % HELD_OUT_EVERY == 0:
            kept.append(games.states(games.all))
        games.step(games.all, torch.randint(num_actions, (len(games.all),), generator=generator))
    return torch.cat(kept)[:states]


@torch.no_grad()
def mean_max_q(network: QNetwork, states: Tensor) -> float:
    """Mean over states [B, stack, *frame] of the largest Q-value: the paper's Figure 2."""
    return float(torch.cat([network.q_values(some).amax(1) for some in states.split(100)]).mean())
