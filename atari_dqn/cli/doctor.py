"""`make doctor`: what this machine has, how fast it can train, and what is wrong with it."""

import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from atari_dqn.training.agents import make_agent
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError

if TYPE_CHECKING:  # each check imports what it needs, so that the broken package is told by name
    from atari_dqn.config.schema import TrainConfig

GOOD, WARN, BAD = "ok", "note", "BAD"
Finding = tuple[str, str]  # (GOOD, WARN or BAD; a sentence)

ERRORS = {  # what an exception says -> the cause and the remedy; the first that fits counts
    "too old|is insufficient": "the NVIDIA driver is too old for this torch; update it, or install an older torch",
    "no NVIDIA driver": "the NVIDIA driver is not loaded; install it and reboot",
    "No CUDA GPUs|no CUDA-capable": "no GPU is visible; unset CUDA_VISIBLE_DEVICES, or start Docker with --gpus all",
    "no kernel image": "torch has no kernels for this GPU; install another build (pytorch.org)",
    "CUDA.*out of memory": "the GPU's memory is full; stop the processes that `nvidia-smi` lists",
    "busy or unavailable": "another process has reserved the GPU; stop it (`nvidia-smi` lists it)",
    "shared object file": "{error}; try `make clean setup`",  # also of CUDA's libraries, which come with torch
    "cuda|nvidia|cublas": "{error}; check that `nvidia-smi` works, and reboot after a driver update",
    "": "{error}; try `make clean setup`",
}


def explain(error: str) -> str:
    """An exception's message as a sentence with a remedy."""
    sentence = next(sentence for pattern, sentence in ERRORS.items() if re.search(pattern, error, re.IGNORECASE))
    return sentence.format(error=error.strip().split("\n")[0].rstrip(". "))


def default_config() -> "TrainConfig":
    from atari_dqn.config import compose

    return compose.to_train_config(compose.compose("train", []))


def python() -> Finding:
    version = sys.version.split()[0]
    if not (3, 10) <= sys.version_info < (3, 14):
        return BAD, f"{version}; install Python 3.10 to 3.13, then `make setup PYTHON=python3.12`"
    return GOOD, f"{version} ({sys.executable})"


