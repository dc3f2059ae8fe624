"""The device's parts of a turn, acting and learning: recorded as CUDA graphs where a GPU can, plain calls elsewhere."""

from collections.abc import Callable

import torch
from torch import Tensor

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.host_replay import Courier, way
from atari_dqn.dqn.optimizers import can_be_recorded
from atari_dqn.dqn.replay import Batch, Replay
from atari_dqn.utils.graphs import graphed
from atari_dqn.utils.seeding import Streams
from atari_dqn.utils.stopwatch import Stopwatch

Act = Callable[[float], Tensor]
Learn = Callable[[int], None]


def make_turn(
    replay: Replay, agent: Agent, config: TrainConfig, streams: Streams, watch: Stopwatch
) -> tuple[Act, Learn]:
    """`act(epsilon)`, which returns an action for each game, int64 [N] on the CPU; and `learn(minibatches)`."""
    update, told = config.update, config.agent
    epsilon_tensor = torch.zeros((), device=agent.device)  # a graph would freeze a number
    bring = way(replay.frames.device, agent.device)
    choose, improve = agent.act, agent.learn  # what is left to record where the replay is not beside the agent

    def choose_actions(greedily: bool) -> Tensor:
        if not greedily:
            return agent.act_at_random(config.num_envs, streams.exploration)
        (states,) = bring(replay.newest_stack())
        return choose(states, epsilon_tensor, streams.exploration)

    def sample_and_improve(minibatches: int) -> tuple[Batch, list[Tensor]]:
        batch = replay.sample(
            minibatches, update.batch_size, streams.replay, told.discount, told.n_step, told.reward_clip
        )
        watch.lap("sample")
        errors, gradients = improve(Batch(*bring(*batch)), streams.replay)
        replay.update_priorities(batch, errors)
        return batch, gradients

    if config.compute.graphs and can_be_recorded(agent.optimizer):
        if isinstance(bring, Courier):  # the host's part of a turn cannot be recorded
            choose = graphed(choose, agent.device, [streams.exploration])
            improve = graphed(improve, agent.device, [streams.replay])
        else:
            choose_actions = graphed(choose_actions, agent.device, [streams.exploration])
            sample_and_improve = graphed(sample_and_improve, agent.device, [streams.replay])

    def act(epsilon: float) -> Tensor:
        epsilon_tensor.fill_(epsilon)
        return choose_actions(epsilon < 1).cpu()  # waits for the device, and so for the last turn's updates

    def learn(minibatches: int) -> None:
        agent.batch, agent.gradients = sample_and_improve(minibatches)
        agent.show()

    return act, learn
