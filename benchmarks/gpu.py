"""Benchmark a CUDA machine.

    make bench-gpu
    make bench-gpu ARGS="--seconds 2 --loop-seconds 15 --loop 80 160"
    make bench-gpu ARGS="--parts updates --presets rainbow"

emulators  frames per second of the emulators alone with random actions, by number of games and threads: an upper bound
           for training.
updates    microseconds per minibatch: eager, as a CUDA graph, and compiled in a graph; with and without TF32; number
           of kernels, and the slowest ones.
acting     for all games, from the replay to action indices on the host; and writing a vector step to the replay.
repeat     repeats a short run, eager and with graphs, and counts distinct final weights; 1 is correct.
loop       end to end with the first preset's schedule: frames and updates per second, by number of games.

Results are printed and appended to --csv. `--device cpu` runs the same on a CPU, where graphs are plain functions, to
test this script.
"""

import argparse
import contextlib
import csv
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from race import machine, versions
from speed import measure

from atari_dqn.config import compose
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn import prioritized
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.layers import Convolution
from atari_dqn.dqn.loop import training_loop
from atari_dqn.dqn.replay import Replay
from atari_dqn.envs import factory
from atari_dqn.training import launch
from atari_dqn.training.agents import make_agent
from atari_dqn.utils import devices as devicess
from atari_dqn.utils import machine as machines
from atari_dqn.utils.console import Console
from atari_dqn.utils.devices import wait
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.graphs import graphed

ACTIONS = 4  # Breakout's
COLUMNS = ("part", "preset", "kind", "games", "value", "unit", "machine", "versions")
KINDS = {  # name: (graph, compile, tf32, cudnn.benchmark, networks with convolutions as matrix products)
    "graph": (True, False, True, False, ""),
    "graph, compiled": (True, True, True, False, "online target"),
    "graph, compiled, online products": (True, True, True, False, "online"),
    "graph, compiled, cuDNN": (True, True, True, False, ""),
    "graph, compiled, cuDNN tries": (True, True, True, True, ""),
    "graph, cuDNN tries": (True, False, True, True, ""),
    "graph, products": (True, False, True, False, "online target"),
    "graph, float32": (True, False, False, False, ""),
    "eager": (False, False, True, False, ""),
}


def composed(preset: str, num_envs: int, *words: str) -> TrainConfig:
    return compose.to_train_config(
        compose.compose("train", ["env.game=Breakout", f"preset={preset}", f"num_envs={num_envs}", *words])
    )


