"""`make doctor`: what this machine has, and what is wrong with it, on one screen."""

import importlib.metadata
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

GOOD, WARN, BAD = "ok", "note", "BAD"
Finding = tuple[str, str]  # (GOOD, WARN or BAD; a sentence)


def python() -> Finding:
    version = sys.version.split()[0]
    if not (3, 10) <= sys.version_info < (3, 14):
        return BAD, f"{version}; install Python 3.10 to 3.13, then `make setup PYTHON=python3.12`"
    return GOOD, f"{version} ({sys.executable})"


def torch() -> Finding:
    import torch

    from atari_dqn.machine import cpus

    (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item()
    if torch.cuda.is_available():
        return GOOD, f"{torch.__version__} on {torch.cuda.get_device_name(0)}, {cpus()} CPU cores"
    return GOOD, f"{torch.__version__} on {cpus()} CPU cores; no CUDA device"


def emulator() -> Finding:
    import ale_py
    import numpy as np

    from atari_dqn import emulators, games, settings

    env = settings.compose("train", []).env
    envs = emulators.make(env, 2)
    envs.reset([1, 2])
    envs.send(np.zeros(2, np.int64))
    frames = envs.recv().frames
    envs.close()
    if frames.shape != (2, 84, 84) or not frames.any():
        return BAD, f"ale-py {ale_py.__version__} shows no picture; reinstall with `make clean setup`"
    return (
        GOOD,
        f"ale-py {ale_py.__version__} plays {env.game}; {len(games.atari_games())} games (`make games` lists them)",
    )


def roms() -> Finding:
    from ale_py import roms

    from atari_dqn import games

    missing = [name for name, rom in games.atari_games().items() if not Path(roms.get_rom_path(rom) or "").is_file()]
    if missing:
        return BAD, f"{len(missing)} are missing ({', '.join(missing[:3])} ...); reinstall with `make clean setup`"
    return GOOD, "all there, inside ale-py"


def opencv() -> Finding:
    import cv2
    import numpy as np

    wheels = [
        name
        for name in (
            "opencv-python",
            "opencv-python-headless",
            "opencv-contrib-python",
            "opencv-contrib-python-headless",
        )
        if any(importlib.metadata.distributions(name=name))
    ]
    small = cv2.resize(np.full((210, 160), 7, np.uint8), (84, 84), interpolation=cv2.INTER_AREA)
    if len(wheels) > 1:
        return BAD, f"{' and '.join(wheels)} overwrite each other; uninstall all, keep opencv-python-headless"
    return (GOOD if (small == 7).all() else BAD), f"{cv2.__version__} ({wheels[0] if wheels else 'not from a wheel'})"


def video() -> Finding:
    import av

    av.codec.Codec("libx264", "w")
    return GOOD, f"H.264 by PyAV {av.__version__}"


def replay() -> Finding:
    from atari_dqn import machine, settings
    from atari_dqn.errors import UserError
    from atari_dqn.replay import BYTES_BESIDE_FRAME

    capacity = settings.compose("train", []).replay.capacity
    try:
        return GOOD, machine.check_replay_fits(
            capacity, 84 * 84 + BYTES_BESIDE_FRAME, machine.choose_device("auto")
        ).removeprefix("replay: ")
    except UserError as error:
        return BAD, str(error)


def disk() -> Finding:
    free = shutil.disk_usage(".").free
    writable = os.access(".", os.W_OK)
    if not writable:
        return BAD, "this folder cannot be written to; runs/ goes here, or set run_dir=PATH"
    return (GOOD if free > 2e9 else WARN), f"{free / 1e9:.0f} GB free here"


def wandb() -> Finding:
    import wandb

    from atari_dqn.wandb_client import wandb_login

    if os.environ.get("WANDB_MODE") in ("disabled", "offline") or not wandb_login():
        return GOOD, f"{wandb.__version__}, no login: runs are recorded offline (`wandb login` changes that)"
    return GOOD, f"{wandb.__version__}, logged in: runs are sent (WANDB=offline or WANDB=off changes that)"


def display() -> Finding:
    from atari_dqn.video import has_display

    if not has_display():
        return WARN, "none, so no `make watch`; `make video` needs none"
    return GOOD, "there"


CHECKS: dict[str, tuple[Callable[[], Finding], bool]] = {  # name -> (check, whether the main job needs it)
    "Python": (python, True),
    "torch": (torch, True),
    "emulator": (emulator, True),
    "ROMs": (roms, True),
    "OpenCV": (opencv, True),
    "replay memory": (replay, True),
    "disk": (disk, True),
    "video": (video, False),
    "W&B": (wandb, False),
    "display": (display, False),
}


def main() -> int:
    """Print all findings; 1 if the main job could not run, else 0."""
    console = Console(highlight=False)
    failed = False
    for name, (check, needed) in CHECKS.items():
        try:
            state, text = check()
        except Exception as error:
            state, text = BAD if needed else WARN, f"{type(error).__name__}: {error}; try `make clean setup`"
        failed = failed or (state == BAD and needed)
        colour = {GOOD: "green", WARN: "yellow", BAD: "bold red"}[state]
        lines = textwrap.wrap(text, max(30, console.width - 21))
        console.print(Text.assemble((f"{state:>4}", colour), f"  {name:<14}", lines[0]))
        for line in lines[1:]:
            console.print(Text(" " * 20 + line))
    console.print("\nSomething is wrong; mend what is marked BAD." if failed else "\nThe main job can run here.")
    return int(failed)
