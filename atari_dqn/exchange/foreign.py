"""Networks of other programs: their files' tensors, read without running code from them, as networks of ours.

Only tensors are read: of a pickle, nothing but the few calls that torch writes for them is allowed.
"""

import gzip
import io
import itertools
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atari_dqn.dqn.features import CONVOLUTIONS
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line

LARGEST = 1 << 30  # bytes that a file may unpack to
Layers = list[tuple[Tensor, Tensor]]


class Layout(NamedTuple):
    """How a program stores its networks.

    Attributes:
        title: the program.
        preset: whose settings describe how it plays.
        keys: regexes of the names of weights: of convolutions, and of fully connected layers. A layer's biases end with
            `bias` instead of `weight`.
        atoms: the name of a distribution's support, if it has one.
        preprocessing: how its pictures are made, where that differs from ours.
    """

    title: str
    preset: str
    keys: tuple[str, str]
    atoms: str
    preprocessing: str


LAYOUTS = {
    "cleanrl": Layout(
        title="CleanRL",
        preset="cleanrl",
        keys=(r"network\.\d+\.weight", r"network\.\d+\.weight"),
        atoms="atoms",
        preprocessing="takes the maximum of 2 frames in color, resizes to 84x84 (area), then converts to gray by "
        "OpenCV; a game's first frame fills the stack",
    ),
    "sb3": Layout(
        title="Stable-Baselines3",
        preset="sb3_zoo",
        keys=(
            r"q_net\.features_extractor\.cnn\.\d+\.weight",
            r"q_net\.(?:features_extractor\.linear|q_net)\.\d+\.weight",
        ),
        atoms="",
        preprocessing="takes the maximum of 2 frames in color, converts to gray by OpenCV, then resizes to 84x84 "
        "(area); black frames fill a new game's stack",
    ),
    "atari_agents": Layout(
        title="atari-agents",
        preset="dopamine",
        keys=(r"_AtariNet__features\.\d+\.weight", r"_AtariNet__head\.\d+\.weight"),
        atoms="_AtariNet__support",
        preprocessing="takes the ALE's gray, resizes to 84x84 (area), then takes the maximum of 2 frames; black frames "
        "fill a new game's stack",
    ),
}
OURS = (
    "atari_dqn takes the maximum of 2 frames in the ALE's gray, then resizes to 84x84 (area); black frames fill a new "
    "game's stack. Both stack 4 frames, the oldest first, divide pixels by 255, and neither crop nor pad"
)


class Foreign(NamedTuple):
    """A network that was read.

    Attributes:
        layout: a key of LAYOUTS.
        network: a name in conf/network, and `hidden` of an MLP.
        outputs: the last layer's.
        support: a distribution's values, if it predicts one.
        weights: as our network names and orders them.
    """

    layout: str
    network: str
    hidden: tuple[int, ...]
    inputs: int
    outputs: int
    support: Tensor | None
    weights: dict[str, Tensor]


