"""The device that a run computes on, and what the last bits of its numbers depend on."""

import os
import sys
from importlib import metadata

import torch

from atari_dqn.utils.errors import UserError

# Numbers below 1e-38 count as 0, as on a GPU: squares of small gradients are full of them, and a CPU takes twenty times
# as long for each. A thread inherits this from the one that starts it, so it comes before torch starts its own; and
# again with each device that is chosen, for other libraries change it (a session of onnxruntime switches it off).
torch.set_flush_denormal(True)

# cuBLAS' workspaces, of one kind and fixed, so that a product is added up in the same order every time. It is read
# once, at a process' first product on a GPU. (32 MiB: what a Hopper GPU has anyway.)
WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # those that NVIDIA calls deterministic
os.environ.setdefault(WORKSPACE, WORKSPACES[0])


def choose_device(name: str) -> torch.device:
    """The torch device called `name`; `auto` is a GPU if there is one. Raises UserError if it is not there.

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
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # 0 too: a run before, in the same process, may have had another
    return device


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its queue."""
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


def check_bfloat16(device: torch.device) -> None:
    """Raise UserError where products in bfloat16 are not faster than in float32."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    if not able:
        lacks = " has neither AVX512-BF16 nor AMX" if device.type == "cpu" else " cannot multiply in bfloat16"
        raise UserError(f"compute.precision=bf16: this {device.type.upper()}{lacks}; use compute.precision=float32")
