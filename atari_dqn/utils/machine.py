"""What this machine has: CPUs and memory, and what of them is free."""

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import torch

from atari_dqn import SPIN
from atari_dqn.utils.text import memory_size, plural

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def limits(controller: str, version2: str, version1: str, root: Path, own: Path) -> Iterator[tuple[Path, str]]:
    """Each (folder, limit) that a control group of this process or one above it sets: a container's, a job's."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/", f"0:{controller}:/"]:
        _, controllers, path = line.split(":", 2)
        top, name = (root, version2) if not controllers else (root / controller, version1)
        if controllers and controller not in controllers.split(","):
            continue
        folder = top / path.strip("/")
        for group in (folder, *(f for f in folder.parents if f == top or top in f.parents)):
            try:
                yield group, (group / name).read_text(encoding="utf-8").strip()
            except OSError:
                continue


def cpus(root: Path = CGROUPS, own: Path = OWN) -> int:
    """CPUs that this process may use: its affinity, a container's smaller quota, or its share of them, which Ray and
    others put into OMP_NUM_THREADS; never the host's number."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if (share := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        count = max(1, min(count, int(share)))
    for folder, limit in limits("cpu", "cpu.max", "cpu.cfs_quota_us", root, own):
        try:
            quota, *period = limit.split()
            microseconds = int(period[0] if period else (folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
            if quota != "max" and int(quota) > 0:
                count = min(count, max(1, int(quota) // microseconds))
        except (OSError, ValueError):
            continue
    return count


def cgroup_headroom(root: Path = CGROUPS, own: Path = OWN) -> int | None:
    """Bytes that this process' control groups may still take; None without a limit."""
    rooms = []
    for folder, limit in limits("memory", "memory.max", "memory.limit_in_bytes", root, own):
        if not limit.isdecimal() or int(limit) > 1 << 60:  # max
            continue
        used, cache = ("memory.current", "inactive_file")
        if not (folder / used).exists():
            used, cache = ("memory.usage_in_bytes", "total_inactive_file")
        try:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
            # File cache is given back when asked for.
            rooms.append(int(limit) - int((folder / used).read_text(encoding="utf-8")) + int(stat.get(cache, 0)))
        except (OSError, ValueError):
            continue
    return min(rooms, default=None)


def own_headroom() -> int | None:
    """Bytes that this process may still take by its own limits (`ulimit -v`, `ulimit -d`); None without any."""
    if resource is None:
        return None
    memory = psutil.Process().memory_info()
    used = {resource.RLIMIT_AS: memory.vms, resource.RLIMIT_DATA: getattr(memory, "data", memory.vms)}
    soft = {kind: resource.getrlimit(kind)[0] for kind in used}
    return min((soft[kind] - used[kind] for kind in used if soft[kind] != resource.RLIM_INFINITY), default=None)


def available_memory(device: torch.device) -> int:
    """Bytes that can be taken on `device` now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = (psutil.virtual_memory().available, cgroup_headroom(), own_headroom())
    return max(0, min(limit for limit in limits if limit is not None))


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next tensor; False with another C library, which is left as it is.

    Else freed memory goes back to the system and returns page by page: up to thousands of page faults an update.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return bool(
        mallopt
        and mallopt(trim_threshold, 2**31 - 1)
        and (mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25))  # older versions take no more
    )


def spinning() -> str:
    """How OpenMP's idle threads wait, as the environment says."""
    chosen = [f"{key}={os.environ[key]}" for key in ("OMP_WAIT_POLICY", *SPIN) if key in os.environ]
    return ", ".join(chosen) or "they spin: nothing is set"


class CpuShare:
    """Detects when other programs use the CPUs that this process has threads for."""

    FEW = 0.7  # of its threads; alone it uses 0.75 to 0.9
    NO_IDLE = 0.1  # of the machine's time: else the process has not asked for more
    SECONDS = 5.0  # over which is measured at least

    def __init__(self) -> None:
        self._then, self._word = self._now(), ""

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        times = psutil.cpu_times()
        return time.perf_counter(), time.process_time(), sum(times), times.idle

    def word(self) -> str:
        """A clause on the last seconds; empty where nothing is in the way."""
        now = self._now()
        seconds, own, total, idle = (after - before for after, before in zip(now, self._then, strict=True))
        if seconds >= self.SECONDS:
            self._then, threads = now, torch.get_num_threads()
            short = own / seconds < self.FEW * threads and idle < self.NO_IDLE * total
            gets = f"{own / seconds:.1f} of {plural(threads, 'CPU')}"
            self._word = f"busy machine: this run gets {gets}" if short else ""
        return self._word


def facts() -> dict[str, str]:
    """What this machine is, in words."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found = {
        "system": platform.system(),
        "processor": processor,
        "cores": str(cpus()),
        "memory": memory_size(psutil.virtual_memory().total),
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """Of what a run's results depend on."""
    packages = ("atari-dqn", "torch", "ale-py", "gymnasium", "numpy", "opencv-python-headless")
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
