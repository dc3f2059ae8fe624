"""`make atari100k`: a sweep over the games of Atari-100k, and its table beside published runs."""

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from atari_dqn.analysis import atari100k as table
from atari_dqn.analysis import intervals
from atari_dqn.checkpoint import outputs
from atari_dqn.config import bounds, presets
from atari_dqn.config.commands import Sweep, Table
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.data.games import ATARI_26
from atari_dqn.sweep import sweep
from atari_dqn.sweep.storage import Store
from atari_dqn.sweep.worker import Job
from atari_dqn.training import launch
from atari_dqn.utils import extras, machine
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.utils.text import hours, plural, some

Found = dict[str, dict[int, float]]  # game -> seed -> score
GPU_BYTES = 3_000_000_000  # of a run beside its replay: CUDA itself, networks, graphs


def atari100k(config: TrainConfig, asked: Sweep, wanted: Table, typed: list[str], console: Console) -> None:
    """Train what is missing, then print the table and write it. Raises UserError, and RunFailed if a run failed."""
    agent = wanted.against or ("DER" if config.preset == "der" else "DrQ(eps)")
    bounds.one_of("table.against", agent, scores.ATARI100K)
    typed = [word for word in typed if not word.lstrip("+").startswith("table.")]
    if config.env.kind != "atari" or any(word.startswith("env.game=") for word in typed):
        raise UserError("Atari-100k is 26 Atari games; leave out env=... and choose with sweep.games=... (GAMES=...)")
    if config.max_minutes is not None:
        raise UserError("Atari-100k is a number of steps, not of minutes; leave out max_minutes=...")
    games = sweep.games_of(asked.games, "atari")
    if others := [game for game in games if game not in ATARI_26]:
        raise UserError(f"sweep.games: not in Atari-100k: {some(others)}; `sweep` trains on any games")
    intervals.rliable()
    extras.load("matplotlib", "the plot")
    if not wanted.only:
        extras.need("a sweep", "ray", "fsspec")
    store = Store(asked.storage or f"runs/atari100k/{config.preset}")
    asked = dataclasses.replace(asked, storage=store.where)
    jobs = sweep.plan(config, asked, typed)
    folder = _folder(store, wanted.output)
    failed = None
    if not wanted.only:
        if asked.gpus is None and not asked.address and _has_gpu(config):
            asked = dataclasses.replace(asked, gpus=_share(config, asked.cpus))
        try:
            sweep.sweep(config, asked, typed, console, None if asked.address else lambda *left: _time(asked, *left))
        except RunFailed as error:
            failed = error
    _show(config, _scores(jobs, store, console.say), agent, folder, console)
    if failed:
        raise failed


def _folder(store: Store, asked: str | None) -> Path:
    """Where the table goes. Raises UserError if it could not be written."""
    if "://" in (asked or store.where):
        raise UserError(f"{asked or store.where} is not a folder here; set table.output=PATH for the table")
    folder = Path(asked or Path(store.where) / "table")
    exists = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not exists.is_dir():
        raise UserError(f"table.output={folder}: {exists} is not a folder; choose another path")
    return folder


def _has_gpu(config: TrainConfig) -> bool:
    import torch

    return torch.cuda.is_available() and config.device != "cpu"


def _share(config: TrainConfig, cpus: int) -> float:
    """The part of a GPU that a run takes, so that there are as many runs as CPUs and memory allow."""
    import torch

    replay = 0 if config.replay.device == "cpu" else config.replay.capacity * config.env.screen_size**2
    memory = (GPU_BYTES + replay) / torch.cuda.mem_get_info()[1]
    return min(1.0, max(math.ceil(1e4 * memory), math.floor(1e4 * cpus / machine.cpus())) / 1e4)


