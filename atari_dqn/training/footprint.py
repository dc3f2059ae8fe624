"""Estimate the memory that a run needs besides its replay (networks, minibatches, states) before allocating it."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from atari_dqn.checkpoint.network import build_network, is_own
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.envs.base import Emulators
from atari_dqn.utils import machine
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import memory_size

FLOAT = 4  # bytes
COPIES = 6  # of the weights: online, target, new and last gradients, two optimizer moments
DRAW = 200  # bytes to sample a transition


def _measured(network: QNetwork, states: Tensor) -> int:
    """Numbers that a forward pass computes per state."""
    counted = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal counted
        outputs = output if isinstance(output, tuple) else (output,)  # a recurrent layer's are a tuple
        counted += sum(part.numel() for part in outputs if isinstance(part, Tensor))

    for layer in network.modules():
        if not [*layer.children()] and not isinstance(layer, torch.jit.ScriptModule):  # which takes no hooks
            layer.register_forward_hook(count)
    network(states)
    return counted


def parts(config: TrainConfig, envs: Emulators) -> dict[str, int]:
    """Bytes by the settings that cause them; nothing is allocated.

    Raises UserError if the network cannot process the environment's frames.
    """
    stack, head, frame = config.env.frame_stack, config.head, math.prod(envs.frame_shape)
    device = "cpu" if is_own(config) else "meta"  # meta: shapes only, no memory
    with torch.device(device), torch.random.fork_rng([]):
        network = build_network(config, envs.frame_shape, len(envs.actions))
        dtype = torch.uint8 if envs.frame_dtype.itemsize == 1 else torch.float32
        computed = _measured(network, torch.zeros(1, stack, *envs.frame_shape, dtype=dtype))
    if head.name == "iqn":  # per quantile that an update samples, at least as many as for acting
        asked = max(head.samples, head.target_samples + head.policy_samples)
        computed = 3 * computed * -(-asked // head.policy_samples)
    pairs = {
        "scalar": 1, "c51": head.atoms**2, "qr": head.quantiles**2, "iqn": head.samples * head.target_samples,
    }[head.name]  # fmt: skip
    stored, seen = stack * frame * envs.frame_dtype.itemsize, FLOAT * (stack * frame + computed)
    minibatches = -(-config.num_envs // config.update.period_steps)  # per step of all games
    evaluated = min(config.evaluation.num_envs, config.evaluation.episodes)
    return {
        "the network (network, head, env.frame_stack)": COPIES * FLOAT * sum(p.numel() for p in network.parameters()),
        f"{minibatches:,} x update.batch_size={config.update.batch_size} transitions": config.update.batch_size
        * (minibatches * (2 * stored + seen + DRAW) + 3 * seen + 4 * FLOAT * pairs),
        f"the states of num_envs={config.num_envs}": config.num_envs * (stored + seen),
        f"the states of evaluation.num_envs={config.evaluation.num_envs}": evaluated * (2 * stored + seen),
        "evaluation.held_out_states": config.evaluation.held_out_states * 2 * stored,
    }


def check(config: TrainConfig, envs: Emulators, device: torch.device) -> int:
    """The bytes that a run needs besides its replay. Raises UserError if `device` does not have them."""
    found = parts(config, envs)
    needed, available = sum(found.values()), machine.available_memory(device)
    if needed > available:
        most = max(found, key=lambda part: found[part])
        raise UserError(
            f"besides its replay, this run needs {memory_size(needed)} of memory, but "
            f"{memory_size(available)} is available on {device}; {memory_size(found[most])} is for "
            f"{most}: reduce that"
        )
    return needed
