"""CUDA graphs: a function's kernels recorded once and started with one call."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

EAGER_CALLS = 3  # as they stand, which lets torch's libraries settle


def graphed(function: Callable[P, R], device: torch.device, generators: Sequence[torch.Generator]) -> Callable[P, R]:
    """`function` as a CUDA graph, one for each arguments that it is called with; on other devices `function` itself.

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
            with torch.cuda.graph(graph, stream=stream):
                result = function(*args, **kwargs)
            graphs[key] = graph, result
        graph, result = graphs[key]
        graph.replay()
        return result

    return call