def _time(asked: Sweep, jobs: list[Job], store: Store) -> str:
    """How long the rest of some runs will take on this machine."""
    from atari_dqn.training import estimate

    config = jobs[0].config
    if _has_gpu(config):
        return f"{plural(len(jobs), 'run')} to train; how long they take on a GPU is not known beforehand"
    side_by_side = max(1, min(len(jobs), machine.cpus() // asked.cpus))
    left = sum(max(0, job.config.total_steps - _steps(job, store)) for job in jobs)
    step = estimate.seconds_per_step(config, asked.cpus)
    return (
        f"{plural(len(jobs), 'run')} to train, {side_by_side} at a time, {hours(step * config.total_steps)} each if "
        f"new: about {hours(step * left / side_by_side)} on this machine, and the games of the evaluations (estimated "
        f"from a few updates)"
    )


def _steps(job: Job, store: Store) -> int:
    """The agent steps that a run has made, as its metrics.csv says."""
    lines = (store.read(f"{job.name}/metrics.csv") or "").splitlines()
    last = [row.get("agent_steps") or "" for row in csv.DictReader(lines[:1] + lines[-1:])] if len(lines) > 1 else []
    return int(last[0]) if last and last[0].isdecimal() else 0


def _scores(jobs: list[Job], store: Store, say: Callable[[str], None]) -> Found:
    """The scores of finished runs: of the last network, in the protocol's games. `say` tells what is left out."""
    found: Found = {}
    for job in jobs:
        written = store.read(f"{job.name}/config.yaml")
        rows = store.read(f"{job.name}/evaluations.csv")
        if written is None or rows is None:
            continue
        wrong = launch.changes(launch.parsed_config(f"{store.where}/{job.name}", written), job.config)
        if wrong:
            say(f"note: {job.name} is left out: it was started with different {some(wrong)}")
            continue
        score = _score(rows, job.config)
        if score is not None and not math.isfinite(score):
            say(f"note: {job.name} is left out: its evaluations.csv is damaged")
        elif score is not None:
            found.setdefault(job.config.env.game, {})[job.config.seed] = score
    return found


def _score(rows: str, config: TrainConfig) -> float | None:
    """The last network's mean; None if it was not evaluated yet, nan if that cannot be read."""
    try:
        for row in csv.DictReader(rows.splitlines()):
            ended = int(row["agent_steps"]) >= config.total_steps and row["network"] == "current"
            if ended and row["protocol"] == config.protocol.name:
                return float(row["mean"])
    except (ValueError, TypeError, KeyError, csv.Error):
        return math.nan
    return None


def _show(config: TrainConfig, found: Found, agent: str, folder: Path, console: Console) -> None:
    if not found:
        console.say("no run has finished yet, so there is no table")
        return
    rows = table.games(found, agent)
    counted, seeds = table.counted(rows)
    statistics = table.statistics(counted, seeds)
    console.print(table.table(rows, agent))
    console.print(table.statistics_table(statistics, len(counted), seeds))
    if few := [row.name for row in rows if row.own and row not in counted]:
        console.say(f"note: without {some(few)}, which has fewer seeds" if len(few) == 1 else
                    f"note: without {some(few)}, which have fewer seeds")  # fmt: skip
    console.say(
        f"human-normalized by {scores.SOURCE}; expected: 95% of experiments with as many seeds, drawn from the "
        f"published runs; in brackets: 95%, by the stratified bootstrap (Agarwal et al. 2021)"
        + "; DER's published runs are read off a figure"
        * (agent == "DER")
    )
    changed = [f"{one.key}={presets.text(one.run)}" for one in presets.departures(config)]
    if config.evaluation.episodes != (config.protocol.episodes or config.evaluation.episodes):
        changed.append(f"evaluation.episodes={config.evaluation.episodes}")
    if changed:
        console.say(f"note: not the published setting: {', '.join(changed)}")
    with outputs.writing(folder, "table.output"):
        table.write(folder, rows, statistics, agent)
    console.say(f"written: {folder}/ (games.csv, statistics.csv, atari100k.png)")
