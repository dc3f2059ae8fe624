"""Record a function once and replay it without Python: as a CUDA graph on a GPU, as TorchScript on a CPU."""

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch

from atari_dqn.utils.text import one_line

P = ParamSpec("P")
R = TypeVar("R")

EAGER_CALLS = 3  # warm-up calls before capture, for torch's libraries to initialize


def graphed(function: Callable[P, R], device: torch.device, generators: Sequence[torch.Generator]) -> Callable[P, R]:
    """Wrap `function` in CUDA graphs, one per distinct arguments; on other devices, return `function`.

    A graph replays the kernels of one call, with that call's Python numbers and memory: everything that changes must be
    in tensors, nothing may wait for the device, and the next call overwrites the result.

    Args:
        generators: random generators that the function uses.
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
            # thread_local: other threads, such as the checkpoint writer's, may use the device during capture.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = function(*args, **kwargs)
            graphs[key] = graph, result
        graph, result = graphs[key]
        graph.replay()
        return result

    return call


@functools.cache
def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works on `device`: it needs Triton, which needs a C compiler and Python's headers."""
    try:
        torch.compile(torch.neg, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:
        text = one_line(error)
        warnings.warn(f"torch.compile does not work on this machine, so updates are slower ({text})", stacklevel=2)
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
    """Compile `function`'s operators, forward and backward, to a few kernels with torch.compile.

    Everything is compiled together; nn.Module.compile would leave out the loss, its gradient and the casts. Shapes are
    those of `examples`; captured tensors, such as parameters, are used by reference.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to load, and only training needs it

    fast = torch.compile(make_fx(lambda *args: function(*args))(*examples), dynamic=False, fullgraph=True)

    def call(*args: torch.Tensor) -> Any:
        with torch.no_grad():  # gradients are part of the traced operators
            return fast(*args)

    return call


def scripted(function: Callable[..., Any], *examples: torch.Tensor) -> Callable[..., Any]:
    """Trace `function`'s operators, forward and backward, and run them in TorchScript without Python and autograd.

    Python numbers and shapes are those of `examples`; captured tensors, such as parameters, are used by reference.
    Returns `function` itself if tracing fails; both compute the same.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to load, and only training needs it

    try:
        module = make_fx(lambda *args: function(*args))(*examples)  # not a method: make_fx would count `self`
        for node in module.graph.nodes:
            if node.target is torch.ops.aten.detach.default:  # a no-op without autograd
                node.replace_all_uses_with(node.args[0])
            elif isinstance(node.target, torch._ops.OpOverload):
                if node.kwargs.get("memory_format") == torch.contiguous_format:  # unknown to TorchScript
                    with module.graph.inserting_after(node):
                        ordered = module.graph.call_function(torch.ops.aten.contiguous, (node,))
                    node.replace_all_uses_with(ordered)
                    ordered.args = (node,)
                node.target = node.target.overloadpacket  # TorchScript chooses the overload
                node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("pin_memory", "memory_format")}
        module.graph.eliminate_dead_code()
        module.recompile()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript's deprecation warning
            script = torch.jit.script(module)
    except Exception:
        return function

    def call(*args: torch.Tensor) -> Any:
        # Not optimized: from the third call on, rounding would change, so a resumed run would not be bit-identical.
        with torch.no_grad(), torch.jit.optimized_execution(False):
            return script(*args)

    return call
