"""What this machine has: CPUs, memory, a device."""

import os
from pathlib import Path

import psutil
import torch

from atari_dqn.errors import UserError


def cpus() -> int:
    """CPUs that this process may use (a container's share, not the host's number)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_headroom(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process' control group may still take (a container's or a job's limit); None without a limit."""
    for limit_file, used_file, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),  # version 2, then version 1
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, used = (root / limit_file).read_text().strip(), int((root / used_file).read_text())
            stat = dict(line.split() for line in (root / limit_file).with_name("memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit == "max" or int(limit) > 1 << 60:
            return None
        return int(limit) - used + int(stat.get(cache_key, 0))  # file cache is given back when asked for
    return None


def available_memory(device: torch.device) -> int:
    """Bytes that can be taken on `device` now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    headroom = cgroup_headroom()
    return free if headroom is None else min(free, headroom)


def choose_device(name: str) -> torch.device:
    """The torch device called `name`; `auto` is a GPU where there is one. Raises UserError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: no such device; use auto, cpu, cuda, cuda:1 or mps") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise UserError(f"device={name}: this machine has none that torch {torch.__version__} can use; try device=auto")
    return device


def memory_size(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number > 1e8 else f"{number / 1e6:.1f} MB"


def check_replay_fits(steps: int, bytes_per_step: int, device: torch.device) -> str:
    """A sentence on the memory that a replay of `steps` agent steps takes and what the machine has.

    Raises UserError, naming the largest capacity that fits, where that is too little.
    """
    needed, available = steps * bytes_per_step, available_memory(device)
    room = available - 1_000_000_000  # for networks, torch and emulators
    if needed > room and needed > 50_000_000:
        fits = max(0, room // bytes_per_step)
        unit = 10 ** max(0, len(str(fits)) - 2)
        fits = fits // unit * unit
        remedy = f"the largest that fits is replay.capacity={fits} (REPLAY={fits})" if fits else "free some memory"
        raise UserError(
            f"a replay of {steps:,} agent steps takes {memory_size(needed)}, but only {memory_size(available)} "
            f"of memory is available on {device} and 1 GB is kept for the rest; {remedy}"
        )
    there = f"{memory_size(available)} available on {device}"
    return f"replay: {steps:,} agent steps take {memory_size(needed)} of the {there}"
