"""What doctor says of GPUs and of speed, by facts that are given: no test needs a GPU."""

import re

import pytest
import torch

from atari_dqn.cli import doctor, doctor_checks, doctor_gpu
from atari_dqn.cli.doctor_checks import BAD, GOOD, WARN
from atari_dqn.cli.doctor_gpu import GPU, GPUFacts
from atari_dqn.training import estimate
from atari_dqn.utils import devices

H100 = GPU("NVIDIA H100 80GB HBM3", (9, 0), 85_000_000_000, 84_100_000_000)
GTX1080 = GPU("GeForce GTX 1080", (6, 1), 8_500_000_000)
BUILD = GPUFacts(driver="580.65.06", cuda="13.0", architectures=["sm_75", "sm_80", "sm_90", "compute_120"])


def said(facts: GPUFacts) -> list[tuple[str, str]]:
    return doctor_gpu.gpus(facts)


def test_no_gpu():
    assert said(GPUFacts(nvidia=False, cuda="13.0", error="Found no NVIDIA driver on your system.")) == [
        (GOOD, "no NVIDIA GPU; training runs on the CPU")
    ]


def test_a_cpu_build_beside_a_gpu_names_the_command():
    [(state, text)] = said(GPUFacts(driver="580.65.06"))
    assert state == WARN and "torch is a CPU build" in text
    assert "`.venv/bin/pip uninstall -y torch`, then `.venv/bin/pip install -r requirements.lock`" in text


def test_a_gpu_with_triton():
    card, build, tf32, triton = said(BUILD._replace(gpus=[H100]))
    assert card == (
        GOOD,
        "cuda:0 is NVIDIA H100 80GB HBM3, 85.0 GB, compute capability 9.0; 84.1 GB free; torch has kernels for it",
    )
    assert build == (GOOD, "torch is built for CUDA 13.0; driver 580.65.06")
    assert tf32 == (GOOD, "TF32 is on (compute.tf32=true)")
    assert triton[0] == GOOD and "compute.compile=true can run" in triton[1]


def test_a_gpu_without_triton_or_nvidia_smi():
    found = said(BUILD._replace(gpus=[H100], driver="", triton_lacks="a C compiler (install gcc)"))
    assert found[1] == (GOOD, "torch is built for CUDA 13.0; `nvidia-smi` does not report the driver's version")
    assert found[-1] == (WARN, "compute.compile=true cannot run, all else can; missing: a C compiler (install gcc)")


def test_two_gpus():
    found = said(BUILD._replace(gpus=[H100, H100]))
    assert [text[:6] for _, text in found[:2]] == ["cuda:0", "cuda:1"]
    assert found[2][0] == GOOD and "device=cuda:1" in found[2][1] and "sweep.gpus=1" in found[2][1]


def test_a_card_without_kernels_is_bad_only_where_it_is_the_first():
    old, tf32 = said(BUILD._replace(gpus=[GTX1080]))[0:3:2]
    assert old[0] == BAD and "torch has kernels for sm_75 sm_80 sm_90 compute_120 only" in old[1]
    assert "device=cpu" in old[1] and "without effect below compute capability 8.0" in tf32[1]
    assert said(BUILD._replace(gpus=[H100, GTX1080]))[1][0] == WARN


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((8, 0), ["sm_80"], True),
        ((8, 6), ["sm_80"], True),  # a later minor version
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),  # another major version
        ((9, 0), ["sm_80", "compute_80"], True),  # by PTX
        ((7, 0), ["sm_80", "compute_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_100", "sm_120"], True),
    ],
)
def test_which_code_runs_where(capability, architectures, fits):
    assert doctor_gpu.has_kernels(capability, architectures) is fits


ERRORS = {  # what torch says -> what doctor says
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver": "update it",
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU": "install it and reboot",
    "No CUDA GPUs are available": "CUDA_VISIBLE_DEVICES",
    "CUDA error: no kernel image is available for execution on the device\nFor debugging": "install another build",
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.19 GiB": "memory is full",
    "CUDA error: out of memory\nCUDA kernel errors might be reported later": "memory is full",
    "CUDA-capable device(s) is/are busy or unavailable\nCompile with `TORCH_USE_CUDA_DSA`": "another process",
    "CUDA unknown error - this may be due to {an incorrect} environment.\nMore": "CUDA unknown error - this may be due "
    "to {an incorrect} environment; check that `nvidia-smi` works, and reboot after a driver update",
}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_of_cuda_is_a_sentence_with_a_remedy(error):
    [(state, text)] = said(BUILD._replace(error=error))
    assert state == WARN and ERRORS[error] in text and text.endswith("training runs on the CPU")
    first, second = said(BUILD._replace(gpus=[H100._replace(error=error)] * 2))[:2]
    assert first[0] == BAD and ERRORS[error] in first[1] and "device=cpu" in first[1]
    assert second[0] == WARN and "\n" not in text + first[1] + second[1]