class Figures:
    """Prints results, and appends them to a CSV file if one is given."""

    def __init__(self, path: Path | None, device: torch.device) -> None:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
        self._path, self._machine, self._versions = path, f"{name}; {machine()}", versions()
        print(f"{self._machine}; {self._versions}", flush=True)

    def tell(self, part: str, preset: str, kind: str, games: int, value: float, unit: str, note: str = "") -> None:
        print(f"{part}, {preset}, {kind}, {games} games: {value:,.6g} {unit} {note}".rstrip(), flush=True)
        if self._path:
            new = not self._path.exists()
            with open(self._path, "a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(COLUMNS)
                writer.writerow((part, preset, kind, games, f"{value:.6g}", unit, self._machine, self._versions))


def emulator_rate(num_envs: int, threads: int, seconds: float, alone: Any) -> float:
    """Environment frames per second of the emulators alone."""
    config = composed("nature", num_envs)
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # taken as this process' share of the cores
    games = factory.make_emulators(config.env, num_envs)
    os.environ.pop("OMP_NUM_THREADS", None)
    games.reset(list(range(num_envs)))
    with alone:
        rng, steps, start = np.random.default_rng(0), 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            games.send(rng.integers(0, ACTIONS, num_envs))
            games.recv()
            steps += num_envs
        passed = time.perf_counter() - start
    games.close()
    return steps * config.env.frame_skip / passed


def a_turn(num_envs: int) -> tuple[torch.Tensor, ...]:
    """Actions, rewards, frames and flags from the emulators."""
    return (
        torch.randint(0, ACTIONS, (num_envs,)), torch.rand(num_envs),
        torch.randint(0, 256, (num_envs, 84, 84), dtype=torch.uint8), torch.zeros(num_envs, dtype=torch.uint8),
    )  # fmt: skip


def filled_replay(config: TrainConfig, device: torch.device, steps: int) -> Replay:
    n = config.num_envs
    replay = prioritized.make_replay(config, 0, steps // n, n, (84, 84), torch.uint8, 4, device)
    turn = a_turn(n)
    replay.begin(turn[2])
    for _ in range(replay.rows):
        replay.write(*turn)
    return replay


def timed(function: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median seconds per call, over five fifths of `seconds`."""
    for _ in range(10):
        function()
    wait(device)
    medians = []
    for _ in range(5):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 5:
            function()
            wait(device)
            calls += 1
        medians.append((time.perf_counter() - start) / calls)
    return sorted(medians)[2]


def kernels(function: Callable[[], object], count: int, device: torch.device) -> tuple[float, float]:
    """Kernels of a call and their microseconds, per update; prints the slowest ones."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        wait(device)
    events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
    for event in sorted(events, key=lambda e: -e.self_device_time_total)[:30]:
        print(f"    {event.self_device_time_total / count:8.2f} us {event.count / count:5.1f}x  {event.key[:80]}")
    return sum(e.count for e in events) / count, sum(e.self_device_time_total for e in events) / count


def learner(config: TrainConfig, agent: Agent, replay: Replay, draw: torch.Generator) -> Callable[[int], Any]:
    def learn(minibatches: int) -> list[torch.Tensor]:
        told = config.agent
        batch = replay.sample(minibatches, config.update.batch_size, draw, told.discount, told.n_step, told.reward_clip)
        errors, gradients = agent.learn(batch, draw)
        replay.update_priorities(batch, errors)
        return gradients

    return learn


def time_updates(preset: str, args: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    k = args.num_envs // 4
    for kind in args.kinds or KINDS:
        graph, compiled, tf32, tries, products = KINDS[kind]
        began = time.perf_counter()
        try:
            config = composed(preset, args.num_envs, f"compute.compile={str(compiled).lower()}", "compute.graphs=false")
            devicess.set_tf32(tf32)
            torch.backends.cudnn.benchmark = tries
            replay = filled_replay(config, device, min(args.replay, 50_000))
            agent, draw = make_agent(config, (84, 84), ACTIONS, device), torch.Generator(device).manual_seed(0)
            for name in ("online", "target"):
                for layer in getattr(agent, name).modules():
                    if isinstance(layer, Convolution):
                        layer.as_product = name in products
            learn = learner(config, agent, replay, draw)
            call = graphed(learn, device, [draw]) if graph else learn
            call(k)
            wait(device)
            first = f"(first call {time.perf_counter() - began:.0f} s)"
            with args.alone:
                seconds = timed(lambda call=call: call(k), device, args.seconds) / k
            figures.tell("update", preset, kind, args.num_envs, seconds * 1e6, "microseconds", first)
            if graph and device.type == "cuda":
                count, busy = kernels(lambda learn=learn: learn(k), k, device)
                figures.tell("kernels", preset, kind, args.num_envs, count, "an update")
                figures.tell("kernels' time", preset, kind, args.num_envs, busy, "microseconds an update")
        except Exception as error:
            traceback.print_exc(limit=-4)
            print(f"update, {preset}, {kind}: FAILED {type(error).__name__}: {str(error)[:300]}", flush=True)
    devicess.set_tf32(True)
    torch.backends.cudnn.benchmark = False


def time_acting(preset: str, args: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    config = composed(preset, args.num_envs, "compute.graphs=false")
    replay = filled_replay(config, device, min(args.replay, 50_000))
    agent, explore = make_agent(config, (84, 84), ACTIONS, device), torch.Generator(device).manual_seed(0)
    epsilon = torch.full((), 0.1, device=device)
    act = graphed(lambda: agent.act(replay.newest_stack(), epsilon, explore), device, [explore])
    turn = a_turn(args.num_envs)
    parts = {"acting": lambda: act().cpu(), "writing": lambda: replay.write(*turn), "showing": agent.show}
    for name, function in parts.items():
        with args.alone:
            seconds = timed(function, device, args.seconds)
        figures.tell(name, preset, "graph", args.num_envs, seconds * 1e6, "microseconds a turn")


def time_loop(num_envs: int, args: argparse.Namespace, figures: Figures) -> None:
    speed = measure(
        args.loop_seconds, "env.game=Breakout", f"preset={args.presets[0]}", f"num_envs={num_envs}",
        f"device={args.device}", f"replay.capacity={args.replay}", "replay.warmup_steps=10_000",
        "exploration.decay_steps=1", *args.words, settle_updates=12 * num_envs,
    )  # fmt: skip
    frames, total = speed.agent_steps * 4, sum(speed.stages.values())
    shares = ", ".join(f"{stage} {seconds / total:.0%}" for stage, seconds in list(speed.stages.items())[:7])
    note = f"({speed.updates:,.0f} updates/s; {shares}; 200M frames in {200e6 / frames / 60:.0f} minutes)"
    figures.tell("loop alone", args.presets[0], " ".join(args.words), num_envs, frames, "frames/s", note)


def repeat(args: argparse.Namespace, figures: Figures) -> None:
    """Detect races between device and host: they occasionally change a run's final weights."""
    for words in (["compute.graphs=false"], [], ["replay.device=cpu"]):
        ends = set()
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                all_words = [
                    "env.game=Pong", "preset=nature", "num_envs=4", f"device={args.device}", "total_steps=600",
                    "replay.warmup_steps=100", "replay.capacity=2000", "update.target_period_steps=50",
                    "exploration.start=0.9", "exploration.decay_steps=300", "compute.tf32=false", "logger.wandb=off",
                    "compute.deterministic=true", "compute.compile=false", f"run_dir={folder}/run", *words,
                ]  # fmt: skip
                config = compose.to_train_config(compose.compose("train", all_words))
                run = launch.prepare(config, Console(quiet=True))
                list(training_loop(run.emulators, run.replay, run.agent, config, run.streams))
                run.emulators.close()
                ends.add(tuple(float(p.detach().double().sum()) for p in run.agent.online.parameters()))
        kind = " ".join(words) or "graphs"
        figures.tell("repeat", "nature", kind, 4, len(ends), f"different ends of {args.repeats}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", default=["emulators", "updates", "acting", "loop"])
    parser.add_argument("--presets", nargs="+", default=["nature"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="kinds of updates; default: all")
    parser.add_argument(
        "--num-envs", type=int, default=80, help="games, for updates and acting; a quarter as many updates"
    )
    parser.add_argument("--games", type=int, nargs="+", default=[16, 64, 128, 256], help="of emulators")
    parser.add_argument("--threads", type=int, nargs="+", default=[0], help="emulator threads; 0 for one per core")
    parser.add_argument("--loop", type=int, nargs="+", default=[80, 160], help="numbers of games for the loop")
    parser.add_argument("--seconds", type=float, default=3, help="seconds for each part except the loop")
    parser.add_argument("--loop-seconds", type=float, default=60, help="seconds of the loop for each number of games")
    parser.add_argument("--repeats", type=int, default=8, help="repetitions of a short run")
    parser.add_argument("--replay", type=int, default=1_000_000, help="replay capacity in agent steps")
    parser.add_argument("--words", nargs="*", default=[], help="settings for the loop, e.g. compute.compile=true")
    parser.add_argument("--csv", type=Path, help="append the results to this file")
    parser.add_argument("--lock", type=Path, help="lock file held while timing; starts may overlap")
    args = parser.parse_args()
    args.alone = FileLock(args.lock) if args.lock else contextlib.nullcontext()
    try:
        device = devicess.choose_device(args.device)
    except UserError as error:
        print(f"bench-gpu: {error}", file=sys.stderr)
        sys.exit(2)
    figures = Figures(args.csv, device)
    if "emulators" in args.parts:
        for num_envs in args.games:
            for threads in args.threads:
                rate = emulator_rate(num_envs, threads, args.seconds, args.alone)
                kind = f"{threads or machines.cpus()} threads"
                note = f"(200M frames in {200e6 / rate / 60:.0f} minutes at least)"
                figures.tell("emulators alone", "nature", kind, num_envs, rate, "frames/s", note)
    for preset in args.presets:
        if "updates" in args.parts:
            time_updates(preset, args, device, figures)
        if "acting" in args.parts:
            time_acting(preset, args, device, figures)
    if "repeat" in args.parts:
        repeat(args, figures)
    if "loop" in args.parts:
        for num_envs in args.loop:
            time_loop(num_envs, args, figures)


if __name__ == "__main__":
    main()
