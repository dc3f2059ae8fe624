"""What `make doctor` says of GPUs."""

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atari_dqn.cli.doctor_checks import BAD, GOOD, WARN, Finding, default_config, explain
from atari_dqn.utils.hints import in_checkout, reinstall


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
        f"Triton ({reinstall()} with torch's CUDA build)": importlib.util.find_spec("triton"),
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
        pip, what = (".venv/bin/pip", "-r requirements.lock") if in_checkout() else ("pip", "torch")
        text += f"(3 GB): `{pip} uninstall -y torch`, then `{pip} install {what}`; "
        return [(WARN, text + f"pip must not be set to torch's CPU index (`{pip} config list`)")]
    if not facts.gpus:
        return [(WARN, f"{explain(facts.error or 'No CUDA GPUs')}. Until then training runs on the CPU")]
    found = [_one_gpu(index, gpu, facts.architectures) for index, gpu in enumerate(facts.gpus)]
    if len(facts.gpus) > 1:
        text = "a run takes cuda:0, or another with device=cuda:1; "
        found.append((GOOD, text + "a sweep with sweep.gpus=1 gives each run its own (default: four share one)"))
    driver = f"driver {facts.driver}" if facts.driver else "`nvidia-smi` does not report the driver's version"
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