def test_another_exception_ends_with_setup():
    missing = "ImportError: libcublas.so.13: cannot open shared object file: No such file or directory"
    assert doctor_checks.explain(missing) == f"{missing}; try `make clean setup`"
    assert doctor_checks.explain("ImportError: no libGL\nmore") == "ImportError: no libGL; try `make clean setup`"


def test_a_start_of_cuda_that_raises_is_a_fact(monkeypatch):
    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail)
    facts = doctor_gpu.gpu_facts()
    assert not facts.gpus and facts.cuda == "13.0" and "too old" in facts.error
    [(state, text)] = said(facts._replace(nvidia=True))
    assert state == WARN and text.startswith("the NVIDIA driver is too old for this torch; update it")


def test_each_gpu_is_asked_and_used(monkeypatch):
    class Properties:
        name, major, minor, total_memory = "NVIDIA H100 80GB HBM3", 9, 0, 85_000_000_000

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (84_100_000_000, 85_000_000_000))
    monkeypatch.setattr(doctor_gpu.subprocess, "getoutput", lambda command: "580.65.06\n580.65.06")
    ones = torch.ones

    def ones_there(*size: int, device: str) -> torch.Tensor:
        if device == "cuda:1":
            raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")
        return ones(*size)

    monkeypatch.setattr(torch, "ones", ones_there)
    facts = doctor_gpu.gpu_facts()
    assert facts.nvidia and facts.driver == "580.65.06" and facts.gpus[0] == H100
    assert "out of memory" in facts.gpus[1].error
    monkeypatch.setattr(doctor_gpu.subprocess, "getoutput", lambda command: "sh: 1: nvidia-smi: not found")
    assert doctor_gpu.gpu_facts().driver == ""


@pytest.mark.parametrize(("first", "code"), [(H100, 0), (GTX1080, 1)])
def test_the_exit_code_and_the_width(first, code, monkeypatch, capsys):
    facts = BUILD._replace(gpus=[first, H100, GTX1080], triton_lacks="Triton and a C compiler (install gcc)")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(doctor, "CHECKS", {"GPU": lambda: doctor_gpu.gpus(facts)})
    assert doctor.main() == code
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "GPU" in lines[0] and sum("GPU  " in line for line in lines) == 1
    assert lines[-1] == ("Fix the items marked BAD." if code else "The main job can run here.")


def test_the_command_for_the_cuda_build_keeps_its_options_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(doctor, "CHECKS", {"GPU": lambda: doctor_gpu.gpus(GPUFacts())})
    assert doctor.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any(line.endswith("-") for line in lines)


def test_what_is_not_needed_fails_without_a_traceback(monkeypatch, capsys):
    def broken() -> doctor_checks.Finding:
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(doctor, "CHECKS", {"speed": broken})
    monkeypatch.setattr(doctor, "OPTIONAL", (broken,))
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert out.startswith("note") and "launch failure" in out and "kernel errors" not in out
    monkeypatch.setattr(doctor, "OPTIONAL", ())
    assert doctor.main() == 1


@pytest.fixture
def idle(monkeypatch):
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: 3.0)
    monkeypatch.setattr(doctor_checks, "play", lambda: (True, 40_000.0))


def test_speed_on_a_cpu_adds_both_times_up(monkeypatch, idle):
    monkeypatch.setattr(devices, "choose_device", lambda name: torch.device("cpu"))
    turn = 0.0624  # of 16 games, 4 frames and 4 updates
    monkeypatch.setattr(estimate, "seconds_per_turn", lambda config, threads: turn)
    text = "about 1,000 frames/s in training, 10M frames in 2.8 hours: an estimate for PRESET=default, from 15.6 ms an "
    assert doctor_checks.speed() == (GOOD, text + "update and the emulators' rate")
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: 60.0)
    state, text = doctor_checks.speed()
    assert state == WARN and text.endswith("other processes use 60% of the CPUs, so run it again when they are done")


def test_speed_beside_a_gpu_is_bounded_by_the_emulators(monkeypatch, idle):
    monkeypatch.setattr(devices, "choose_device", lambda name: torch.device("cuda"))
    state, text = doctor_checks.speed()
    assert state == GOOD and "at most the emulators' 40,000 frames/s" in text and "200M frames take 1.4 hours" in text
    assert "an estimate for PRESET=default" in text


def test_both_rates_are_measured(monkeypatch):
    monkeypatch.setattr(estimate.seconds_per_call, "__defaults__", (0.05,))
    doctor_checks.play.cache_clear()
    try:
        (works, rate), turn = doctor_checks.emulator(), estimate.seconds_per_turn(doctor_checks.default_config(), 1)
    finally:
        doctor_checks.play.cache_clear()
    assert works[0] == GOOD and "plays Breakout" in works[1]
    assert re.fullmatch(r"[\d,]+ frames/s on \d+ cores?, [\d,]+ a core, by random actions", rate[1])
    assert 0.001 < turn < 60
