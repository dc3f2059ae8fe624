"""Compare learning speed, in agent steps per second, with other implementations on the same machine, alternating.

    make bench CLEANRL=a/clone/of/vwxyzjn/cleanrl

Equal settings: the Nature network, batches of 32, one update per 4 agent steps, hard target copies every 1,000, epsilon
0.01, a replay of 50,000. All contestants run until they learn; then they take turns of --seconds while the others are
stopped (SIGSTOP), so that noise on the machine affects all equally. Prints a table and appends a row per contestant to
--output. With --memory, measures our resident memory with a replay of 1,000,000 instead.
"""

import argparse
import contextlib
import csv
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from atari_dqn.utils import devices
from atari_dqn.utils.errors import UserError

ROOT = Path(__file__).parent.parent
COLUMNS = (
    "game", "contestant", "steps_per_second", "least", "most", "ours_is_times", "rounds", "machine", "versions",
)  # fmt: skip
SETTLE_SECONDS = 1.0  # after a contestant resumes

SB3 = """
import sys
import ale_py
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

class Told(BaseCallback):
    last = 0
    def _on_step(self):
        if self.num_timesteps > 1500 and self.num_timesteps // 40 > self.last // 40:
            print("STEPS", self.num_timesteps, flush=True)
        self.last = self.num_timesteps
        return True

n = int(sys.argv[2])
env = VecFrameStack(make_atari_env(sys.argv[1] + "NoFrameskip-v4", n_envs=n, seed=1), 4)
DQN("CnnPolicy", env, buffer_size=50_000, learning_rate=1e-4, batch_size=32, learning_starts=1000,
    target_update_interval=1000, train_freq=4 if n == 1 else (1, "step"), gradient_steps=1 if n == 1 else n // 4,
    exploration_fraction=1e-4, exploration_final_eps=0.01).learn(10_000_000, callback=Told())
"""

OURS = """
import sys
from atari_dqn.__main__ import main
from atari_dqn.tracking.display import Display

def step(self, info):  # where the progress bar is told
    if info.updates > 100 and info.agent_steps % 48 == 0:
        print("STEPS", info.agent_steps, flush=True)

Display.step = step
sys.exit(main(sys.argv[1:]))
"""

CLEANRL = "import ale_py, runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def our_words(game: str, folder: str, capacity: str) -> list[str]:
    return [
        "train", f"env.game={game}", "total_steps=10M", f"replay.capacity={capacity}", "replay.warmup_steps=1000",
        "exploration.decay_steps=1000", "logger.wandb=off", "evaluation.every_steps=10M",
        "checkpoint.every_steps=10M", f"run_dir={folder}/run",
    ]  # fmt: skip