def torch() -> Finding:
    import torch

    from atari_dqn.utils.machine import cpus, spinning

    (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item()
    return GOOD, f"{torch.__version__} on {cpus()} CPU cores; how its idle threads wait: {spinning()}"


class GPU(NamedTuple):
    name: str
    capability: tuple[int, int]
    total: int  # bytes
    free: int = 0  # bytes
    error: str = ""  # of the first use


class GPUFacts(NamedTuple):
    """What the findings on GPUs depend on; an empty string is a fact that is not there."""

    nvidia: bool = True  # this machine has an NVIDIA GPU, whether torch sees it or not
    driver: str = ""  # version
    cuda: str = ""  # version that torch was built for
    architectures: Sequence[str] = ()  # that torch has kernels for
    gpus: Sequence[GPU] = ()
    error: str = ""  # of CUDA's initialization
    triton_lacks: str = ""  # what compute.compile=true would miss


def gpu_facts() -> GPUFacts:
    """Ask torch, nvidia-smi and the system, and use each GPU once."""
    import torch

    # torch has no public call for the driver's version.
    smi = subprocess.getoutput("timeout 10 nvidia-smi --query-gpu=driver_version --format=csv,noheader")
    driver, gpus, error = re.match(r"\d[\d.]*", smi), [], ""
    try:
        if torch.version.cuda:
            torch.cuda.init()
            gpus = [_use(index) for index in range(torch.cuda.device_count())]
    except Exception as caught:
        error = str(caught)
    parts = {  # of what Triton needs
        "Triton (`make clean setup` with torch's CUDA build)": importlib.util.find_spec("triton"),
        "a C compiler (install gcc)": os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"),
        "Python's headers (install python3-dev)": Path(sysconfig.get_path("include"), "Python.h").exists(),
    }
    return GPUFacts(
        nvidia=bool(gpus or shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia").exists(),
        driver=driver[0] if driver else "",
        cuda=torch.version.cuda or "",
        architectures=torch.cuda.get_arch_list(),
        gpus=gpus,
        error=error,
        triton_lacks=" and ".join(name for name, found in parts.items() if not found),
    )


def _use(index: int) -> GPU:
    """Compute something on a GPU."""
    import torch

    found = torch.cuda.get_device_properties(index)
    gpu = GPU(found.name, (found.major, found.minor), found.total_memory)
    try:
        ones = torch.ones(2, 2, device=f"cuda:{index}")
        (ones @ ones).sum().item()
        return gpu._replace(free=torch.cuda.mem_get_info(index)[0])
    except Exception as error:
        return gpu._replace(error=str(error))


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code for one of these runs: sm_XY on its major version from Y on, compute_XY (PTX) on all newer ones."""
    codes = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(architectures))
    fitting = [(kind, int(x)) for kind, x, y in codes if (int(x), int(y)) <= capability]
    return any(kind == "compute" or x == capability[0] for kind, x in fitting)


def gpus(facts: GPUFacts | None = None) -> list[Finding]:
    """What there is to say of GPUs: of this machine's, or by the facts given."""
    facts = facts or gpu_facts()
    if not facts.nvidia:
        return [(GOOD, "no NVIDIA GPU; training runs on the CPU")]
    if not facts.cuda:
        text = (
            "this machine has an NVIDIA GPU, but torch is a CPU build, so training runs on the CPU. For the CUDA build "
        )
        text += "(3 GB): `.venv/bin/pip uninstall -y torch`, then `.venv/bin/pip install -r requirements.lock`; "
        return [(WARN, text + "pip must not be set to torch's CPU index (`.venv/bin/pip config list`)")]
    if not facts.gpus:
        return [(WARN, f"{explain(facts.error or 'No CUDA GPUs')}. Until then training runs on the CPU")]
    found = [_one_gpu(index, gpu, facts.architectures) for index, gpu in enumerate(facts.gpus)]
    if len(facts.gpus) > 1:
        text = "a run takes cuda:0, or another with device=cuda:1; "
        found.append((GOOD, text + "a sweep with sweep.gpus=1 gives each run its own (default: four share one)"))
    driver = f"driver {facts.driver}" if facts.driver else "`nvidia-smi` does not tell the driver's version"
    found.append((GOOD, f"torch is built for CUDA {facts.cuda}; {driver}"))
    tf32 = default_config().compute.tf32
    old = any(gpu.capability < (8, 0) for gpu in facts.gpus)
    effect = ", without effect below compute capability 8.0" if old else ""
    found.append((GOOD, f"TF32 is {'on' if tf32 else 'off'} (compute.tf32={str(tf32).lower()}){effect}"))
    if facts.triton_lacks:
        return [*found, (WARN, f"compute.compile=true cannot run, all else can; missing: {facts.triton_lacks}")]
    return [*found, (GOOD, "Triton and a C compiler are there: compute.compile=true can run")]


def _one_gpu(index: int, gpu: GPU, architectures: Sequence[str]) -> Finding:
    capability = ".".join(map(str, gpu.capability))
    text = f"cuda:{index} is {gpu.name}, {gpu.total / 1e9:.1f} GB, compute capability {capability}"
    if architectures and not has_kernels(gpu.capability, architectures):
        text += f"; torch has kernels for {' '.join(architectures)} only: install another build (pytorch.org)"
    elif gpu.error:
        text += f"; {explain(gpu.error)}"
    else:
        return GOOD, f"{text}; {gpu.free / 1e9:.1f} GB free; torch has kernels for it"
    return (WARN if index else BAD), f"{text}, or use another device (device=cpu)"  # device=auto takes the first


def seconds_per_call(call: Callable[[], object], seconds: float = 1.5) -> float:
    calls, start, passed = 0, time.perf_counter(), 0.0
    while passed < seconds:
        call()
        calls, passed = calls + 1, time.perf_counter() - start
    return passed / calls


@functools.cache
def play() -> tuple[bool, float]:
    """Whether the emulators show a picture, and their frames/s on all cores by random actions."""
    import numpy as np

    from atari_dqn.envs import factory
    from atari_dqn.utils import machine

    env, cores = default_config().env, machine.cpus()
    games = max(cores, min(2 * cores, 32))  # few, for they are created one by one
    envs, rng = factory.make(env, games), np.random.default_rng(0)
    frames = envs.reset([*range(games)])

    def step() -> None:
        envs.send(rng.integers(0, len(envs.actions), games))
        envs.recv()

    rate = games * env.frame_skip / seconds_per_call(step)
    envs.close()
    return frames.shape == (games, 84, 84) and bool(frames.any()), rate


def emulator() -> list[Finding]:
    import ale_py

    from atari_dqn.data import games
    from atari_dqn.utils import machine

    (shown, rate), cores = play(), machine.cpus()
    if not shown:
        return [(BAD, f"ale-py {ale_py.__version__} shows no picture; reinstall with `make clean setup`")]
    names = f"{len(games.atari_games())} games (`make games` lists them)"
    text = f"ale-py {ale_py.__version__} plays {default_config().env.game}; {names}"
    return [
        (GOOD, text),
        (GOOD, f"{rate:,.0f} frames/s on {cores} cores, {rate / cores:,.0f} a core, by random actions"),
    ]


def seconds_per_turn(config: "TrainConfig") -> float:
    """Of the network on the CPU: acting in all games, and the updates that are then due, on random frames."""
    import torch

    from atari_dqn.dqn import networks
    from atari_dqn.dqn.replay import Batch
    from atari_dqn.utils import machine

    networks.set_threads(config.network.name, torch.device("cpu"))
    machine.keep_freed_memory()
    size = config.num_envs // config.update.period_steps, config.update.batch_size
    state = config.env.frame_stack, config.env.screen_size, config.env.screen_size
    s, zeros, draw = torch.randint(0, 256, (2, *size, *state)).byte(), torch.zeros(size), torch.Generator()
    batch = Batch(s[0], zeros.long(), zeros, zeros, s[1], zeros + 1, zeros.long(), zeros.long())
    learner = make_agent(config, state[1:], 4, torch.device("cpu"))  # Breakout's four actions

    def turn() -> None:
        learner.act(s[0].flatten(0, 1)[: config.num_envs], 0.1, draw)
        learner.learn(batch, draw)

    turn()  # the first one records the operators
    return seconds_per_call(turn)


def speed() -> Finding:
    """What training speed to expect."""
    import psutil

    from atari_dqn.utils.devices import choose_device

    busy, config, (_, rate) = psutil.cpu_percent(0.3), default_config(), play()
    if choose_device("auto").type == "cuda":
        text = f"at most the emulators' {rate:,.0f} frames/s beside a GPU, so 200M frames take "
        text += f"{200e6 / rate / 3600:.1f} hours or more: an estimate for PRESET=default; `make bench-gpu` measures it"
    else:
        turn, frames = seconds_per_turn(config), config.num_envs * config.env.frame_skip
        rate = frames / (turn + frames / rate)  # both use all cores, so their times add up
        update = turn * config.update.period_steps / config.num_envs
        text = f"about {rate:,.0f} frames/s in training, 10M frames in {10e6 / rate / 3600:.1f} hours: an estimate for "
        text += f"PRESET=default, from {1e3 * update:.1f} ms an update and the emulators' rate"
    if busy > 25:
        return WARN, f"{text}; other processes use {busy:.0f}% of the CPUs, so run it again when they are done"
    return GOOD, text


def roms() -> Finding:
    from ale_py import roms

    from atari_dqn.data import games

    missing = [name for name, rom in games.atari_games().items() if not Path(roms.get_rom_path(rom) or "").is_file()]
    if missing:
        return BAD, f"{len(missing)} are missing ({', '.join(missing[:3])} ...); reinstall with `make clean setup`"
    return GOOD, "all there, inside ale-py"


def opencv() -> Finding:
    import cv2
    import numpy as np

    names = [f"opencv-{kind}" for kind in ("python", "python-headless", "contrib-python", "contrib-python-headless")]
    wheels = [name for name in names if any(importlib.metadata.distributions(name=name))]
    small = cv2.resize(np.full((210, 160), 7, np.uint8), (84, 84), interpolation=cv2.INTER_AREA)
    if len(wheels) > 1:
        return BAD, f"{' and '.join(wheels)} overwrite each other; uninstall all, keep opencv-python-headless"
    return (GOOD if (small == 7).all() else BAD), f"{cv2.__version__} ({wheels[0] if wheels else 'not from a wheel'})"


def video() -> Finding:
    import av

    av.codec.Codec("libx264", "w")
    return GOOD, f"H.264 by PyAV {av.__version__}"


def replay() -> Finding:
    from atari_dqn.dqn.replay import BYTES_BESIDE_FRAME
    from atari_dqn.training import capacity
    from atari_dqn.utils import devices

    steps, device = default_config().replay.capacity, devices.choose_device("auto")
    text = capacity.check_replay_fits(steps, 84 * 84 + BYTES_BESIDE_FRAME, device)
    return GOOD, text.removeprefix("replay: ")


def disk() -> Finding:
    free = shutil.disk_usage(".").free
    if not os.access(".", os.W_OK):
        return BAD, "this folder cannot be written to; runs/ goes here, or set run_dir=PATH"
    return (GOOD if free > 2e9 else WARN), f"{free / 1e9:.0f} GB free here"


def wandb() -> Finding:
    from atari_dqn.tracking import wandb_client

    return GOOD, wandb_client.standing()


def display() -> Finding:
    from atari_dqn.viewing.video import has_display

    if not has_display():
        return WARN, "none, so no `make watch`; `make video` needs none"
    return GOOD, "there"


CHECKS: dict[str, Callable[[], Finding | list[Finding]]] = {
    "Python": python, "torch": torch, "GPU": gpus, "emulator": emulator, "ROMs": roms, "OpenCV": opencv,
    "replay memory": replay, "disk": disk, "video": video, "W&B": wandb, "display": display, "speed": speed,
}  # fmt: skip
OPTIONAL = (video, wandb, display, speed)  # the main job runs without


def main() -> int:
    """Print all findings; 1 if the main job could not run, else 0."""
    console = Console()
    failed = False
    for name, check in CHECKS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch warns of, a check says in its own words
                found = check()
        except UserError as error:
            found = BAD, str(error)
        except Exception as error:
            found = WARN if check in OPTIONAL else BAD, explain(f"{type(error).__name__}: {error}")
        for state, text in found if isinstance(found, list) else [found]:
            failed = failed or (state == BAD and check not in OPTIONAL)
            color = {GOOD: "green", WARN: "yellow", BAD: "bold red"}[state]
            for line in textwrap.wrap(text, max(30, console.width - 21), break_on_hyphens=False):  # keeps --options
                console.print(Text.assemble((f"{state:>4}", color), f"  {name:<14}{line}"))
                state = name = ""
    console.print("\nFix the items marked BAD." if failed else "\nThe main job can run here.")
    return int(failed)
