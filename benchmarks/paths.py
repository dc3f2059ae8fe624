"""Compare each fast path with its plain equivalent: milliseconds, medians of alternating calls.

.venv/bin/python benchmarks/paths.py
"""

import itertools
import resource
import statistics
import time
from collections.abc import Callable

import torch
from gpu import composed, filled_replay
from race import machine, versions
from torch import nn

from atari_dqn.config.schema import AgentConfig, Network
from atari_dqn.dqn import bootstrap, inputs, layers, networks
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.replay import Replay
from atari_dqn.training.optimizers import make_optimizer
from atari_dqn.utils import machine as machines

REPEATS = 60


def race(name: str, plain: Callable[[], object], fast: Callable[[], object]) -> None:
    times: dict[Callable[[], object], list[float]] = {plain: [], fast: []}
    for number, function in itertools.product(range(REPEATS), (plain, fast)):
        start = time.perf_counter()
        function()
        if number >= 10:
            times[function].append(time.perf_counter() - start)
    slow, quick = (1e3 * statistics.median(times[function]) for function in (plain, fast))
    print(f"{name:<62} {slow:7.2f} {quick:7.2f}  {slow / quick:5.1f} times", flush=True)


def backward(layer: nn.Module, x: torch.Tensor, g: torch.Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(layer(x), [x, *layer.parameters()], g)


def page_faults(agent: Agent, replay: Replay, draw: torch.Generator) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        agent.learn(replay.sample(4, 32, draw, 0.99), draw)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 80


def main() -> None:
    torch.manual_seed(0)
    replay, draw = filled_replay(composed("nature", 16), torch.device("cpu"), 16_000), torch.Generator().manual_seed(0)
    online = networks.make_network(Network("nature_cnn"), (84, 84), 4, 6)
    optimizer = make_optimizer("Adam", online.parameters(), 1e-4, {})
    agent = Agent(online, optimizer, bootstrap.make_rule(AgentConfig()), "mean")

    print(f"{machine()}; {versions()}; {torch.get_num_threads()} threads\n{'':<62}   plain    fast")
    agent.learn(replay.sample(4, 32, draw, 0.99), draw)
    given_back = page_faults(agent, replay, draw)
    machines.keep_freed_memory()
    page_faults(agent, replay, draw)
    kept = page_faults(agent, replay, draw)
    print(f"{'page faults per update: memory returned / kept':<62} {given_back:7.0f} {kept:7.0f}")

    x, g = torch.randn(32, 3136, requires_grad=True), torch.randn(32, 512)
    dense, linear = layers.Dense(3136, 512), nn.Linear(3136, 512)
    race("the dense layer, forwards and backwards: torch / oneDNN", backward(linear, x, g), backward(dense, x, g))

    states = replay.sample(1, 32, draw, 0.99).s_t[0]
    race(
        "32 states to channels-last floats: torch / OpenCV",
        lambda: states.to(torch.float32).contiguous(memory_format=torch.channels_last) * (1 / 255),
        lambda: inputs.scaled(states),
    )
    rows, envs = torch.randint(4, 1000, (128,)), torch.randint(0, 16, (128,))
    race(
        "gathering 512 frames: indexing bytes / index_select of words",
        lambda: replay.frames[(rows.unsqueeze(1) + torch.arange(-3, 1)), envs.unsqueeze(1)],
        lambda: replay.stack(rows, envs),
    )
    with torch.no_grad():
        batch = replay.sample(4, 32, draw, 0.99)
        race(
            "targets of 4 updates: one by one / together",
            lambda: [agent.target(states) for states in batch.s_t],
            lambda: agent.target(batch.s_t.flatten(0, 1)),
        )
    default = networks.make_network(Network("nature_cnn"), (84, 84), 4, 6)
    default.to(memory_format=torch.contiguous_format)
    twin = Agent(default, torch.optim.Adam(default.parameters(), 1e-4), bootstrap.make_rule(AgentConfig()), "mean")
    race(
        "4 updates, convolutions in torch's order and Adam unfused / ours",
        lambda: twin.learn(replay.sample(4, 32, draw, 0.99), draw),
        lambda: agent.learn(replay.sample(4, 32, draw, 0.99), draw),
    )


if __name__ == "__main__":
    main()
