"""The agent that a config asks for."""

import functools
from collections.abc import Callable

import torch

from atari_dqn.checkpoint.network import build_network, is_own
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn import bootstrap
from atari_dqn.dqn.agent import Agent, Policy, learned
from atari_dqn.dqn.exploration import Persistent, boltzmann, epsilon_greedy
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.registry import plugins
from atari_dqn.training.optimizers import make_optimizer
from atari_dqn.training.own_rule import OwnRule
from atari_dqn.training.schedules import make_schedule
from atari_dqn.utils import devices, seeding
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.graphs import can_compile


def make_agent(
    config: TrainConfig,
    frame_shape: tuple[int, ...],
    num_actions: int,
    device: torch.device,
    begin: Callable[[QNetwork], None] | None = None,
) -> Agent:
    """The agent that a config asks for, with the first weights that its seed gives.

    Args:
        begin: gives the network other weights to begin with; None leaves it random.
    """
    optimizer, exploration = config.optimizer, config.exploration
    policy: Policy = epsilon_greedy
    if exploration.temperature is not None:
        policy = functools.partial(boltzmann, temperature=exploration.temperature)
    elif exploration.persistence is not None:
        policy = Persistent(exploration.persistence, exploration.end, config.num_envs, device)
    with seeding.seeded(config.seed, "network"):
        online = build_network(config, frame_shape, num_actions)
    if begin is not None:
        begin(online)
    online.to(device)
    augmentation = config.agent.augmentation
    if augmentation != "none" and not online.sees_pictures:
        raise UserError(f"agent.augmentation={augmentation} needs images, not observations of shape {frame_shape}")
    compute = config.compute
    if compute.precision == "bf16":
        devices.check_bfloat16(device)
        online.use_bfloat16()
    compiling = compute.compile
    if compiling is None:
        suits = device.type == "cuda" and online.sees_pictures and not compute.deterministic
        compiling = suits and can_compile(device)
    made = make_optimizer(optimizer.name, learned(online), optimizer.learning_rate, optimizer.arguments)
    agent = Agent(
        online,
        made,
        make_rule(config),
        config.agent.reduction,
        optimizer.max_grad_norm,
        config.update.tau,
        policy,
        script=compute.graphs and not compiling,
        fuse=compiling and device.type != "cpu",
        schedule=make_schedule(optimizer, made),
        target_is_online=_target_is_online(config),
        augment=None if augmentation == "none" else augmentation,
    )
    if compiling and device.type == "cpu":  # whose fast layers the compiler does not take with gradients
        for part in (agent.online, agent.target):
            part.compile()
    return agent


def make_rule(config: TrainConfig) -> bootstrap.Rule:
    """What targets bootstrap from: the user's own rule, or the one that `agent` says. Raises UserError."""
    if config.rule.name is None:
        return bootstrap.make_rule(config.agent, target_is_online=_target_is_online(config))
    rule = plugins.make(plugins.RULE, config.rule.name, arguments=config.rule.arguments)
    lacks = [name for name in ("precompute", "target", "loss") if not callable(getattr(rule, name, None))]
    if lacks:
        raise UserError(
            f"rule={config.rule.name} has no method {lacks[0]}; derive its class from atari_dqn.extend.Greedy"
        )
    return OwnRule(rule, config.rule.name)


def _target_is_online(config: TrainConfig) -> bool:
    """Whether both networks say the same in every update: the one is copied to the other after each, and nothing is
    random. (A network of the user's own may have a state besides its weights.)"""
    update, agent = config.update, config.agent
    copied = update.tau == 1 and update.period_steps % update.target_period_steps == 0
    one_at_a_time = update.repeats == 1 and config.num_envs <= update.period_steps
    random = agent.noisy or config.head.name == "iqn"
    return copied and one_at_a_time and not random and config.rule.name is None and not is_own(config)
