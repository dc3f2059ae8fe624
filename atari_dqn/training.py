"""The loop. Everything else hangs off it."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from atari_dqn.agent import Agent
from atari_dqn.config import Exploration, TrainConfig
from atari_dqn.emulators import Emulators, Game
from atari_dqn.replay import Replay


class Record(NamedTuple):
    """What happened up to a turn's end."""

    agent_steps: int  # since the run's start, over all games
    updates: int
    epsilon: float  # that the turn's actions were drawn with
    games: list[Game]  # that ended in this turn


def epsilon_at(step: int, warmup_steps: int, exploration: Exploration) -> float:
    """Epsilon at an agent step: `start` while warming up, then linearly to `end` over decay_steps."""
    done = min(1.0, max(0.0, (step - warmup_steps) / exploration.decay_steps))
    return exploration.start + done * (exploration.end - exploration.start)


def due(every: int, before: int, after: int) -> int:
    """How many multiples of `every` lie in (before, after]."""
    return after // every - before // every


def play_and_learn(
    emulators: Emulators,
    replay: Replay,
    agent: Agent,
    config: TrainConfig,
    explore: torch.Generator,
    draw: torch.Generator,
    seeds: list[int],
    agent_steps: int = 0,
    updates: int = 0,
) -> Iterator[Record]:
    """Deep Q-learning with experience replay (Mnih et al. 2015, Algorithm 1), N games side by side.

    A turn is one action in each game. While the games move, the updates that are due by the turn's end are made, from
    what the replay held at its start; then the target network is copied where that is due. So after s agent steps
    s / update.period_steps updates and s / target_period_steps copies are done, whatever N.

    Args:
        explore, draw: the random generators of epsilon-greedy and of the replay's sampling.
        seeds: one for each game.
        agent_steps, updates: where a resumed run stands.
    """
    update, learner = config.update, config.agent
    replay.begin(torch.from_numpy(emulators.reset(seeds)))
    while agent_steps < config.total_steps:
        epsilon = epsilon_at(agent_steps, config.replay.warmup_steps, config.exploration)
        actions = agent.act(replay.newest_stack(), epsilon, explore).cpu()
        emulators.send(actions.numpy())

        before, agent_steps = agent_steps, agent_steps + emulators.num_envs
        if replay.size >= config.replay.warmup_steps:
            for _ in range(due(update.period_steps, before, agent_steps)):
                agent.learn(
                    replay.sample(update.batch_size, draw, learner.discount, learner.n_step, learner.reward_clip)
                )
                updates += 1
        if due(update.target_period_steps, before, agent_steps):
            agent.copy_target()

        turn = emulators.recv()
        replay.write(
            actions, torch.from_numpy(turn.rewards), torch.from_numpy(turn.frames), torch.from_numpy(turn.flags)
        )
        yield Record(agent_steps, updates, epsilon, turn.games)
