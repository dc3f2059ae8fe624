"""Count the operators of a training step for each variant: an estimate of GPU launches that needs no GPU.

    python benchmarks/operators.py --csv benchmarks/results/operators.csv
    git worktree add /tmp/before COMMIT
    PYTHONPATH=/tmp/before python benchmarks/operators.py --csv benchmarks/results/operators.csv --code before

For 80 games and 20 minibatches, without compilation. Views do not count. An operator is one or a few kernels (a
convolution's gradients, a sum), or as many as a list of tensors needs.

act                acting, for all games
sample, learn,     for all 20 minibatches, divided by 20; total is their sum
learned
copy               copying the target network
"""

import argparse
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from recording import VARIANTS, audited_turn  # noqa: E402

GAMES, MINIBATCHES = 80, 20
COLUMNS = (
    "code", "variant", "act", "sample_per_update", "learn_per_update", "learnt_per_update", "copy", "total_per_update",
)  # fmt: skip


def count(variant: str, code: str) -> dict[str, str]:
    """Return a row of the table."""
    kernels, _ = audited_turn(VARIANTS[variant], GAMES, MINIBATCHES)
    total = {part: counts.total() for part, counts in kernels.items()}
    update = {part: total[part] / MINIBATCHES for part in ("sample", "learn", "update_priorities")}
    numbers = (total["act"], *update.values(), total["copy"], sum(update.values()))
    return dict(zip(COLUMNS, (code, variant, *(f"{number:g}" for number in numbers)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="write the table to this file, replacing the rows of the same --code")
    parser.add_argument("--code", default="after", help="name of the code version")
    args = parser.parse_args()
    rows: list[dict[str, str]] = []
    print("  ".join(f"{name:>17}" for name in COLUMNS))
    for variant in VARIANTS:
        rows.append(count(variant, args.code))
        print("  ".join(f"{value:>17}" for value in rows[-1].values()), flush=True)
    if args.csv:
        if args.csv.exists():
            with open(args.csv, encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["code"] != args.code] + rows
        with open(args.csv, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