def read(path: Path) -> Foreign:
    """Read a file of another program. Raises UserError if it is none that is known, or is damaged."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        tensors = _tensors(path)
        for name, layout in LAYOUTS.items():
            if found := _as_ours(name, layout, tensors):
                return found
    except UserError as error:
        raise UserError(f"{path} cannot be imported: {error}") from None
    except Exception as error:
        raise UserError(f"{path} cannot be read as weights: {one_line(error, 150)}") from None
    names = ", ".join(layout.title for layout in LAYOUTS.values())
    some = ", ".join([*tensors][:4])
    raise UserError(f"{path} has the layout of none of {names}; its tensors are {some or 'none'} ...")


def _tensors(path: Path) -> dict[str, Tensor]:
    """A file's tensors by name: a state dict of torch, zipped as Stable-Baselines3 does or gzipped."""
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if data[:2] == b"\x1f\x8b":
        with gzip.open(io.BytesIO(data)) as packed:
            data = packed.read(LARGEST + 1)
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if "policy.pth" in archive.namelist():
                _check_size(archive.getinfo("policy.pth").file_size)
                data = archive.read("policy.pth")
    _check_size(len(data))
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_size(sum(entry.file_size for entry in archive.infolist()))
    # torch's own reader of weights interprets the pickle itself: it calls nothing that the file names, but for what
    # makes a tensor.
    with warnings.catch_warnings():  # torch warns about files that it cannot read, too
        warnings.simplefilter("ignore")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if isinstance(content, Mapping):
        content = _inner(content) or content
    if not isinstance(content, Mapping):
        raise ValueError("it holds no weights by name")
    found = {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    for name, value in found.items():
        if value.layout != torch.strided or not value.is_floating_point():
            raise ValueError(f"its tensor {name} is not of plain floating-point numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"its tensor {name} is larger than what is stored of it")
    return found


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 30} GB")


def _inner(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The state dict inside: of CleanRL's C51, and of atari-agents."""
    return next((content[key] for key in ("model_weights", "estimator_state") if key in content), None)


def _as_ours(name: str, layout: Layout, tensors: Mapping[str, Tensor]) -> Foreign | None:
    """The network as ours; None if the file is of another layout. Raises UserError if it is a network that we lack."""
    convolutions, dense = (_layers(tensors, key, rank) for key, rank in zip(layout.keys, (4, 2), strict=True))
    if len(dense) < 2:
        return None
    there = [name for name, value in tensors.items() if value.dim() in (2, 4) and "target" not in name]
    if len(there) > len(convolutions) + len(dense):
        raise UserError(f"it has layers that {layout.title}'s DQN does not have")
    support = tensors.get(layout.atoms) if layout.atoms else None
    if support is not None and support.numel() < 2:
        raise UserError("its distribution has fewer than 2 values")
    for layers in (convolutions, dense):
        for (before, _), (after, _) in itertools.pairwise(layers):
            if after.shape[1] != before.shape[0]:
                raise UserError("its layers do not fit each other")
    if not all(value.isfinite().all() for layer in (*convolutions, *dense) for value in layer):
        raise UserError("its weights are not finite")
    shapes = tuple((w.shape[0], w.shape[2]) for w, _ in convolutions)
    widths = tuple(w.shape[0] for w, _ in dense)
    weights: dict[str, Tensor] = {}
    if convolutions:
        network = next(
            (
                known
                for known, (layers, hidden) in CONVOLUTIONS.items()
                if shapes == tuple((channels, kernel) for channels, kernel, _ in layers) and widths[:-1] == (hidden,)
            ),
            None,
        )
        if network is None:
            raise UserError(
                f"no network of ours has convolutions {shapes} (channels, kernel) and hidden layers {widths[:-1]}; "
                f"those that can be imported are {', '.join(CONVOLUTIONS)}"
            )
        for number, (w, b) in enumerate(convolutions):
            weights |= _pair(f"features.convolutions.{2 * number}", w, b)
        channels = shapes[-1][0]
        first, b = dense[0]
        side = math.isqrt(first.shape[1] // channels)
        if channels * side * side != first.shape[1]:
            raise UserError("its first fully connected layer does not fit its convolutions")
        # Ours flattens rows, columns and channels as they lie in memory; torch's Flatten, channels first.
        ordered = first.unflatten(1, (channels, side, side)).permute(0, 2, 3, 1).flatten(1)
        dense = [(ordered, b), *dense[1:]]
        hidden: tuple[int, ...] = ()
        inputs = int(convolutions[0][0].shape[1])
    else:
        network, hidden, inputs = "mlp", widths[:-1], int(dense[0][0].shape[1])
        for number, (w, b) in enumerate(dense[:-2]):
            weights |= _pair(f"features.layers.{2 * number}", w, b)
        dense = dense[-2:]
    for number, (w, b) in enumerate(dense):
        weights |= _pair(f"head.{2 * number}", w, b)
    return Foreign(name, network, hidden, inputs, widths[-1], support, weights)


def _layers(tensors: Mapping[str, Tensor], key: str, rank: int) -> Layers:
    """Weights with that many dimensions and their biases, in the order in which the file has them."""
    found: Layers = []
    for name, value in tensors.items():
        if re.fullmatch(key, name) and value.dim() == rank:
            bias = tensors.get(f"{name.removesuffix('weight')}bias")
            if bias is not None and bias.shape == value.shape[:1]:
                found.append((value, bias))
    return found


def _pair(name: str, w: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": w.float().contiguous(), f"{name}.bias": b.float().contiguous()}
