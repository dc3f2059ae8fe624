"""What this machine has: CPUs, memory, a device."""

import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import torch

from atari_dqn import SPIN
from atari_dqn.utils.errors import UserError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

# Numbers below 1e-38 count as 0, as on a GPU: squares of small gradients are full of them, and a CPU takes twenty times
# as long for each. A thread inherits this from the one that starts it, so it comes before torch starts its own.
torch.set_flush_denormal(True)

# cuBLAS' workspaces, of one kind and fixed, so that a product is added up in the same order every time. It is read
# once, at a process' first product on a GPU. (32 MiB: what a Hopper GPU has anyway.)
WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # those that NVIDIA calls deterministic
os.environ.setdefault(WORKSPACE, WORKSPACES[0])

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


def choose_device(name: str) -> torch.device:
    """The torch device called `name`; `auto` is a GPU where there is one. Raises UserError where it is not there.

    A GPU becomes this thread's current one, for not all goes where its tensors are: pinned memory, Triton's kernels and
    `cuda` itself go to the current one.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if str(device) != name or (
            device.type == "cpu" and device.index is not None
        ):  # torch reads cuda:300 as cuda:44
            raise RuntimeError
    except RuntimeError:
        raise UserError(f"device={name}: no such device; use auto, cpu, cuda, cuda:1 or mps") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise UserError(f"device={name}: this machine has none that torch {torch.__version__} can use; try device=auto")
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # 0 too: a run before, in the same process, may have had another
    return device


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next tensor; False where there is another C library, left as it is.

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
    """Tells when other programs take the CPUs that this process has threads for."""

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
            count = f"{threads} CPU{'s' * (threads > 1)}"
            self._word = f"busy machine: this run gets {own / seconds:.1f} of {count}" if short else ""
        return self._word


def wait(device: torch.device) -> None:
    """Until a GPU has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def set_tf32(on: bool) -> None:
    """Whether a GPU may round the inputs of float32 products to 10 bits of mantissa."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


def set_deterministic(on: bool, device: torch.device) -> None:
    """Whether a GPU is to compute the same bits from the same numbers every time. (A CPU does, and is left alone.)

    Then cuDNN adds up the gradients of convolutions in one order, cuBLAS' workspaces are checked, and torch's compiler
    does not choose by a stopwatch how sums are split. torch.use_deterministic_algorithms would do the same and also
    sort whatever is written by index, which waits for the device and so cannot be recorded as a CUDA graph. It need
    not: where an index comes twice, we write the same number twice (PrioritizedReplay's sums), or the largest of whole
    numbers counts (its priorities); take_along_dim's gradient adds one number to each place (tests/test_gpu.py).
    """
    on = on and device.type == "cuda"
    if on and os.environ.get(WORKSPACE) not in WORKSPACES:
        raise UserError(
            f"compute.deterministic=true needs {WORKSPACE}={' or '.join(WORKSPACES)}, not "
            f"{os.environ.get(WORKSPACE, 'nothing')}; leave it unset"
        )
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = False
    if on or "torch._inductor.config" in sys.modules:
        from torch._inductor import config as compiler  # slow to load

        # An older torch has no such switch, and keeps what it chose in its cache on disk.
        if hasattr(compiler, "deterministic"):
            compiler.deterministic = on


def numerics(device: torch.device) -> dict[str, str]:
    """What the last bits of results on `device` depend on, besides the program."""
    found = {
        "torch": str(torch.__version__),
        "ale-py": metadata.version("ale-py"),
        "gymnasium": metadata.version("gymnasium"),
        "threads": str(torch.get_num_threads()),
        "CPU": torch.backends.cpu.get_cpu_capability(),
        "denormals": "0",
    }
    if device.type == "cuda":
        found |= {
            "GPU": torch.cuda.get_device_name(device),
            "cuDNN": str(torch.backends.cudnn.version()),
            "TF32": "on" if torch.backends.cudnn.allow_tf32 else "off",
            "compute.deterministic": str(torch.backends.cudnn.deterministic).lower(),
        }
    return found


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


def memory_size(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number > 1e8 else f"{number / 1e6:.1f} MB"


def kept_memory(device: torch.device) -> int:
    """Bytes that no replay may have: networks, torch and emulators need them, on a GPU CUDA graphs and workspaces."""
    return 2_000_000_000 if device.type == "cuda" else 1_000_000_000


def replay_room(device: torch.device) -> int:
    """Bytes that a replay can have on `device`. A small one always fits."""
    return max(50_000_000, available_memory(device) - kept_memory(device))


def replay_device(wanted: str, needed: int, device: torch.device) -> torch.device:
    """Where a replay of `needed` bytes is, if there is room for it; where it fits nowhere, the place with more room.

    Args:
        wanted: auto, cpu or cuda.
        device: the run's.
    Raises UserError where the run's device is not the one wanted.
    """
    host = torch.device("cpu")
    if wanted == "cuda" and device.type != "cuda":
        raise UserError(f"replay.device=cuda: this run is on {device}; set replay.device=auto, or device=cuda")
    if wanted == "auto" and device.type == "cuda" and needed > replay_room(device):
        return max(device, host, key=replay_room)
    return host if wanted == "cpu" else device


def check_replay_fits(
    steps: int, bytes_per_step: int, device: torch.device, least: int = 1, run_device: torch.device | None = None
) -> str:
    """A sentence on the memory that a replay of `steps` agent steps takes on `device` and what the machine has.

    Raises UserError where that is too little, naming the largest capacity that fits if that is `least` steps or more.

    Args:
        run_device: the run's, where it is another one.
    """
    needed, available, room = steps * bytes_per_step, available_memory(device), replay_room(device)
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
        if other and needed <= replay_room(other):
            remedy += f"; or set replay.device={'cpu' if other.type == 'cpu' else 'auto'}, for {other} has the room"
        elif other:
            there += f", {memory_size(available_memory(other))} on {other},"
        raise UserError(
            f"a replay of {steps:,} agent steps takes {memory_size(needed)}, but only {there} and "
            f"{kept_memory(device) / 1e9:.0f} GB is kept for the rest; {remedy}"
        )
    takes = f"replay: {steps:,} agent steps take {memory_size(needed)} of the {memory_size(available)} available"
    if device.type == "cpu" and other:
        return f"{takes} in host memory ({memory_size(available_memory(other))} on {other}); updates are slower for it"
    return f"{takes} on {device}"
