"""Join a Ray cluster, or start a local one."""

import os
import re
import socket
from typing import Any

from atari_dqn.utils import extras, machine
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line

OBJECT_STORE_BYTES = 200_000_000  # barely used; by default, Ray takes a third of the memory


def join(address: str | None) -> Any:
    """Return Ray, connected. Raises UserError if it is not installed or there is no cluster at `address`.

    Args:
        address: `auto` or host:port of a cluster; None for $RAY_ADDRESS, or else a local cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = extras.load("ray", "a sweep or emulators=ray")
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS")
    if address and (match := re.fullmatch(r"([^/]+):(\d+)", address)):  # Ray itself would retry for minutes
        try:
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`"
            ) from None
    here = {"num_cpus": machine.cpus(), "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else here))
    except Exception as error:
        where = f"no Ray cluster answers at {address!r}" if address else "cannot start Ray on this machine"
        remedy = "start one with `ray start --head`, or omit the address" if address else "see /tmp/ray"
        raise UserError(f"{where} ({one_line(error, 150)}); {remedy}") from None
    return ray


def dashboard(ray: Any) -> str:
    """The URL of Ray's own dashboard; empty if `ray[default]` is not installed."""
    address = ray._private.worker.get_dashboard_url()
    return f"http://{address}" if address else ""


def largest_node(ray: Any) -> dict[str, float]:
    """The largest amount of each resource on a single machine of the cluster; `memory` in bytes."""
    most: dict[str, float] = {}
    for node in ray.nodes():
        for name, amount in node["Resources"].items() if node["Alive"] else ():
            most[name] = max(most.get(name, 0), amount)
    return most
