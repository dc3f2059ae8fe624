"""Whether fast paths compute the same updates as plain ones."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.replay import Batch
from atari_dqn.registry.watched import where
from atari_dqn.testing import capture
from atari_dqn.testing.tools import CheckFailed, check, states_like
from atari_dqn.training.agents import make_agent
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.utils.graphs import graphed


def _batches(config: TrainConfig, frame_shape: Sequence[int], device: torch.device) -> list[Batch]:
    """Three turns of two minibatches of random transitions, of which some end a game."""
    generator, shape = torch.Generator().manual_seed(2), (2, config.update.batch_size)
    made = []
    for _ in range(3):
        states = [states_like((shape[0] * shape[1], config.env.frame_stack, *frame_shape), generator) for _ in range(2)]
        s_tm1, s_t = (part.unflatten(0, shape) for part in states)
        a_tm1 = torch.randint(0, 3, shape, generator=generator)
        discount = 0.9 * (torch.rand(shape, generator=generator) > 0.2)
        fields = {"s_tm1": s_tm1, "a_tm1": a_tm1, "r_t": torch.randn(shape, generator=generator).clamp(-1, 1)}
        fields |= {"discount_t": discount.float(), "s_t": s_t, "weight": torch.ones(shape)}
        rest = {name: torch.zeros(shape, dtype=torch.int64) for name in Batch._fields if name not in fields}
        made.append(Batch(**{name: part.to(device) for name, part in (fields | rest).items()}))
    return made


def _learned(config: TrainConfig, frame_shape: Sequence[int], device: str, graphs: bool) -> tuple[Agent, list[Tensor]]:
    """An agent after a few turns, and its losses' errors, by plain calls or as `compute.graphs` makes them."""
    config = copy.deepcopy(config)
    config.compute.graphs, place = graphs, torch.device(device)
    agent = make_agent(config, tuple(frame_shape), 3, place)
    generator, batches = torch.Generator(place).manual_seed(3), _batches(config, frame_shape, place)
    given, errors = Batch(*(part.clone() for part in batches[0])), []
    learn: Callable[[], Any] = lambda: agent.learn(given, generator)  # noqa: E731
    if graphs and device == "cuda":
        learn = graphed(learn, place, [generator])
    for batch in itertools.chain(batches, batches):
        for part, value in zip(given, batch, strict=True):
            part.copy_(value)
        errors.append(learn()[0].clone())
        agent.copy_target()
    return agent, errors


def updates_agree(config: TrainConfig, frame_shape: Sequence[int]) -> Iterator[str]:
    try:
        (plain, errors), (fast, others) = (_learned(config, frame_shape, "cpu", graphs) for graphs in (False, True))
    except (UserError, RunFailed) as error:
        raise CheckFailed(str(error)) from error
    except Exception as error:
        raise CheckFailed(f"an update fails: {where(error)}") from error
    check(all(error.isfinite().all() for error in errors), "its losses are not finite numbers")
    pairs = zip(plain.online.parameters(), fast.online.parameters(), strict=True)
    same = all(torch.equal(one, other) for one, other in pairs)
    same &= all(torch.equal(one, other) for one, other in zip(errors, others, strict=True))
    check(same, "updates through TorchScript differ from plain ones: does it keep numbers in Python?")
    yield "updates through TorchScript are bit-identical to plain ones"
    meta = copy.deepcopy(config)
    meta.compute.compile, meta.num_envs = False, 8
    try:
        capture.audited_turn(meta, frame_shape, minibatches=2)
    except Exception as error:
        what = str(error) if isinstance(error, AssertionError) else where(error)
        raise CheckFailed(f"a CUDA graph cannot have this: {what}") from None
    yield "nothing in a turn forbids a CUDA graph"
    if not torch.cuda.is_available():
        yield "not checked, for lack of a GPU: a CUDA graph's updates equal plain ones"
        return
    (plain, _), (fast, _) = (_learned(config, frame_shape, "cuda", graphs) for graphs in (False, True))
    for one, other in zip(plain.online.parameters(), fast.online.parameters(), strict=True):
        check(torch.allclose(one, other, rtol=1e-3, atol=1e-5), "a CUDA graph's updates differ from plain ones")
    yield "a CUDA graph's updates equal plain ones"
