"""The loop. Everything else hangs off it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from atari_dqn.config.schema import Exploration, TrainConfig
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.replay import Replay
from atari_dqn.dqn.turn import make_turn
from atari_dqn.envs.base import Emulators, Game
from atari_dqn.utils import seeding
from atari_dqn.utils.seeding import Streams
from atari_dqn.utils.stopwatch import Stopwatch

STAGES = ("act", "sample", "update", "copy", "emulators", "write", "logging")  # of a turn, for the stopwatch


@dataclass
class Progress:
    """How far a run is."""

    agent_steps: int = 0  # over all games
    updates: int = 0


class StepInfo(NamedTuple):
    """What a turn did."""

    agent_steps: int  # since the start of the run, over all games
    updates: int
    epsilon: float  # of the turn's actions
    games: list[Game]  # that ended


class NotFinite(ArithmeticError):
    """The last turn's losses are not finite. Its batch is still the agent's `batch`."""


def epsilon_at(step: int, warmup_steps: int, exploration: Exploration) -> float:
    """Epsilon at an agent step: `start` until begin_steps (None: while warming up), then linearly to `end`."""
    begin = warmup_steps if exploration.begin_steps is None else exploration.begin_steps
    done = min(1.0, max(0.0, (step - begin) / exploration.decay_steps))
    return exploration.start + done * (exploration.end - exploration.start)


def due(every: int, before: int, after: int) -> int:
    """How many multiples of `every` lie in (before, after]."""
    return after // every - before // every


def game_seeds(config: TrainConfig, agent_steps: int) -> list[int]:
    """Seeds of the games that start at an agent step: the same in a run and in a resumed one."""
    return seeding.derive(config.seed, "games", agent_steps, count=config.num_envs)


def training_loop(
    emulators: Emulators,
    replay: Replay,
    agent: Agent,
    config: TrainConfig,
    streams: Streams,
    progress: Progress | None = None,
    playing: bool = False,
    watch: Stopwatch | None = None,
) -> Iterator[StepInfo]:
    """Deep Q-learning with experience replay (Mnih et al. 2015, Algorithm 1), N games side by side.

    A turn is one action in each game. While the games move, the updates that are due by the turn's end are made, from
    what the replay held at its start; then the target network is copied where that is due. So after s agent steps
    repeats * s / period_steps updates and s / target_period_steps copies are done, whatever N.

    Args:
        progress: where a resumed run stands; it is advanced.
        playing: the games and the replay are where the run left them; otherwise new games start.
        watch: times the stages of a turn.
    Raises NotFinite.
    """
    update, progress, watch = config.update, progress or Progress(), watch or Stopwatch()
    act, learn = make_turn(replay, agent, config, streams, watch)
    act, learn = watch.timed("act", act), watch.timed("update", learn)
    copy_target, recv = watch.timed("copy", agent.copy_target), watch.timed("emulators", emulators.recv)
    write = watch.timed("write", replay.write)

    if not playing:
        replay.begin(torch.from_numpy(emulators.reset(game_seeds(config, progress.agent_steps))))
    watch.skip()
    while progress.agent_steps < config.total_steps:
        epsilon = epsilon_at(progress.agent_steps, config.replay.warmup_steps, config.exploration)
        actions = act(epsilon)
        if not agent.is_finite():
            raise NotFinite
        emulators.send(actions.numpy())  # the games start to move

        before, after = progress.agent_steps, progress.agent_steps + emulators.num_envs
        if replay.size >= config.replay.warmup_steps:
            if not progress.updates:
                agent.standardize(replay.some_frames())
            if minibatches := update.repeats * due(update.period_steps, before, after):
                agent.schedule.begin_turn(before, progress.updates)
                learn(minibatches)
                progress.updates += minibatches
        if copies := due(update.target_period_steps, before, after):
            copy_target(copies)

        step = recv()
        write(actions, torch.from_numpy(step.rewards), torch.from_numpy(step.frames), torch.from_numpy(step.flags))
        progress.agent_steps = after
        yield StepInfo(after, progress.updates, epsilon, step.games)
        watch.lap("logging")
