"""ONNX: a network as one graph, from states as the emulator shows them to Q-values. Needs the extra `export`."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.replay import torch_dtype
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line

NEEDS = ("onnx", "onnxscript", "onnxruntime")


class Graph(nn.Module):
    """What is exported: states [N, stack, *frame] -> Q-values [N, A]; of a distribution its mean, of noisy layers the
    mean weights.
    """

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, states: Tensor) -> Tensor:
        return self.network.q_values(states)


def save(network: QNetwork, state_shape: tuple[int, ...], dtype: str, about: Mapping[str, str]) -> bytes:
    """The file's content. Raises UserError if torch cannot export the network.

    Args:
        network: on the CPU.
        state_shape, dtype: of a state, [stack, *frame].
        about: becomes the file's metadata_props.
    """
    import onnx

    example = torch.zeros(2, *state_shape, dtype=torch_dtype(np.dtype(dtype)))
    with _quiet():
        try:
            # torch.export, for whose tracing `torch.compiler.is_compiling` holds: the layers take torch's own path.
            program = torch.onnx.export(
                Graph(network).eval(),
                (example,),
                dynamo=True,
                input_names=["states"],
                output_names=["q_values"],
                dynamic_shapes={"states": {0: torch.export.Dim("N")}},
                verbose=False,
            )
        except Exception as error:
            raise UserError(f"torch cannot export this network to ONNX: {one_line(error)}") from None
    assert program is not None
    model = program.model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")  # source lines and their paths on this machine
        part.ClearField("doc_string")
    onnx.helper.set_model_props(model, dict(about))
    content: bytes = model.SerializeToString()
    return content


def runner(path: Path, threads: int = 0) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A file's function in onnxruntime: states [N, stack, *frame] -> Q-values [N, A].

    Args:
        threads: 0 for as many as there are cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda states: session.run(["q_values"], {"states": states})[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks about packages that it does not find and about its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
