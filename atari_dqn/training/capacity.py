"""Choose the size and device of a run's replay memory, and check that it fits."""

from collections.abc import Callable

import torch

from atari_dqn.checkpoint.checkpoints import Resumed
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.replay import BYTES_BESIDE_FRAME
from atari_dqn.envs.emulators import Emulators
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
    """Number of rows of a run's replay, and their device.

    Reports the memory that they need. Raises UserError if the machine does not have it.

    Args:
        device: the run's device.
        beside: bytes that the rest of the run needs on it; see footprint.py.
    """
    # A run shorter than its capacity fills no more rows than its length, plus the first states; but a shortened run
    # must still hold what its checkpoint contains.
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
            f"a replay of {steps:,} agent steps, plus {machine.memory_size(beside)} for networks and minibatches, "
            f"needs {machine.memory_size(needed)}, but {machine.memory_size(available)} is available on {device}; "
            f"lower replay.capacity or update.batch_size"
        )
    say(told)
    if config.total_steps <= config.replay.warmup_steps:
        say(
            f"note: nothing will be learned, because total_steps={config.total_steps} ends before "
            f"replay.warmup_steps={config.replay.warmup_steps}"
        )
    return rows, place
