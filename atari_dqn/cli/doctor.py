"""`make doctor`: what this machine has, how fast it can train, and what is wrong with it."""

import textwrap
import warnings
from collections.abc import Callable

from rich.text import Text

from atari_dqn.cli import doctor_checks as checks
from atari_dqn.cli import doctor_gpu
from atari_dqn.cli.doctor_checks import BAD, GOOD, WARN, Finding, explain
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError

CHECKS: dict[str, Callable[[], Finding | list[Finding]]] = {
    "Python": checks.python, "torch": checks.torch, "GPU": doctor_gpu.gpus, "emulator": checks.emulator,
    "ROMs": checks.roms, "OpenCV": checks.opencv, "replay memory": checks.replay, "disk": checks.disk,
    "video": checks.video, "W&B": checks.wandb, "display": checks.display, "speed": checks.speed,
}  # fmt: skip
OPTIONAL = (checks.video, checks.wandb, checks.display, checks.speed)  # the main job runs without


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
            found = WARN if check in OPTIONAL else BAD, str(error)
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
