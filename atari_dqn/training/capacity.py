"""How large a run's replay memory will be, where it will be, and whether the machine has got it."""

from collections.abc import Callable

import torch

from atari_dqn.checkpoint.checkpoints import Resumed
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.replay import BYTES_BESIDE_FRAME
from atari_dqn.envs.base import Emulators
from atari_dqn.utils import machine
from atari_dqn.utils.errors import UserError


def replay_room(
    config: TrainConfig,
    envs: Emulators,
    resumed: Resumed | None,
    device: torch.device,
    say: Callable[[str], None],
    beside: int = 0,
) -> tuple[int, torch.device]:
    """Rows of a run's replay, and their device.

    Says what they take; raises UserError where the machine has not got it.

    Args:
        device: the run's.
        beside: bytes that the run takes there for all else; see footprint.py.
    """
    # A run shorter than its capacity never fills more than its length, and the first states' row; and what its
    # checkpoint holds, where it has been made shorter.
    needed = config.total_steps // config.num_envs + config.env.frame_stack + 2
    if resumed and resumed.files.segments:
        needed = max(needed, resumed.files.segments[-1].last - resumed.files.segments[0].first)
    rows = min(-(-config.replay.capacity // config.num_envs) + 1, needed)
    rows = max(rows, config.env.frame_stack + config.agent.n_step + 1)
    frame_bytes = torch.Size(envs.frame_shape).numel() * envs.frame_dtype.itemsize
    step_bytes = frame_bytes + BYTES_BESIDE_FRAME + 8 * config.replay.prioritized
    steps = rows * config.num_envs
    place = machine.replay_device(config.replay.device, steps * step_bytes, device)
    told = machine.check_replay_fits(steps, step_bytes, place, config.replay.warmup_steps, device)
    needed, available = steps * step_bytes + beside, machine.available_memory(device)
    if place.type == device.type and needed > available:
        raise UserError(
            f"a replay of {steps:,} agent steps and {machine.memory_size(beside)} for networks and minibatches are "
            f"{machine.memory_size(needed)}, but {machine.memory_size(available)} is available on {device}; lower "
            f"replay.capacity or update.batch_size"
        )
    say(told)
    if config.total_steps <= config.replay.warmup_steps:
        say(
            f"note: nothing will be learnt, for total_steps={config.total_steps} ends before "
            f"replay.warmup_steps={config.replay.warmup_steps}"
        )
    return rows, place
