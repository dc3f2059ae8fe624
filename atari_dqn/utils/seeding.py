"""Independent random streams from one seed, so that no part of a run affects another's random numbers."""

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

# All streams of a run. Those of an evaluation or a film come from that one's own seed.
STREAMS = {
    "network": "first weights",
    "games": "the training games, from an agent step on",
    "exploration": "the behavior policy, and the noise that it acts with",
    "replay": "sampling, and what is drawn beside a batch: noise, quantiles",
    "lost": "games that a lost Ray actor played",
    "evaluation": "the seed of an evaluation, and of its film, at an agent step",
    "fresh evaluation": "the seed of the best network's evaluation at the run's end",
    "held-out states": "the seed of the random play that gives the held-out states",
    "evaluation games": "an evaluation's games",
    "evaluation actions": "an evaluation's epsilon-greedy actions",
    "held-out actions": "the random play of the held-out states",
    "compared actions": "the play of the states that an exported network is compared on",
    "video game": "a film's game",
    "video actions": "a film's epsilon-greedy actions",
}


def derive(seed: int, stream: str, *more: object, count: int = 1) -> list[int]:
    """`count` seeds below 2**31 for one of STREAMS and `more`; reproducible on any machine."""
    assert stream in STREAMS, stream
    key = zlib.crc32("/".join(map(str, (stream, *more))).encode())
    return [int(word) >> 1 for word in np.random.SeedSequence([seed, key]).generate_state(count)]


def generator(device: torch.device | str, seed: int, stream: str, *more: object) -> torch.Generator:
    """A torch generator on `device` for one of STREAMS."""
    return torch.Generator(device).manual_seed(derive(seed, stream, *more)[0])


@contextlib.contextmanager
def seeded(seed: int, stream: str) -> Iterator[None]:
    """Let torch's global generator, which new layers draw from, be one of STREAMS for a while."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, stream)[0])
        yield


class Streams:
    """The two streams that the training loop draws from, on its device."""

    def __init__(self, device: torch.device | str, seed: int, agent_steps: int = 0) -> None:
        more = (agent_steps,) if agent_steps else ()
        self.exploration = generator(device, seed, "exploration", *more)
        self.replay = generator(device, seed, "replay", *more)

    def state(self) -> dict[str, Any]:
        return {"exploration": self.exploration.get_state(), "replay": self.replay.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state` from the same kind of device. Raises KeyError, TypeError or RuntimeError."""
        self.exploration.set_state(state["exploration"])
        self.replay.set_state(state["replay"])
