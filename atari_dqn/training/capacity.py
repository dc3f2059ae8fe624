"""Choose the size and device of a run's replay memory, and check that it fits."""

from collections.abc import Callable

import torch

from atari_dqn.checkpoint.checkpoints import Resumed
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.replay import BYTES_BESIDE_FRAME
from atari_dqn.envs.base import Emulators
from atari_dqn.utils import machine
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import memory_size


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
    place = replay_device(config.replay.device, steps * step_bytes, device)
    told = check_replay_fits(steps, step_bytes, place, config.replay.warmup_steps, device)
    needed, available = steps * step_bytes + beside, machine.available_memory(device)
    if place.type == device.type and needed > available:
        raise UserError(
            f"a replay of {steps:,} agent steps, plus {memory_size(beside)} for networks and minibatches, needs "
            f"{memory_size(needed)}, but {memory_size(available)} is available on {device}; lower "
            f"replay.capacity or update.batch_size"
        )
    say(told)
    if config.total_steps <= config.replay.warmup_steps:
        say(
            f"note: nothing will be learned, because total_steps={config.total_steps} ends before "
            f"replay.warmup_steps={config.replay.warmup_steps}"
        )
    return rows, place


def kept_memory(device: torch.device) -> int:
    """Bytes that no replay may have: networks, torch and emulators need them, on a GPU CUDA graphs and workspaces."""
    return 2_000_000_000 if device.type == "cuda" else 1_000_000_000


def room_for_replay(device: torch.device) -> int:
    """Bytes that a replay can have on `device`. A small one always fits."""
    return max(50_000_000, machine.available_memory(device) - kept_memory(device))


def replay_device(wanted: str, needed: int, device: torch.device) -> torch.device:
    """Where a replay of `needed` bytes goes; if it fits nowhere, the place with more room.

    Args:
        wanted: auto, cpu or cuda.
        device: the run's device.
    Raises UserError if the run's device is not the one wanted.
    """
    host = torch.device("cpu")
    if wanted == "cuda" and device.type != "cuda":
        raise UserError(f"replay.device=cuda: this run is on {device}; set replay.device=auto, or device=cuda")
    if wanted == "auto" and device.type == "cuda" and needed > room_for_replay(device):
        return max(device, host, key=room_for_replay)
    return host if wanted == "cpu" else device


def check_replay_fits(
    steps: int, bytes_per_step: int, device: torch.device, least: int = 1, run_device: torch.device | None = None
) -> str:
    """A sentence on the memory that a replay of `steps` agent steps takes on `device` and what the machine has.

    Raises UserError if that is too little, naming the largest capacity that fits if that is `least` steps or more.

    Args:
        run_device: the run's, where it is another one.
    """
    needed, available, room = steps * bytes_per_step, machine.available_memory(device), room_for_replay(device)
    places = (run_device or device, torch.device("cpu"))
    other = next((place for place in places if place.type != device.type), None)
    if needed > room:
        fits = max(0, available - kept_memory(device)) // bytes_per_step
        unit = 10 ** max(0, len(str(fits)) - 2)
        fits = fits // unit * unit
        remedy = (
            f"the largest that fits is replay.capacity={fits} (REPLAY={fits})" if fits >= least else "free some memory"
        )
        there = f"{memory_size(available)} of memory is available on {device}"
        if other and needed <= room_for_replay(other):
            remedy += f"; or set replay.device={'cpu' if other.type == 'cpu' else 'auto'}, for {other} has the room"
        elif other:
            there += f", {memory_size(machine.available_memory(other))} on {other},"
        raise UserError(
            f"a replay of {steps:,} agent steps takes {memory_size(needed)}, but only {there} and "
            f"{kept_memory(device) / 1e9:.0f} GB is kept for the rest; {remedy}"
        )
    takes = f"replay: {steps:,} agent steps take {memory_size(needed)} of the {memory_size(available)} available"
    if device.type == "cpu" and other:
        there = f"{memory_size(machine.available_memory(other))} on {other}"
        return f"{takes} in host memory ({there}); updates are slower for it"
    return f"{takes} on {device}"
