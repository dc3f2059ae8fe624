"""Print a table of runs with their progress, state, scores and disk usage, newest first."""

import os
from pathlib import Path

from rich.table import Table
from rich.text import Text

from atari_dqn.analysis import run_data, run_folders
from atari_dqn.checkpoint.folders import disk_use
from atari_dqn.utils import hints
from atari_dqn.utils.console import Console
from atari_dqn.utils.text import compact, plural

COLORS = {"running": "green", "failed": "red", "died": "red", "stopped": "yellow"}
WIDE = 110  # terminal width from which game, preset and seed, usually part of the name, have their own columns
ANY_WIDTH = 100_000


def show(asked: str, console: Console) -> None:
    """Print the table for directories separated by spaces. Raises UserError for a directory without runs.

    On a terminal it fits the width. In a pipe, each run is one line with its full name.
    """
    if asked == "runs" and not (Path(asked).is_dir() and run_folders.find(Path(asked))):
        console.say(f"no runs in runs/ yet; {hints.hint('train', GAME='CartPole')} creates one within a minute")
        return
    folders = run_folders.name_runs("runs", asked)
    lines = [(name, folder, run_data.line(folder)) for name, folder in folders.items()]
    lines.sort(key=lambda line: line[2].get("seconds_since", float("inf")))
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = ANY_WIDTH
    own = ["game", "preset", "seed"] if console.width >= WIDE else []
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    for name in (*own, "steps", "state", "last", "best", "disk", "age"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("game", "preset", "state") else "right")
    total = 0
    for name, folder, line in lines:
        taken = disk_use(folder)
        total += taken
        if "error" in line:
            values = ["?"] * (len(own) + 1) + ["broken", "", "", compact(taken), ""]
        else:
            values = [str(line[key]) for key in own]
            values += [f"{compact(line['agent_steps'])}/{compact(line['total_steps'])}", line["state"]]
            values += [_score(line["score"]), _score(line["best"]), compact(taken), age(line["seconds_since"])]
        row = [printable(text) for text in (name, *values)]
        table.add_row(*(Text(text, style=COLORS.get(text, "") if text == line.get("state") else "") for text in row))
    console.print(table)
    newest = "CKPT=latest and RUN=latest" if hints.in_checkout() else "checkpoint=latest and run=latest"
    newest = f"; {newest} select the newest" if asked == "runs" else ""
    console.say(f"{plural(len(lines), 'run')}, {compact(total)}B on disk{newest}")


def age(seconds: float) -> str:
    """59s, 12m, 3h, 20d"""
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= limit:
            return f"{seconds / limit:.0f}{unit}"
    return f"{seconds:.0f}s"


def printable(text: str) -> str:
    """`text` on one line, without control characters; names may come from untrusted files."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
