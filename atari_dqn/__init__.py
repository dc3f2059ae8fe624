"""Deep Q-learning from pixels on Atari: one loop over one replay memory."""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # the only place: pyproject.toml reads it
__all__ = [
    "Agent",
    "Callback",
    "Result",
    "Run",
    "RunFailed",
    "UserError",
    "__version__",
    "evaluate",
    "load",
    "make_env",
    "make_vec_env",
    "runs",
    "train",
]

# Between two parallel regions OpenMP's threads wait by spinning: GOMP's up to 300,000 times, KMP's for 200 ms. That
# gains little on an idle machine, and costs up to nine tenths where anything else wants the same cores: see
# benchmarks/busy.py. The
# libraries read this when torch loads them, so it stands here, and only where a person has chosen nothing.
SPIN = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}
if not os.environ.keys() & {"OMP_WAIT_POLICY", *SPIN}:
    os.environ.update(SPIN)

if TYPE_CHECKING:
    from atari_dqn.api.agent import Agent, load
    from atari_dqn.api.envs import make_env, make_vec_env
    from atari_dqn.api.evaluate import Result, evaluate
    from atari_dqn.api.runs import Run, runs
    from atari_dqn.api.train import train
    from atari_dqn.tracking.callback import Callback
    from atari_dqn.utils.errors import RunFailed, UserError

# Where each name is. They are imported at first use: torch takes seconds.
_HOMES = {
    "Agent": "api.agent",
    "Callback": "tracking.callback",
    "Result": "api.evaluate",
    "Run": "api.runs",
    "RunFailed": "utils.errors",
    "UserError": "utils.errors",
    "evaluate": "api.evaluate",
    "load": "api.agent",
    "make_env": "api.envs",
    "make_vec_env": "api.envs",
    "runs": "api.runs",
    "train": "api.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
