"""The loop. Everything else hangs off it."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from atari_dqn.config.schema import Exploration, TrainConfig
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.host_replay import Courier, way
from atari_dqn.dqn.optimizers import can_be_recorded
from atari_dqn.dqn.replay import Batch, Replay
from atari_dqn.envs.base import Emulators, Game
from atari_dqn.utils import seeding
from atari_dqn.utils.graphs import graphed
from atari_dqn.utils.stopwatch import Stopwatch

STAGES = ("act", "sample", "update", "copy", "emulators", "write", "logging")  # of a turn, for the stopwatch


class Record(NamedTuple):
    """What happened up to a turn's end."""

    agent_steps: int  # since the run's start, over all games
    updates: int
    epsilon: float  # that the turn's actions were drawn with
    games: list[Game]  # that ended in this turn


class NotFinite(ArithmeticError):
    """The last turn's losses were no finite numbers. Its batch is still the agent's `batch`."""


def epsilon_at(step: int, warmup_steps: int, exploration: Exploration) -> float:
    """Epsilon at an agent step: `start` until begin_steps (None: while warming up), then linearly to `end`."""
    begin = warmup_steps if exploration.begin_steps is None else exploration.begin_steps
    done = min(1.0, max(0.0, (step - begin) / exploration.decay_steps))
    return exploration.start + done * (exploration.end - exploration.start)


def due(every: int, before: int, after: int) -> int:
    """How many multiples of `every` lie in (before, after]."""
    return after // every - before // every


def game_seeds(config: TrainConfig, agent_steps: int) -> list[int]:
    """Of games that begin at an agent step, in a run and a resumed one alike."""
    return seeding.derive(config.seed, "games", agent_steps, count=config.num_envs)


def play_and_learn(
    emulators: Emulators,
    replay: Replay,
    agent: Agent,
    config: TrainConfig,
    explore: torch.Generator,
    draw: torch.Generator,
    agent_steps: int = 0,
    updates: int = 0,
    playing: bool = False,
    watch: Stopwatch | None = None,
) -> Iterator[Record]:
    """Deep Q-learning with experience replay (Mnih et al. 2015, Algorithm 1), N games side by side.

    A turn is one action in each game. While the games move, the updates that are due by the turn's end are made, from
    what the replay held at its start; then the target network is copied where that is due. So after s agent steps
    s / update.period_steps updates and s / target_period_steps copies are done, whatever N.

    Args:
        explore, draw: the random generators of epsilon-greedy and of the replay's sampling.
        agent_steps, updates: where a resumed run stands.
        playing: the games are where the run left them, and the replay knows; else new ones are begun.
        watch: what to count the time of a turn's stages with.
    Raises NotFinite.
    """
    update, learner, watch = config.update, config.agent, watch or Stopwatch()
    epsilon_tensor = torch.zeros((), device=agent.device)  # a graph would freeze a number
    bring = way(replay.frames.device, agent.device)
    choose, improve = agent.act, agent.learn  # what is left to record where the replay is not beside the agent

    def act(looking: bool) -> Tensor:
        if not looking:
            return agent.act_at_random(emulators.num_envs, explore)
        (states,) = bring(replay.newest_stack())
        return choose(states, epsilon_tensor, explore)

    def learn(minibatches: int) -> tuple[Batch, list[Tensor]]:
        batch = replay.sample(
            minibatches, update.batch_size, draw, learner.discount, learner.n_step, learner.reward_clip
        )
        watch.lap("sample")
        errors, gradients = improve(Batch(*bring(*batch)), draw)
        replay.learnt(batch, errors)
        return batch, gradients

    if config.compute.graphs and can_be_recorded(agent.optimizer):
        if isinstance(bring, Courier):  # the host's part of a turn cannot be recorded
            choose, improve = graphed(choose, agent.device, [explore]), graphed(improve, agent.device, [draw])
        else:
            act, learn = graphed(act, agent.device, [explore]), graphed(learn, agent.device, [draw])

    if not playing:
        replay.begin(torch.from_numpy(emulators.reset(game_seeds(config, agent_steps))))
    watch.skip()
    while agent_steps < config.total_steps:
        epsilon = epsilon_at(agent_steps, config.replay.warmup_steps, config.exploration)
        epsilon_tensor.fill_(epsilon)
        actions = act(epsilon < 1).cpu()  # waits for the device, and so for the last turn's updates
        watch.lap("act")
        if not agent.is_finite():
            raise NotFinite
        emulators.send(actions.numpy())

        before, agent_steps = agent_steps, agent_steps + emulators.num_envs
        if replay.size >= config.replay.warmup_steps:
            minibatches = due(update.period_steps, before, agent_steps)
            if not updates:
                agent.standardize(replay.some_frames())
            if minibatches:
                agent.batch, agent.gradients = learn(minibatches)
                agent.show()
                updates += minibatches
                watch.lap("update")
        if copies := due(update.target_period_steps, before, agent_steps):
            agent.copy_target(copies)
            watch.lap("copy")

        turn = emulators.recv()
        watch.lap("emulators")
        replay.write(
            actions, torch.from_numpy(turn.rewards), torch.from_numpy(turn.frames), torch.from_numpy(turn.flags)
        )
        watch.lap("write")
        yield Record(agent_steps, updates, epsilon, turn.games)
        watch.lap("logging")
