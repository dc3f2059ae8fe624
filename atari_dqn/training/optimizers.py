"""An optimizer by its name and arguments: Nature's, or one of torch's."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from atari_dqn.dqn.optimizers import NatureRMSProp
from atari_dqn.registry import own_modules, plugins
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line, shown, suggest

UNSUITED = ("Optimizer", "LBFGS", "SparseAdam")  # want closures or sparse gradients
FUSED = ("Adam", "AdamW", "SGD")  # torch's one-kernel versions, on CPU and GPU
SWITCHES = ("foreach", "fused")  # whose default is None: as torch sees fit
NOT_FOR_LEARNING = {
    "maximize": "it would make the loss larger",
    "differentiable": "it is for optimizers that are learned themselves",
}
LARGEST = 1e9  # number among the arguments


def make_optimizer(
    name: str, params: Iterable[Tensor], learning_rate: float, arguments: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer called `name`: NatureRMSProp, any of torch.optim, or the user's own.

    Raises UserError if it could not learn.
    """
    known: dict[str, Any] = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and key not in UNSUITED
    }
    known["NatureRMSProp"] = NatureRMSProp
    params = list(params)
    if plugins.is_own(plugins.OPTIMIZER, name) and name not in known:
        own = plugins.find(plugins.OPTIMIZER, name)
        own_modules.check_typed(f"optimizer={name}", arguments, "optimizer.arguments")
        if not (isinstance(own, type) and issubclass(own, torch.optim.Optimizer)):
            raise UserError(f"optimizer={name} is not a torch.optim.Optimizer")
        known[name] = own
    if name not in known:
        raise UserError(f"no optimizer is called {name!r}{suggest(name, known)}; known: {', '.join(sorted(known))}")
    options = dict(inspect.signature(known[name]).parameters)
    for key, value in arguments.items():
        _check(name, key, value, options)
    arguments = {key: _with_floats(value) for key, value in arguments.items()}
    if name in FUSED and not arguments.get("foreach"):
        arguments = {"fused": True} | arguments
    on_host = {key: value for key, value in arguments.items() if key != "capturable" or not params[0].is_cuda}
    if params[0].is_cuda and "capturable" in options:
        arguments = {"capturable": True} | arguments  # its step count on the device, for CUDA graphs
    try:
        _try_out(functools.partial(known[name], lr=learning_rate, **on_host))
        optimizer: torch.optim.Optimizer = known[name](params, lr=learning_rate, **arguments)
    except Exception as error:  # torch's, of numbers out of range or of switches that exclude each other
        text = one_line(error) or type(error).__name__
        raise UserError(f"optimizer.arguments do not suit {name}: {text}") from None
    return optimizer


def _try_out(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
    """Raise an error if an optimizer cannot make a step on the CPU, which some arguments show no sooner."""
    weights = torch.nn.Parameter(torch.ones(9, 9))
    optimizer = make([weights])
    for step in range(1, 4):
        weights.grad = torch.linspace(-step, 0.3, 81).view(9, 9)
        weights.grad[0] = 0  # as of a unit that is never active
        optimizer.step()
    if not weights.isfinite().all():
        raise ValueError("its steps are no finite numbers")


def _check(name: str, key: str, value: Any, options: dict[str, inspect.Parameter]) -> None:
    """Raise UserError if an argument is none that an optimizer may be given, or of another type than its default."""
    setting = f"optimizer.arguments.{key}"
    if key == "lr":
        raise UserError(f"{setting}: the learning rate is optimizer.learning_rate")
    if key in NOT_FOR_LEARNING:
        raise UserError(f"{setting}: {NOT_FOR_LEARNING[key]}; leave it out")
    others = {option: options[option] for option in options if option not in ("params", "lr", *NOT_FOR_LEARNING)}
    check_argument(setting, name, key, value, others)


def check_argument(setting: str, name: str, key: str, value: Any, options: dict[str, inspect.Parameter]) -> None:
    """Raise UserError if an argument is none of `options`, or of another type than its default."""
    if key not in options:
        raise UserError(f"{setting}: {name} has no such argument{suggest(key, options)}; it has {', '.join(options)}")
    default = options[key].default
    if isinstance(default, bool) or key in SWITCHES:
        fits, kind = isinstance(value, bool) or value is default, "true or false"
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(default)
        fits = fits and all(_is_number(one) or one is given for one, given in zip(value, default, strict=True))
        kind = f"{len(default)} numbers, such as [{','.join(map(shown, default))}]"
    elif isinstance(default, int | float):
        fits, kind = _is_number(value), f"a number such as {default:g}"
    elif options[key].annotation in ("int", "float"):  # which it has to be given
        fits, kind = _is_number(value), "a number"
    else:
        return
    if not fits:
        raise UserError(f"{setting}={shown(value)}: expected {kind}")


def _with_floats(value: Any) -> Any:
    """A list with its whole numbers as floats: of Adam's betas torch wants both of one type, or [0,0.9] would fail."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(float(one) if _is_number(one) else one for one in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
