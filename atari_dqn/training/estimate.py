"""How long training will take on this machine's CPU."""

import time
from collections.abc import Callable

import numpy as np
import torch

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.replay import Batch
from atari_dqn.envs import factory
from atari_dqn.training.agents import make_agent
from atari_dqn.utils import machine

ACTIONS = 4  # Breakout's


def seconds_per_call(call: Callable[[], object], seconds: float = 1.5) -> float:
    """The mean over as many calls as fit into some seconds."""
    calls, start, passed = 0, time.perf_counter(), 0.0
    while passed < seconds:
        call()
        calls, passed = calls + 1, time.perf_counter() - start
    return passed / calls


def seconds_per_turn(config: TrainConfig, threads: int) -> float:
    """Of the network on the CPU: acting in all games, and the updates that are then due, on random frames."""
    update, games, before = config.update, config.num_envs, torch.get_num_threads()
    torch.set_num_threads(threads)
    machine.keep_freed_memory()
    size = update.repeats * max(1, games // update.period_steps), update.batch_size
    state = config.env.frame_stack, config.env.screen_size, config.env.screen_size
    s, zeros, draw = torch.randint(0, 256, (2, *size, *state)).byte(), torch.zeros(size), torch.Generator()
    batch = Batch(s[0], zeros.long(), zeros, zeros, s[1], zeros + 1, zeros.long(), zeros.long())
    seen = torch.randint(0, 256, (games, *state)).byte()
    learner = make_agent(config, state[1:], ACTIONS, torch.device("cpu"))

    def act() -> None:
        learner.act(seen, 0.1, draw)

    def learn() -> None:
        learner.learn(batch, draw)

    try:
        act()
        learn()  # the first one records the operators
        return seconds_per_call(act, 0.5) + seconds_per_call(learn) * min(1.0, games / update.period_steps)
    finally:
        torch.set_num_threads(before)


def seconds_per_step(config: TrainConfig, threads: int) -> float:
    """Of an agent step in training: the network, and an emulator that plays beside it on the same CPUs."""
    games = factory.make_emulators(config.env, 1)
    try:
        games.reset([config.seed])

        def step() -> None:
            games.send(np.zeros(1, np.int64))
            games.recv()

        emulator = seconds_per_call(step, 0.5)
    finally:
        games.close()
    return seconds_per_turn(config, threads) / config.num_envs + emulator
