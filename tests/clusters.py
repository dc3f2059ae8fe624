"""A Ray cluster of several raylets on this machine, one of which is lost while a sweep runs on it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from torture import ROOT

QUIET_CLUSTER = {"object_store_memory": 100_000_000}


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "atari_dqn", *words]


def kill(node: Any) -> int:
    """SIGKILL a node's raylet, workers and agents, as a power cut does; how many processes that were."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    doomed = [*raylet.children(recursive=True), raylet]
    for process in doomed:
        process.send_signal(signal.SIGKILL)
    return len(doomed)


def steps_of(folder: Path) -> int:
    """Agent steps that a run has told of."""
    rows = (folder / "metrics.csv").read_text().splitlines() if (folder / "metrics.csv").exists() else []
    return int(rows[-1].split(",")[1]) if len(rows) > 1 else 0


def lose_a_node(storage: Path, words: Sequence[str], steps: int) -> dict[str, int]:
    """Run a sweep on a head without CPUs and two nodes of one each; kill one when both have a run half done.

    Returns the agent steps of the runs that were under way.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **QUIET_CLUSTER})
    try:
        nodes = [cluster.add_node(num_cpus=1, **QUIET_CLUSTER) for _ in range(2)]
        cluster.wait_for_nodes()
        process = subprocess.Popen([*words, f"sweep.address={cluster.address}"], env=environment())
        half: dict[str, int] = {}
        while len(half) < 2 and process.poll() is None:
            time.sleep(0.1)
            told = {folder.name: steps_of(folder) for folder in storage.glob("*-seed?")}
            half = {name: at for name, at in told.items() if 0.3 * steps <= at < 0.9 * steps}
        print(f"killing {kill(nodes[0])} processes of a node while {half} are under way", flush=True)
        if process.wait(timeout=1800):
            raise SystemExit(f"the sweep ended with {process.returncode}")
        return half
    finally:
        cluster.shutdown()
