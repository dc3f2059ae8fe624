"""Packages beyond the core: which extra installs each, and what to say where one is missing."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint, in_checkout, reinstall
from atari_dqn.utils.text import one_line

EXTRAS = {  # a module, and the extra in pyproject.toml that installs it
    "wandb": "wandb", "tensorboard": "tensorboard", "plotly": "report", "matplotlib": "report", "av": "video",
    "PIL": "video", "pygame": "play", "ray": "sweep", "fsspec": "sweep", "submitit": "slurm",
    "hydra_plugins.hydra_submitit_launcher": "slurm", "hydra_plugins.hydra_optuna_sweeper": "tune",
    "rliable": "aggregate", "pandas": "aggregate", "mlflow": "mlflow", "onnx": "export", "onnxscript": "export",
    "onnxruntime": "export", "safetensors": "export", "minari": "collect", "h5py": "collect",
}  # fmt: skip


def there(module: str) -> bool:
    """Whether a module is installed, without loading it. A folder of that name, such as wandb/, is no module."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # of the package that it is in
        return False
    return spec is not None and spec.origin is not None


def install(*modules: str) -> str:
    """The command that installs them."""
    extras = ",".join(dict.fromkeys(EXTRAS[module] for module in modules))
    is_make_s = in_checkout() and Path(sys.prefix) == Path.cwd() / ".venv"
    return hint("setup") if is_make_s else f"pip install 'atari-dqn[{extras}]'"


def need(what: str, *modules: str) -> None:
    """Raise UserError, which says that `what` needs them, unless all are installed."""
    if missing := [module for module in modules if not there(module)]:
        names = " and ".join(name.removeprefix("hydra_plugins.") for name in missing)
        raise UserError(f"{what} needs {names}, not installed here: {install(*missing)}")


def load(module: str, what: str) -> Any:
    """Import a module that is in EXTRAS, or part of one that is. Raises UserError, which says that `what` needs it."""
    top = module if module in EXTRAS else module.partition(".")[0]
    need(what, top)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} needs {top}, which cannot be loaded ({one_line(error)}); try {reinstall()}") from None
