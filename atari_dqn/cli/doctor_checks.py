"""The checks of `make doctor`, except those of GPUs. Each returns one or more findings."""

import functools
import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from atari_dqn.utils import extras
from atari_dqn.utils.hints import hint, in_checkout, reinstall

if TYPE_CHECKING:  # each check imports what it needs, so that a broken package is reported by name
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
    "shared object file": "{error}; try {again}",  # also of CUDA's libraries, which come with torch
    "cuda|nvidia|cublas": "{error}; check that `nvidia-smi` works, and reboot after a driver update",
    "": "{error}; try {again}",
}


def explain(error: str) -> str:
    """An exception's message as a sentence with a remedy."""
    sentence = next(sentence for pattern, sentence in ERRORS.items() if re.search(pattern, error, re.IGNORECASE))
    return sentence.format(error=error.strip().split("\n")[0].rstrip(". "), again=reinstall())


def default_config() -> "TrainConfig":
    from atari_dqn.config import compose

    return compose.to_train_config(compose.compose("train", []))


def python() -> Finding:
    version = sys.version.split()[0]
    if not (3, 10) <= sys.version_info < (3, 15):
        again = "`make setup PYTHON=python3.12`" if in_checkout() else reinstall()
        return BAD, f"{version}; install Python 3.10 to 3.14, then {again}"
    return GOOD, f"{version} ({sys.executable})"


def torch() -> Finding:
    import torch

    from atari_dqn.utils.machine import cpus, spinning

    (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item()
    return GOOD, f"{torch.__version__} on {cpus()} CPU cores; how its idle threads wait: {spinning()}"


@functools.cache
def play() -> tuple[bool, float]:
    """Whether the emulators show a picture, and their frames/s on all cores by random actions."""
    import numpy as np

    from atari_dqn.envs import factory
    from atari_dqn.training.estimate import seconds_per_call
    from atari_dqn.utils import machine

    env, cores = default_config().env, machine.cpus()
    games = max(cores, min(2 * cores, 32))  # few, for they are created one by one
    envs, rng = factory.make_emulators(env, games), np.random.default_rng(0)
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
        return [(BAD, f"ale-py {ale_py.__version__} shows no picture; reinstall with {reinstall()}")]
    names = f"{len(games.atari_games())} games ({hint('games')} lists them)"
    text = f"ale-py {ale_py.__version__} plays {default_config().env.game}; {names}"
    return [
        (GOOD, text),
        (GOOD, f"{rate:,.0f} frames/s on {cores} cores, {rate / cores:,.0f} a core, by random actions"),
    ]


def speed() -> Finding:
    """What training speed to expect."""
    import psutil

    from atari_dqn.training import estimate
    from atari_dqn.utils.devices import choose_device
    from atari_dqn.utils.machine import cpus

    busy, config, (_, rate) = psutil.cpu_percent(0.3), default_config(), play()
    if choose_device("auto").type == "cuda":
        text = f"at most the emulators' {rate:,.0f} frames/s beside a GPU, so 200M frames take "
        text += f"{200e6 / rate / 3600:.1f} hours or more: an estimate for PRESET=default"
        text += "; `make bench-gpu` measures it" if in_checkout() else ""
    else:
        turn, frames = estimate.seconds_per_turn(config, cpus()), config.num_envs * config.env.frame_skip
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
        return BAD, f"{len(missing)} are missing ({', '.join(missing[:3])} ...); reinstall with {reinstall()}"
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
    av = extras.load("av", "a video")
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
        return WARN, f"none, so no {hint('watch')}; {hint('video')} needs none"
    return GOOD, "there"
