"""What an installation takes: megabytes of the core and of each extra, seconds until the program does something.

    python benchmarks/install.py [--csv PATH]

Measures the environment that it runs in. A size is that of the files which pip lists, of an extra without what the core
has already. A time is the fastest of 3 starts, to the end of the process; `train` ends at its first step or update.
"""

import argparse
import csv
import importlib.metadata as metadata
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

STOP = """
import importlib, os, sys
from atari_dqn import __main__
module, name, method = sys.argv.pop(1).split(":")
def stop(self, *args): os._exit(0)
setattr(getattr(importlib.import_module(module), name), method, stop)
__main__.main(sys.argv[1:])
"""
STARTED = 3
PONG = ["train", "env.game=Pong", "logger.wandb=off"]
STARTS = {
    "import atari_dqn": ["-c", "import atari_dqn"],
    "atari-dqn --help": ["-m", "atari_dqn", "--help"],
    "atari-dqn train --help": ["-m", "atari_dqn", "train", "--help"],
    "import torch": ["-c", "import torch"],
    "atari-dqn train: first step": ["-c", STOP, "atari_dqn.envs.atari:AtariEmulators:send", *PONG],
    "atari-dqn train: first update (10,000 random steps before)": [
        "-c",
        STOP,
        "atari_dqn.dqn.agent:Agent:learn",
        *PONG,
    ],
}


def needed(requirement: Requirement, found: set[str]) -> set[str]:
    """`found`, with the installed packages that a requirement leads to."""
    name = canonicalize_name(requirement.name)
    key = f"{name}[{','.join(sorted(requirement.extras))}]"
    if key in found:
        return found
    try:
        wanted = [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return found
    found |= {name, key}
    for one in wanted:
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}):
            needed(one, found)
    return found


def megabytes(names: set[str]) -> float:
    paths = [path.locate() for name in names if "[" not in name for path in metadata.files(name) or []]
    return sum(Path(path).stat().st_size for path in {*paths} if Path(path).is_file()) / 1e6


def start(words: list[str]) -> tuple[float, float]:
    """Seconds from a start to its end, and of the CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, check=True)
        took = time.time() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path)
    csv_path = parser.parse_args().csv
    core = needed(Requirement("atari-dqn"), set())
    rows = [("core", f"{megabytes(core):.0f}", "", "")]
    for extra in metadata.metadata("atari-dqn").get_all("Provides-Extra") or []:
        more = needed(Requirement(f"atari-dqn[{extra}]"), set()) - core
        rows.append((extra, f"{megabytes(more):.0f}", "", ""))
    for name, words in STARTS.items():
        took, cpu = map(min, zip(*(start(words) for _ in range(STARTED)), strict=True))
        rows.append((name, "", f"{took:.2f}", f"{cpu:.2f}"))
    for row in rows:
        print("{:60} {:>6} {:>6} {:>6}".format(*row))
    if csv_path:
        with open(csv_path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("what", "megabytes", "seconds", "cpu_seconds"), *rows])


if __name__ == "__main__":
    main()
