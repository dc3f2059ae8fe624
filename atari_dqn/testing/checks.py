"""Does it learn, does a fast path compute the same as a plain one, does a resumed run end as an untouched one?"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import env_checker

from atari_dqn.checkpoint.network import build_network
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.envs import factory
from atari_dqn.registry import environments, own_modules, plugins
from atari_dqn.testing.probes import Chain
from atari_dqn.testing.runs import BRIEFLY, learns, resumes
from atari_dqn.testing.tools import CheckFailed, check, configured, named, states_like, told
from atari_dqn.testing.updates import updates_agree
from atari_dqn.utils.errors import RunFailed

CHAIN = ("env=gymnasium", "env.game=atari_dqn.testing.probes:Chain", "network=mlp", "network.hidden=[32]")


def check_network(
    network: type | str,
    arguments: Mapping[str, Any] | None = None,
    *,
    frame_shape: Sequence[int] = (84, 84),
    stack: int = 4,
    learn: bool = True,
) -> list[str]:
    """Check that a network of your own suits training. See extend.Network.

    - Its features are float32 [B, widths[0]], finite, the same for the same states, and each state's own.
    - Each parameter gets a gradient.
    - Its updates through TorchScript are bit-identical to plain ones, and nothing in them forbids a CUDA graph; on a
      machine with a GPU, a graph's updates equal plain ones, too.
    - A run that is stopped and resumed ends bit-identical to an untouched one.
    - It learns a small task with known values, from pictures or vectors (the longest of all; not with learn=False).

    Args:
        network: a class, or an import path `my_package.my_module:Name`.
        arguments: network.arguments.
        frame_shape: of a frame: (84, 84) for pictures, (n,) for vectors of n numbers.
        stack: frames in a state.

    Returns:
        What was checked, in words.

    Raises:
        CheckFailed: with what is wrong.
    """
    pictures = len(frame_shape) == 2
    size = [f"env.screen_size={frame_shape[0]}", f"env.arguments={{size: {frame_shape[0]}}}"] if pictures else []
    game = "atari_dqn.testing.probes:" + ("Memory" if pictures else "Chain")
    words = ["env=gymnasium", f"env.game={game}", f"env.frame_stack={stack}", *size]
    words += [f"network={named(plugins.NETWORK, network, arguments)}"]
    config = configured(*words)
    config.network.arguments = dict(arguments or {})
    with told():
        online = build_network(config, frame_shape, 3)
    return [
        *_features(online, frame_shape, stack),
        *updates_agree(config, frame_shape),
        *resumes(config, BRIEFLY),
        *(learns(config) if learn else ()),
    ]


def _features(network: QNetwork, frame_shape: Sequence[int], stack: int) -> Iterator[str]:
    generator = torch.Generator().manual_seed(1)
    states = states_like((6, stack, *frame_shape), generator)
    before = states.clone()
    x = network.prepare(states)
    features = network.features(x)
    check(torch.equal(states, before), "the states that it is given are changed")
    check(features.isfinite().all(), "its features are not finite numbers")
    check(torch.equal(network.features(network.prepare(states)), features), "the same states give other features")
    alone = torch.cat([network.features(network.prepare(state[None])) for state in states])
    check(
        torch.allclose(alone, features, rtol=1e-3, atol=1e-5),
        "a state's features depend on the other states of its batch, as BatchNorm makes them",
    )
    named = {name: weights for name, weights in network.named_parameters() if weights.requires_grad}
    gradients = torch.autograd.grad(network(states).square().sum(), [*named.values()], allow_unused=True)
    unused = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    check(not unused, f"these parameters get no gradient: {', '.join(unused)}")
    twin = copy.deepcopy(network)
    twin.load_state_dict(network.state_dict())
    check(torch.equal(twin(states), network(states)), "a copy with the same state_dict computes something else")
    yield "features: shape, finite, repeatable, each state's own; gradients of all parameters; copies"


def check_rule(
    rule: type | str,
    arguments: Mapping[str, Any] | None = None,
    *,
    heads: Sequence[str] = ("scalar",),
    learn: bool = True,
) -> list[str]:
    """Check that a rule of your own suits training. See extend.Rule.

    - Targets are float32 [B, n], finite, and without a gradient.
    - Its updates through TorchScript are bit-identical to plain ones, and nothing in them forbids a CUDA graph; on a
      machine with a GPU, a graph's updates equal plain ones, too.
    - A run that is stopped and resumed ends bit-identical to an untouched one, its own state included.
    - It finds the best actions of a small task (not with learn=False).

    Args:
        rule: a class, or an import path `my_package.my_module:Name`.
        arguments: rule.arguments.
        heads: those that it is for: scalar, c51, qr, iqn.

    Returns:
        What was checked, in words.

    Raises:
        CheckFailed: with what is wrong.
    """
    done = []
    for head in heads:
        words = [f"rule={named(plugins.RULE, rule, arguments)}", f"head={head}"]
        config = configured(*CHAIN, *words, *(["head.v_min=-1", "head.v_max=1.5"] if head == "c51" else []))
        config.rule.arguments = dict(arguments or {})
        checks = [*updates_agree(config, (Chain.ROOMS,)), *resumes(config, BRIEFLY)]
        checks += learns(config) if learn else ()
        done += [f"head={head}: {one}" for one in checks]
    return done


def check_env(env: str, arguments: Mapping[str, Any] | None = None, *, steps: int = 300) -> list[str]:
    """Check that an environment of your own suits training.

    - Gymnasium's own checker has no objection.
    - The same seeds and actions give the same games, which a bit-identical resume needs.
    - A run that is stopped and resumed ends bit-identical to an untouched one.

    Args:
        env: `my_package.my_module:MyEnv-v0`, or a registered name.
        arguments: env.arguments.
        steps: how long games are compared.

    Returns:
        What was checked, in words.

    Raises:
        CheckFailed: with what is wrong.
    """
    with told():
        own_modules.allow(env, dict(arguments or {}))
        words = ["env=gymnasium", f"env.game={env}", "env.frame_stack=1"]
        config = configured(*words)
        config.env.arguments = dict(arguments or {})
        one, other = (factory.make_emulators(config.env, 3) for _ in range(2))
    if len(one.frame_shape) == 2:
        config = configured(*words, "network=small_cnn", "env.frame_stack=4")
        config.env.arguments = dict(arguments or {})
    try:
        rng, seeds = np.random.default_rng(1), [11, 12, 13]
        _same(one.reset(seeds), other.reset(seeds), "the first observations")
        for step in range(steps):
            actions = rng.integers(len(one.actions), size=3)
            for emulators in (one, other):
                emulators.send(actions)
            here, there = one.recv(), other.recv()
            for part in ("frames", "rewards", "flags"):
                _same(getattr(here, part), getattr(there, part), f"the {part} of step {step + 1}")
    except RunFailed as error:
        raise CheckFailed(str(error)) from None
    finally:
        one.close()
        other.close()
    bare = gymnasium.make(_spec(env), disable_env_checker=True, **config.env.arguments)
    try:
        env_checker.check_env(bare.unwrapped, skip_render_check=True)
    except Exception as error:
        raise CheckFailed(f"Gymnasium's checker: {error}") from None
    finally:
        bare.close()
    return [
        "Gymnasium's checker has no objection",
        f"the same seeds and actions give the same {steps} steps",
        *resumes(config, BRIEFLY),
    ]


def _spec(env: str) -> Any:
    return environments.find(env)


def _same(one: Any, other: Any, what: str) -> None:
    check(np.array_equal(one, other), f"with the same seeds and actions, {what} differ between two copies")
