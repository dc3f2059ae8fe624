"""What a CUDA graph does and what it forbids, without a GPU."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, channels_last
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn import prioritized
from atari_dqn.dqn.agent import Agent
from atari_dqn.training.agents import make_agent

WAITS = {
    "_local_scalar_dense", "_unique2", "allclose", "bincount", "equal", "is_nonzero", "masked_select", "multinomial",
    "nonzero", "unique_consecutive", "unique_dim",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


def objection(func: Any, args: Sequence[Any]) -> str | None:
    """Why a CUDA graph cannot have an operator, wherever it runs; None where it can."""
    name = _name(func)
    if name in WAITS or str(func) == "aten.repeat_interleave.Tensor":
        return f"{func} waits for the device"
    if name in INDEXING and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]):
        return f"{func} waits for the device: how much does the mask choose?"
    if name == "lift_fresh":  # from torch.tensor([1, 2]) or x[[1, 2]]
        return f"{func} is a constant that the host copies"
    return None


class Recording(TorchDispatchMode):
    """Runs a function once and keeps its operators with their numbers and their memory; `replay` runs them again there.

    Like a capture it fails where the function waits for the device, and its replay knows nothing of Python.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self.operators: list[tuple] = []
        with self:
            self.result = function()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not (why := objection(func, args)), why
        out = func(*args, **(kwargs or {}))
        self.operators.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> Any:
        for func, args, kwargs, out in self.operators:
            new = func(*args, **kwargs)
            given = {_memory(leaf) for leaf in _tensors((args, kwargs))}
            for kept, fresh in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(kept, Tensor) and _memory(kept) not in given:
                    kept.copy_(fresh)
        return self.result


GPU, META = torch.device("cuda", 0), torch.device("meta")
KERNELS = torch.library.Library("aten", "IMPL", "Meta")  # torch has none of these; they work in place, so say nothing
for kernel in ("_fused_adam_.tensor_lr", "_fused_adamw_.tensor_lr", "_fused_sgd_", "_fused_sgd_.tensor_lr"):
    with contextlib.suppress(RuntimeError):  # where torch has it after all
        KERNELS.impl(kernel, lambda *args, **kwargs: None)


class MetaGpu(TorchFunctionMode):
    """torch's meta device, shown to Python as a CUDA GPU.

    On it operators have shapes, strides and gradients, but no numbers. So every build of torch has it, it is fast, and
    to read a number is an error. Python sees `cuda` where it asks a tensor, and may ask for it.
    """

    def __enter__(self) -> "MetaGpu":
        # By this list torch decides whether to clip gradients one by one.
        self._patch = mock.patch("torch.utils._foreach_utils._get_foreach_kernels_supported_devices", lambda: ["meta"])
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.stop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return args[0].is_meta
        if func == Tensor.pin_memory:  # there is no such memory without a GPU
            return args[0].clone()
        args, kwargs = tree_map(_to_meta, (tuple(args), kwargs or {}))
        kwargs.pop("pin_memory", None)
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            # The meta device makes them out of nothing; a GPU gets a copy of what the host has made.
            device = kwargs.pop("device", args[0].device if func == Tensor.new_tensor else None)
            return func(*args, device="cpu", **kwargs).to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # so it is with lists of indices, too
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list | np.ndarray) else i for i in index)
            args = (args[0], index, *args[2:])
        out = func(*args, **kwargs)
        return GPU if isinstance(out, torch.device) and out.type == "meta" else out


class Audit(TorchDispatchMode):
    """Counts the operators of what runs on a MetaGpu, and fails at one that a CUDA graph cannot have.

    A graph runs on the device alone. What the host computes would not be repeated, not even a single number that a
    kernel takes: the graph keeps it as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = Counter[str]()  # operators that launch kernels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = _name(func), kwargs or {}
        assert not (why := objection(func, args)), why
        given = _tensors((args, kwargs))
        assert all(x.is_meta for x in given), f"{func} takes a tensor of the host"
        assert kwargs.get("device") in (None, META), f"{func} copies to the host, or works there"
        if name.startswith("_foreach_"):  # one kernel only where strides agree, else one for each tensor
            lists = (part for part in args if isinstance(part, list | tuple) and isinstance(part[0], Tensor))
            for tensors in zip(*lists, strict=True):
                assert len({x.stride() for x in tensors if x.ndim}) < 2, f"{func} takes tensors of different strides"
        out = func(*args, **kwargs)
        if name in ("convolution", "convolution_backward") and any(map(_is_channels_last, given)):
            # So cuDNN answers; the meta device has no opinion.
            out = tree_map(lambda x: x.contiguous(memory_format=channels_last) if _is_picture(x) else x, out)
        made = _tensors(out)
        assert all(x.is_meta for x in made), f"{func} works on the host"
        if name not in VIEWS and any(x.numel() for x in given + made):
            self.kernels[name] += 1
        return out


VIEWS = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty", "empty_like",
    "empty_permuted", "empty_strided", "expand", "new_empty", "new_empty_strided", "permute", "select", "slice",
    "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
}  # fmt: skip


def _name(func: Any) -> str:
    return func._schema.name.split("::")[1]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _to_meta(x: Any) -> Any:
    return META if isinstance(x, str | torch.device) and str(x).startswith("cuda") else x


def _is_picture(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim == 4


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=channels_last)


def audited_turn(
    config: TrainConfig, frame_shape: Sequence[int], minibatches: int
) -> tuple[dict[str, Counter[str]], Agent]:
    """The operators of each part of a turn of training, and the agent that learned, on a MetaGpu.

    Args:
        frame_shape: [H, W] of pictures, or [n] of vectors.
    """
    games, shape = config.num_envs, tuple(frame_shape)
    dtype = torch.uint8 if len(shape) == 2 else torch.float32
    kernels: dict[str, Counter[str]] = {}

    def audited(part: str, function: Callable[..., Any], *args: Any) -> Any:
        with Audit() as audit:
            result = function(*args)
        kernels[part] = audit.kernels
        return result

    with MetaGpu():
        agent = make_agent(config, shape, 4, GPU)
        replay = prioritized.make_replay(config, 0, 100, games, shape, dtype, config.env.frame_stack, GPU)
        replay.written = 250  # without numbers there is nothing to write
        epsilon, draw, learner = torch.zeros((), device=GPU), torch.Generator(), config.agent
        asked = minibatches, config.update.batch_size, draw, learner.discount, learner.n_step, learner.reward_clip
        agent.learn(replay.sample(*asked), draw)  # a capture comes later than the optimizer's first step
        audited("act", lambda: agent.act(replay.newest_stack(), epsilon, draw))
        audited("act_at_random", agent.act_at_random, games, draw)
        batch = audited("sample", replay.sample, *asked)
        errors, _ = audited("learn", agent.learn, batch, draw)
        audited("update_priorities", replay.update_priorities, batch, errors)
        audited("copy", agent.copy_target)
    return kernels, agent
