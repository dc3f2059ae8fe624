"""Exported networks beside torch's: file size, the same actions or not, time per state.

    python benchmarks/export.py --csv benchmarks/results/export.csv

Each agent is trained for some hundred updates, so that its weights are no longer random, and compared on 1,000 states
of its own play. Times are on one thread, medians of 7 rounds.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import compose
from atari_dqn.exchange import export, metadata, onnx
from atari_dqn.training import launch
from atari_dqn.utils.console import Console

SHORT = [
    "num_envs=8", "total_steps=1600", "replay.warmup_steps=800", "replay.capacity=5000", "evaluation.episodes=1",
    "protocol.max_frames=400", "evaluation.video_seconds=0", "logger.wandb=off", "logger.tensorboard=false",
    "evaluation.held_out_states=0",
]  # fmt: skip
AGENTS = {
    "nature_cnn": "env.game=Breakout",
    "nature_cnn, Rainbow": "env.game=Breakout preset=rainbow network.padding=same",
    "nature_cnn, IQN": "env.game=Breakout head=iqn",
    "nips_cnn, QR-DQN": "env.game=Pong network=nips_cnn head=qr agent.dueling=true",
    "small_cnn, standardized": "env.game=Pong network=small_cnn network.standardize=true agent.noisy=true",
    "mlp": "env=cartpole",
}
ROUNDS = 7


def milliseconds(function: Callable[[Any], Any], states: Any, calls: int) -> float:
    """Median time of a call."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            function(states)
        taken.append((time.perf_counter() - began) / calls * 1000)
    return statistics.median(taken)


def measure(name: str, words: str, folder: Path, states: int) -> dict[str, Any]:
    composed = compose.compose("train", [*words.split(), *SHORT, f"run_dir={folder}/run"])
    launch.prepare(compose.to_train_config(composed), Console(quiet=True)).go()
    torch.set_num_threads(1)
    checkpoint = Checkpoint(folder / "run" / "checkpoints" / "latest.pt")
    asked = compose.to_object(compose.compose("export", ["checkpoint=x", f"states={states}"]))
    seen = export.recorded(checkpoint, asked)
    path = folder / "x.onnx"
    began = time.perf_counter()
    shape = metadata.state_shape(checkpoint)
    path.write_bytes(onnx.save(checkpoint.network, shape, checkpoint.frame_dtype, metadata.of(checkpoint)))
    seconds = time.perf_counter() - began
    run, found = onnx.runner(path, threads=1), export.difference(checkpoint.network, onnx.runner(path), seen)
    weights = sum(value.numel() * value.element_size() for value in checkpoint.network.state_dict().values())
    row = {
        "agent": name, "settings": words, "onnx_mb": round(path.stat().st_size / 1e6, 2),
        "weights_mb": round(weights / 1e6, 2),
        "export_seconds": round(seconds, 1), "states": found.states, "same_action": found.same,
        "largest_relative_difference": f"{found.largest:.1e}",
    }  # fmt: skip
    with torch.no_grad():
        for batch, calls in ((1, 50), (32, 5)):
            some = seen[:batch]
            row[f"torch_ms_{batch}"] = round(milliseconds(checkpoint.network.q_values, some, calls), 3)
            row[f"onnxruntime_ms_{batch}"] = round(milliseconds(run, some.numpy(), calls), 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=1000)
    parser.add_argument("--csv", type=Path)
    asked = parser.parse_args()
    rows = []
    for name, words in AGENTS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, words, Path(folder), asked.states))
        print(rows[-1], flush=True)
    if asked.csv:
        with open(asked.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