class Contestant:
    """A training process that is stopped except during its turns.

    Args:
        pattern: regex of its progress lines; a group contains the agent steps, else each line means `stride` steps.
    """

    def __init__(self, name: str, command: list[str], pattern: str, stride: int = 0, path: str = "") -> None:
        self.name, self.speeds, self._ticks = name, [], []
        self._pattern, self._stride = pattern, stride
        self._folder = tempfile.TemporaryDirectory(prefix="race-")
        self._errors = open(f"{self._folder.name}/errors.txt", "w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [word.replace("FOLDER", self._folder.name) for word in command],
            cwd=self._folder.name,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        while len(self._ticks) < 2:
            if self._process.poll() is not None:
                self._errors.seek(0)
                sys.exit(f"{name} failed:\n{self._errors.read()[-2000:]}")
            time.sleep(0.05)
        self._signal(signal.SIGSTOP)

    def _listen(self) -> None:
        for line in self._process.stdout:
            if match := re.match(self._pattern, line):
                last = self._ticks[-1][1] if self._ticks else 0
                steps = last + self._stride if self._stride else int(match[1])
                self._ticks.append((time.perf_counter(), steps))

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def turn(self, seconds: float) -> float:
        """Run for `seconds`; returns agent steps per second between the first and the last line in that time."""
        self._signal(signal.SIGCONT)
        time.sleep(SETTLE_SECONDS)
        first = len(self._ticks)
        time.sleep(seconds)
        self._signal(signal.SIGSTOP)
        ticks = self._ticks[first:]
        if len(ticks) < 2:
            sys.exit(f"{self.name} made too few steps in {seconds:g} s to be timed; give more --seconds")
        (start, before), (end, after) = ticks[0], ticks[-1]
        self.speeds.append((after - before) / (end - start))
        return self.speeds[-1]

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._errors.close()
        self._folder.cleanup()


def line_up(args: argparse.Namespace, contestants: list[Contestant]) -> None:
    """Start all available contestants, one after another."""
    ours = [sys.executable, "-c", OURS, *our_words(args.game, "FOLDER", "50k")]
    contestants.append(Contestant("atari_dqn", ours, r"STEPS (\d+)", path=str(ROOT)))
    more = [*ours, "num_envs=64"]
    contestants.append(Contestant("atari_dqn, 64 games", more, r"STEPS (\d+)", path=str(ROOT)))
    with contextlib.suppress(UserError):  # where this CPU cannot
        devices.check_bfloat16(torch.device("cpu"))
        low = [*ours, "compute.precision=bf16"]
        contestants.append(Contestant("atari_dqn, bf16", low, r"STEPS (\d+)", path=str(ROOT)))
    if args.cleanrl:
        script = Path(args.cleanrl).resolve() / "cleanrl" / "dqn_atari.py"
        if not script.exists():
            sys.exit(f"--cleanrl {args.cleanrl}: no clone of https://github.com/vwxyzjn/cleanrl is there")
        command = [
            python(args.cleanrl_python), "-c", CLEANRL, str(script), "--env-id", f"{args.game}NoFrameskip-v4",
            "--buffer-size", "50000", "--learning-starts", "1000", "--exploration-fraction", "0.0001",
        ]  # fmt: skip
        path = str(Path(args.cleanrl).resolve())
        contestants.append(Contestant("CleanRL dqn_atari.py", command, "SPS: ", 100, path))
    for n in (1, 8) if args.sb3_python else ():
        name = f"SB3 DQN, {n} environment{'s' * (n > 1)}"
        contestants.append(Contestant(name, [python(args.sb3_python), "-c", SB3, args.game, str(n)], r"STEPS (\d+)"))


def python(path: str) -> str:
    """The absolute path; links are not resolved, because a virtual environment's python is a link."""
    return str(Path(path).absolute())


def processor() -> str:
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def machine() -> str:
    return f"{processor()}, {len(os.sched_getaffinity(0))} CPUs"


def versions() -> str:
    return f"Python {platform.python_version()}, torch {torch.__version__}, ale-py {version('ale-py')}"


def race(args: argparse.Namespace) -> None:
    contestants: list[Contestant] = []
    try:
        line_up(args, contestants)
        for number in range(1, args.rounds + 1):
            speeds = [f"{contestant.name} {contestant.turn(args.seconds):.0f}" for contestant in contestants]
            print(f"round {number}: {', '.join(speeds)}", flush=True)
    finally:
        for contestant in contestants:
            contestant.end()
    ours = contestants[0]
    print(
        f"\n{args.game}, agent steps/s, medians of {args.rounds} turns of {args.seconds:g} s; {machine()}; {versions()}"
    )
    fresh = not args.output.exists()
    with open(args.output, "a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(COLUMNS)
        for one in contestants:
            times = statistics.median(a / b for a, b in zip(ours.speeds, one.speeds, strict=True))
            median, least, most = statistics.median(one.speeds), min(one.speeds), max(one.speeds)
            print(f"{one.name:<24} {median:6.1f}  ({least:.1f} to {most:.1f})   ours: {times:.2f}x as fast")
            row = [args.game, one.name, *(f"{x:.1f}" for x in (median, least, most)), f"{times:.2f}"]
            writer.writerow([*row, args.rounds, machine(), versions()])


def memory(args: argparse.Namespace) -> None:
    """Resident memory of our own run with 1,000,000 transitions while learning."""
    command = [sys.executable, "-c", OURS, *our_words(args.game, "FOLDER", "1M")]
    contestant = Contestant("atari_dqn", command, r"STEPS (\d+)", path=str(ROOT))
    contestant.turn(args.seconds)
    resident = psutil.Process(contestant._process.pid).memory_info().rss
    contestant.end()
    print(f"resident memory of a run with a replay of 1,000,000: {resident / 1e9:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cleanrl", help="a clone of vwxyzjn/cleanrl")
    parser.add_argument("--cleanrl-python", default=sys.executable, help="a Python with benchmarks/peers/cleanrl.txt")
    parser.add_argument("--sb3-python", help="a Python with benchmarks/peers/sb3.txt")
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "race.csv")
    args = parser.parse_args()
    memory(args) if args.memory else race(args)


if __name__ == "__main__":
    main()
