"""Measure how the cost of learning grows with the number of games, the replay capacity and the batch size.

    make -C benchmarks scaling

Each setting is measured in a separate process on Pong, with conf/train.yaml except for a replay of 100,000, a short
warm-up, the final epsilon from the start, and no no-ops. Writes benchmarks/results/scaling.csv.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from speed import measure

OUTPUT = Path(__file__).parent / "results" / "scaling.csv"
SWEEPS = {
    "num_envs": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "replay.capacity": (10_000, 100_000, 1_000_000),
    "update.batch_size": (32, 64, 128, 256, 512),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # key=value, in this process
    args = parser.parse_args()
    if args.one:
        speed = measure(args.seconds, "env.game=Pong", "replay.capacity=100_000", "env.noop_max=0", args.one)
        print(f"{speed.agent_steps:.1f},{speed.updates:.1f},{speed.resident_bytes / 1e9:.2f}")
        return
    with open(OUTPUT, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "value", "agent_steps_per_second", "updates_per_second", "resident_gb"])
        for setting, values in SWEEPS.items():
            for value in values:
                command = [sys.executable, __file__, "--seconds", str(args.seconds), "--one", f"{setting}={value}"]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode:
                    sys.exit(f"{setting}={value} failed:\n{result.stderr[-2000:]}")
                row = result.stdout.strip().splitlines()[-1].split(",")
                print(f"{setting:<18} {value:>9,}  {row[0]:>7} steps/s  {row[1]:>6} updates/s  {row[2]} GB", flush=True)
                writer.writerow([setting, value, *row])


if __name__ == "__main__":
    main()
