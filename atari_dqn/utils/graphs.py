"""A function recorded once and repeated without Python: as a CUDA graph on a GPU, as a list of operators on a CPU."""

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch

from atari_dqn.utils.text import one_line

P = ParamSpec("P")
R = TypeVar("R")

EAGER_CALLS = 3  # as they stand, which lets torch's libraries settle


def graphed(function: Callable[P, R], device: torch.device, generators: Sequence[torch.Generator]) -> Callable[P, R]:
    """`function` as a CUDA graph, one for each arguments that it is called with; on other devices `function`.

    A graph repeats the kernels of one call, with that call's Python numbers and on the same memory: what changes must
    be in tensors, nothing may wait for the device, and a result is overwritten by the next call.

    Args:
        generators: those that the function draws from.
    """
    if device.type != "cuda":
        return function
    stream, calls = torch.cuda.Stream(device), Counter[object]()
    graphs: dict[object, tuple[torch.cuda.CUDAGraph, R]] = {}

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        key = (args, tuple(kwargs.items()))
        calls[key] += 1
        if calls[key] <= EAGER_CALLS:
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                result = function(*args, **kwargs)
            torch.cuda.current_stream(device).wait_stream(stream)
            return result
        if key not in graphs:
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)
            # What other threads ask of the device meanwhile, such as a checkpoint's, is no part of it.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = function(*args, **kwargs)
            graphs[key] = graph, result
        graph, result = graphs[key]
        graph.replay()
        return result

    return call


@functools.cache
def can_compile(device: torch.device) -> bool:
    """Whether torch's compiler works on `device`: it needs Triton, which needs a C compiler and Python's headers."""
    try:
        torch.compile(torch.neg, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:
        text = one_line(error)
        warnings.warn(f"torch.compile does not work here, so updates are slower ({text})", stacklevel=2)
        return False
    return True


class PerShape:
    """`function` as `make(function, *examples)` makes it, once for each shape and layout of its first argument."""

    def __init__(self, make: Callable[..., Callable[..., Any]], function: Callable[..., Any]) -> None:
        self._make, self._function = make, function
        self.made: dict[object, Callable[..., Any]] = {}

    def __call__(self, *args: torch.Tensor) -> Any:
        key = args[0].shape, args[0].stride()
        if key not in self.made:
            self.made[key] = self._make(self._function, *args)
        return self.made[key](*args)


def compiled(function: Callable[..., Any], *examples: torch.Tensor) -> Callable[..., Any]:
    """`function`'s operators, forwards and backwards, as a few kernels by torch's compiler.

    Compiled as a whole, where nn.Module.compile would leave the loss, its gradient and the casts apart. Shapes are
    those of `examples`; tensors from outside, like parameters, are used as they are then.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to load, and only training needs it

    fast = torch.compile(make_fx(lambda *args: function(*args))(*examples), dynamic=False, fullgraph=True)

    def call(*args: torch.Tensor) -> Any:
        with torch.no_grad():  # the gradients are operators now
            return fast(*args)

    return call


def scripted(function: Callable[..., Any], *examples: torch.Tensor) -> Callable[..., Any]:
    """`function`'s operators, forwards and backwards, run by TorchScript without Python and autograd.

    Its numbers and shapes are those of `examples`; tensors from outside, like parameters, are used as they are then.
    Returns `function` itself where that cannot be; both compute the same.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to load, and only training needs it

    try:
        module = make_fx(lambda *args: function(*args))(*examples)  # not a method: it would count `self`
        for node in module.graph.nodes:
            if node.target is torch.ops.aten.detach.default:  # without autograd it does nothing
                node.replace_all_uses_with(node.args[0])
            elif isinstance(node.target, torch._ops.OpOverload):
                if node.kwargs.get("memory_format") == torch.contiguous_format:  # which TorchScript does not know
                    with module.graph.inserting_after(node):
                        ordered = module.graph.call_function(torch.ops.aten.contiguous, (node,))
                    node.replace_all_uses_with(ordered)
                    ordered.args = (node,)
                node.target = node.target.overloadpacket  # TorchScript chooses the overload by itself
                node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("pin_memory", "memory_format")}
        module.graph.eliminate_dead_code()
        module.recompile()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is frozen, and says so
            script = torch.jit.script(module)
    except Exception:
        return function

    def call(*args: torch.Tensor) -> Any:
        # Not optimised: after two calls it would round otherwise, and so would a resumed run's first two.
        with torch.no_grad(), torch.jit.optimized_execution(False):
            return script(*args)

    return call
