"""Run many games and seeds. Each run is a Ray task that resumes from its checkpoint if it is restarted anywhere."""

import copy
import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any

from atari_dqn.config import compose, unread, validate
from atari_dqn.config.commands import Sweep
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.data.games import ATARI_26
from atari_dqn.dqn.replay import BYTES_BESIDE_FRAME
from atari_dqn.envs.gym import make_single
from atari_dqn.registry.environments import bare
from atari_dqn.sweep.display import Outcome, Scoreboard
from atari_dqn.sweep.storage import Store
from atari_dqn.sweep.worker import Board, Job, work
from atari_dqn.training import fine_tuning, launch
from atari_dqn.training.progress import ends_alike
from atari_dqn.utils import extras, ray_cluster
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.utils.signals import stop_signals
from atari_dqn.utils.text import memory_size, one_line, plural

BESIDE_REPLAY_BYTES = 1_000_000_000  # per run, for networks, torch and emulators


def games_of(asked: str, kind: str) -> list[str]:
    """The games that `sweep.games` selects. Raises UserError for unknown names."""
    sets = {
        "atari57": [*scores.random_and_human()],
        "atari26": [*ATARI_26],
        "nature49": [*scores.finals("nature_2015")],
    }
    if asked.lower() in sets:
        return sets[asked.lower()]
    names = [compose.game_name(kind, name.strip()) for name in asked.split(",") if name.strip()]
    if not names:
        raise UserError(
            "sweep.games (GAMES=...) names no game; use atari57, atari26, nature49, or names separated by commas"
        )
    return [*dict.fromkeys(names)]


def plan(config: TrainConfig, sweep: Sweep, typed: list[str]) -> list[Job]:
    """All runs of a sweep, seed by seed. Raises UserError if a run's settings are invalid."""
    for key in ("run_dir", "resume"):
        if getattr(config, key) is not None:
            raise UserError(f"{key} is set for each run in a sweep; set sweep.storage (STORAGE=...) instead")
    if ":" in config.device:
        raise UserError(f"device={config.device}: in a sweep, Ray assigns GPUs to the runs; leave device out")
    if sweep.gpus is not None and sweep.gpus > 1 and not sweep.gpus.is_integer():  # Ray's rule
        raise UserError(f"sweep.gpus={sweep.gpus:g}: expected a fraction of a GPU, such as 0.25, or a whole number")
    words = [word for word in typed if not word.lstrip("+").startswith("sweep.")]
    jobs: list[Job] = []
    games = games_of(sweep.games, config.env.kind)
    for game in games if config.env.kind == "gymnasium" else []:  # fail early, not in every run
        make_single(dataclasses.replace(config.env, game=game)).close()
    for seed in range(config.seed, config.seed + sweep.seeds):
        for game in games:
            own = copy.deepcopy(config)
            own.env.game, own.seed, own.resume = game, seed, "auto"
            own = fine_tuning.adopt(own, words)
            if not jobs:  # the same for all runs
                unread.refuse(own, words)
                validate.check_installed(own, words)
            jobs.append(Job(f"{bare(game)}-seed{seed}", own, words))
    return jobs


def is_done(job: Job, store: Store) -> bool:
    """Whether a job's run is in the store and finished. Raises UserError if it has different settings."""
    written, process = store.read(f"{job.name}/config.yaml"), store.read(f"{job.name}/process.json")
    if written is None:
        return False
    before = launch.parsed_config(f"{store.where}/{job.name}", written)
    if changed := launch.changes(before, job.config):
        raise UserError(
            f"{store.where}/{job.name} was started with different {', '.join(changed)}; restore these settings, or "
            f"choose another sweep.storage (STORAGE=...)"
        )
    try:
        ended = json.loads(process or "{}").get("ended")
    except (ValueError, AttributeError, RecursionError):  # killed while writing; the run itself will decide
        ended = None
    return bool(ended == "finished" and ends_alike(vars(before), job.config))


def needs(config: TrainConfig, sweep: Sweep, gpus: float) -> dict[str, float]:
    """Resources that a run needs, as arguments of Ray; memory in bytes."""
    steps = min(config.replay.capacity, config.total_steps + 2 * config.num_envs * config.env.frame_stack)
    frame = config.env.screen_size**2 if config.env.kind == "atari" else 0
    on_gpu = gpus and config.replay.device != "cpu"
    on_host = 0 if on_gpu else steps * (frame + BYTES_BESIDE_FRAME + 8 * config.replay.prioritized)
    return {"num_cpus": sweep.cpus, "num_gpus": gpus, "memory": BESIDE_REPLAY_BYTES + on_host}


