"""`make atari100k`: a sweep over the games of Atari-100k, and its table beside published runs."""

import csv
import dataclasses
import math
from pathlib import Path

from atari_dqn.analysis import atari100k as table
from atari_dqn.analysis import intervals
from atari_dqn.checkpoint import outputs
from atari_dqn.config import bounds, presets
from atari_dqn.config.commands import Sweep, Table
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.data.games import ATARI_26
from atari_dqn.registry.environments import bare
from atari_dqn.sweep import sweep
from atari_dqn.sweep.storage import Store
from atari_dqn.utils import extras, machine
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import hours, plural

GPU_BYTES = 3_000_000_000  # of a run beside its replay: CUDA itself, networks, graphs
Found = dict[str, dict[int, float]]  # game -> seed -> score


def atari100k(config: TrainConfig, asked: Sweep, wanted: Table, typed: list[str], console: Console) -> None:
    """Train what is missing, then print the table and write it. Raises UserError, and RunFailed if a run failed."""
    agent = wanted.against or ("DER" if config.preset == "der" else "DrQ(eps)")
    bounds.one_of("table.against", agent, scores.ATARI100K)
    games = sweep.games_of(asked.games, config.env.kind)
    if others := [game for game in games if game not in ATARI_26]:
        raise UserError(f"sweep.games: {', '.join(others)} not in Atari-100k; `sweep` trains on any games")
    intervals.rliable()
    extras.load("matplotlib", "the plot")
    typed = [word for word in typed if not word.lstrip("+").startswith("table.")]
    store = Store(asked.storage or f"runs/atari100k/{config.preset}")
    asked = dataclasses.replace(asked, storage=store.where)
    if not store.is_folder and wanted.output is None:
        raise UserError(f"sweep.storage={store.where} is not a folder here; set table.output=PATH for the table")
    folder = Path(wanted.output or Path(store.where) / "table")
    try:
        if not wanted.only:
            jobs = sweep.plan(config, asked, typed)
            missing = [job for job in jobs if not sweep.is_done(job, store)]
            if missing and not asked.address:
                if asked.gpus is None and _has_gpu(config):
                    asked = dataclasses.replace(asked, gpus=_share(config, asked.cpus))
                console.say(_time(config, asked, len(missing)))
            sweep.sweep(config, asked, typed, console)
    finally:
        _show(config, _scores(config, asked, games, store), agent, folder, console)


def _has_gpu(config: TrainConfig) -> bool:
    import torch

    return torch.cuda.is_available() and config.device != "cpu"


def _share(config: TrainConfig, cpus: int) -> float:
    """The part of a GPU that a run takes, so that there are as many runs as CPUs and memory allow."""
    import torch

    replay = min(config.replay.capacity, config.total_steps) * config.env.screen_size**2
    memory = (GPU_BYTES + replay) / torch.cuda.mem_get_info()[1]
    return min(1.0, math.ceil(1000 * max(memory, cpus / machine.cpus())) / 1000)


def _time(config: TrainConfig, asked: Sweep, runs: int) -> str:
    """How long so many runs will take on this machine."""
    from atari_dqn.training import estimate

    if _has_gpu(config):
        return f"{plural(runs, 'run')} to train; how long they take on a GPU is not known beforehand"
    side_by_side = max(1, min(runs, machine.cpus() // asked.cpus))
    seconds = estimate.seconds_per_step(config, asked.cpus) * config.total_steps
    whole = math.ceil(runs / side_by_side) * seconds
    return (
        f"{plural(runs, 'run')} to train, {hours(seconds)} each and {side_by_side} at a time: about {hours(whole)} on "
        f"this machine, and the games of the evaluations (estimated from a few updates)"
    )


def _scores(config: TrainConfig, asked: Sweep, games: list[str], store: Store) -> Found:
    """The scores of finished runs: of the last network, over as many games as the protocol says."""
    found: Found = {}
    for seed in range(config.seed, config.seed + asked.seeds):
        for game in games:
            text = store.read(f"{bare(game)}-seed{seed}/evaluations.csv") or ""
            for row in csv.DictReader(text.splitlines()):
                last = row.get("agent_steps") == str(config.total_steps) and row.get("network") == "current"
                if last and row.get("protocol") == config.protocol.name:
                    found.setdefault(game, {})[seed] = float(row["mean"])
    return found


def _show(config: TrainConfig, found: Found, agent: str, folder: Path, console: Console) -> None:
    if not found:
        console.say("no run has finished yet, so there is no table")
        return
    rows = table.games(found, agent)
    done = [row for row in rows if row.own]
    console.print(table.table(rows, agent))
    statistics = table.statistics(rows)
    console.print(table.statistics_table(statistics, len(done), min(len(row.own) for row in done)))
    console.say(
        f"human-normalized by {scores.SOURCE}; intervals: 95%, by the stratified bootstrap (Agarwal et al. 2021)"
        + "; DER's published runs are read off a figure" * (agent == "DER")
    )
    changed = [f"{one.key}={presets.text(one.run)}" for one in presets.departures(config)]
    if changed:
        console.say(f"note: not the published setting: {', '.join(changed)}")
    with outputs.writing(folder):
        table.write(folder, rows, statistics, agent)
    console.say(f"written: {folder}/ (games.csv, statistics.csv, atari100k.png)")
