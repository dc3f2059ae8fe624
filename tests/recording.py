"""What a CUDA graph does, on the CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::multinomial", "aten::unique2"}


class Recording(TorchDispatchMode):
    """Runs a function once and keeps its operators with their numbers and their memory; `replay` runs them again there.

    Like a capture it fails where the function waits for the device, and its replay knows nothing of Python.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self.operators: list[tuple] = []
        with self:
            self.result = function()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in WAITS, f"{func} waits for the device"
        out = func(*args, **(kwargs or {}))
        self.operators.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> Any:
        for func, args, kwargs, out in self.operators:
            new = func(*args, **kwargs)
            given = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
            for kept, fresh in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(kept, torch.Tensor) and _memory(kept) not in given:
                    kept.copy_(fresh)
        return self.result


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