def gpus_of(config: TrainConfig, asked: Sweep, there: dict[str, float]) -> float:
    """The number of GPUs, or the fraction of one, per run. Raises UserError if runs need a GPU and get none.

    Ray hides all other GPUs from a run (CUDA_VISIBLE_DEVICES).
    """
    gpus = asked.gpus if asked.gpus is not None else 0.25 if there.get("GPU") and config.device != "cpu" else 0
    if config.device == "cuda" and not gpus:
        why = "the cluster has no GPU" if asked.gpus is None else f"sweep.gpus={asked.gpus:g} gives the runs none"
        raise UserError(f"device=cuda: {why}; leave device out")
    return gpus


def _check_room(wanted: dict[str, float], there: dict[str, float]) -> None:
    """Raise UserError if no machine of the cluster is large enough for a run."""
    for key, name, setting in (("num_cpus", "CPU", "sweep.cpus"), ("num_gpus", "GPU", "sweep.gpus")):
        if wanted[key] > there.get(name, 0):
            raise UserError(
                f"{setting}={wanted[key]:g}: the largest machine of the cluster has {plural(there.get(name, 0), name)}"
            )
    if wanted["memory"] > there.get("memory", 0):
        raise UserError(
            f"a run needs {memory_size(wanted['memory'])} of memory, but Ray's largest machine has "
            f"{memory_size(there.get('memory', 0))}; set a smaller replay.capacity (REPLAY=...)"
        )


def sweep(
    config: TrainConfig,
    asked: Sweep,
    typed: list[str],
    console: Console,
    announce: Callable[[list[Job], Store], str] | None = None,
) -> None:
    """Run all unfinished runs of a sweep. Raises RunFailed at the end if any failed.

    Args:
        announce: what to say before the unfinished runs begin.
    """
    extras.need("a sweep", "ray", "fsspec")
    store = Store(asked.storage or f"runs/sweeps/{config.preset}")
    jobs = plan(config, asked, typed)
    missing = [job for job in jobs if not is_done(job, store)]
    view = Scoreboard(console, {job.name: job.config.total_steps for job in jobs}, config.env.frame_skip)
    for job in jobs:
        if job not in missing:
            view.ended(job.name, Outcome("finished", "", 0.0))
    view.say(f"{plural(len(jobs), 'run')} in {store.where}, {len(jobs) - len(missing)} already done")
    if missing:
        if announce:
            view.say(announce(missing, store))
        ray = ray_cluster.join(asked.address)
        try:
            _place(ray, missing, store, config, asked, view)
        finally:
            ray.shutdown()
    view.conclude()
    if failed := view.of("failed"):
        raise RunFailed(
            f"{len(failed)} of {plural(len(jobs), 'run')} failed; see {store.where}/<run>.log: {', '.join(failed[:5])}"
            f"{' ...' if len(failed) > 5 else ''}; to retry, run the same command again"
        )


def _place(ray: Any, jobs: list[Job], store: Store, config: TrainConfig, asked: Sweep, view: Scoreboard) -> None:
    """Submit the runs to Ray, and follow them until they end or a stop is requested."""
    there = ray_cluster.largest_node(ray)
    gpus = gpus_of(config, asked, there)
    wanted = needs(config, asked, gpus)
    _check_room(wanted, there)
    view.say(
        f"Ray: {plural(sum(node['Alive'] for node in ray.nodes()), 'machine')}, "
        f"{plural(ray.cluster_resources().get('CPU', 0), 'CPU')}, "
        f"{plural(ray.cluster_resources().get('GPU', 0), 'GPU')}; each run needs "
        f"{plural(wanted['num_cpus'], 'CPU')}, {plural(gpus, 'GPU')}, {memory_size(wanted['memory'])} of memory"
    )
    store.make()
    if url := ray_cluster.dashboard(ray):
        view.say(f"Ray's dashboard: {url}")
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    # A new worker for each run, so that no state is shared. Ray counts only lost workers as retries, not failures.
    task = ray.remote(max_calls=1, max_retries=asked.retries, scheduling_strategy="SPREAD", **wanted)(work)
    pending = {task.remote(job, store.where, board): job.name for job in jobs}
    stopped, told_to_stop = threading.Event(), False
    with stop_signals(stopped), view:
        while pending:
            for ref in ray.wait([*pending], timeout=1.0)[0]:
                view.ended(pending.pop(ref), _outcome(ray, ref))
            view.told(ray.get(board.all.remote()))
            if stopped.is_set() and not told_to_stop:
                told_to_stop = True
                view.say("stopping: runs are saving; run the same command again to resume them")
                for ref in pending:
                    ray.cancel(ref)  # acts like Ctrl-C


def _outcome(ray: Any, ref: Any) -> Outcome:
    try:
        return Outcome(*ray.get(ref))
    except ray.exceptions.TaskCancelledError:
        return Outcome("stopped", "", 0.0)
    except ray.exceptions.RayError as error:
        return Outcome("failed", f"its workers or machines were lost too many times: {one_line(error)}", 0.0)
