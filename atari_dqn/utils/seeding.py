"""Independent random streams from one seed, so that no part of a run affects another's random numbers."""

import zlib

import numpy as np
import torch


def derive(seed: int, *names: object, count: int = 1) -> list[int]:
    """`count` seeds below 2**31 for the stream called `names`; reproducible on any machine."""
    key = zlib.crc32("/".join(map(str, names)).encode())
    return [int(word) >> 1 for word in np.random.SeedSequence([seed, key]).generate_state(count)]


def generator(device: torch.device | str, seed: int, *names: object) -> torch.Generator:
    """A torch generator on `device` for the stream called `names`."""
    return torch.Generator(device).manual_seed(derive(seed, *names)[0])
