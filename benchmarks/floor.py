"""What an update must cost on this CPU: its convolutions and products alone, as oneDNN computes them, beside ours.

    .venv/bin/python benchmarks/floor.py --rounds 15

By turns: the bare operators of an update of 32 transitions (forward of the online network, gradients by weights and by
all inputs but the pictures, a quarter of the target network's forward for 4 minibatches), a step of torch's fused Adam
on as many weights, and `Agent.learn` on states that are sampled already. Prints medians, and writes them to --output.
"""

import argparse
import collections
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gpu import composed, filled_replay
from race import machine, versions

from atari_dqn.dqn.features import CONVOLUTIONS
from atari_dqn.training import agents
from atari_dqn.utils import machine as machines

BATCH, MINIBATCHES, ACTIONS = 32, 4, 4
ROOT = Path(__file__).parent.parent
aten, onednn = torch.ops.aten, torch.ops.mkldnn
Parts = dict[str, list[Callable[[], object]]]


def convolution(
    parts: Parts, size: int, inputs: int, spec: tuple[int, int, int], dtype: torch.dtype, first: bool
) -> int:
    """Add a convolution's operators; returns the pictures' size after it."""
    channels, kernel, stride = spec
    order = torch.channels_last
    w = torch.randn(channels, inputs, kernel, kernel, dtype=dtype).contiguous(memory_format=order)
    b = torch.randn(channels, dtype=dtype)
    x, many = (
        torch.rand(n, inputs, size, size, dtype=dtype).contiguous(memory_format=order)
        for n in (BATCH, BATCH * MINIBATCHES)
    )
    g = torch.rand_like(torch.conv2d(x, w, b, stride))
    asked = [not first, True, True]
    rest = [channels], [stride, stride], [0, 0], [1, 1], False, [0, 0], 1, asked
    parts["forward"].append(lambda: torch.conv2d(x, w, b, stride))
    parts["gradients"].append(lambda: aten.convolution_backward(g, x, w, *rest))
    parts["target's forward"].append(lambda: torch.conv2d(many, w, b, stride))
    return (size - kernel) // stride + 1


def dense(parts: Parts, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    x, many, g = (torch.rand(*shape, dtype=dtype) for shape in ((BATCH, inputs), (BATCH * 4, inputs), (BATCH, outputs)))
    w, b = torch.randn(outputs, inputs, dtype=dtype), torch.randn(outputs, dtype=dtype)

    def product(a: torch.Tensor, c: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return onednn._linear_pointwise(a, c, bias, "none", [], "")

    g_t = g.t().contiguous()
    parts["forward"].append(lambda: product(x, w, b))
    parts["gradients"] += [lambda: product(g, w.t()), lambda: product(g_t, x.t())]
    parts["target's forward"].append(lambda: product(many, w, b))


def bare(name: str, dtype: torch.dtype) -> Parts:
    """An update's operators by kind."""
    parts: Parts = collections.defaultdict(list)
    convolutions, hidden = CONVOLUTIONS[name]
    size, channels = 84, 4
    for number, spec in enumerate(convolutions):
        size = convolution(parts, size, channels, spec, dtype, number == 0)
        channels = spec[0]
    dense(parts, channels * size * size, hidden, dtype)
    dense(parts, hidden, ACTIONS, dtype)
    return parts


def measured(function: Callable[[], object], times: int = 4) -> float:
    """Milliseconds a call."""
    function()
    start = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", nargs="+", default=[*CONVOLUTIONS])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/floor.csv")
    asked = parser.parse_args()
    machines.keep_freed_memory()
    torch.set_flush_denormal(True)
    cpu = torch.device("cpu")
    replay, draw = filled_replay(composed("default", 16), cpu, 16_000), torch.Generator().manual_seed(0)
    batch = replay.sample(MINIBATCHES, BATCH, draw, 0.99)
    cases: dict[tuple[str, str, str], tuple[Callable[[], object], int]] = {}
    for precision in asked.precisions:
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        for name in asked.networks:
            config = composed("default", 16, f"network={name}", f"compute.precision={precision}")
            agent = agents.make_agent(config, (84, 84), ACTIONS, cpu)
            for kind, calls in bare(name, dtype).items():
                share = MINIBATCHES if kind == "target's forward" else 1
                cases[precision, name, kind] = (lambda calls=calls: [call() for call in calls]), share
            weights = [torch.rand_like(weight) for weight in agent.online.parameters()]
            for weight in weights:
                weight.grad = torch.rand_like(weight)
            cases[precision, name, "Adam"] = torch.optim.Adam(weights, fused=True).step, 1
            cases[precision, name, "ours"] = (lambda agent=agent: agent.learn(batch, draw)), MINIBATCHES
    times = collections.defaultdict(list)
    with torch.no_grad():
        for _ in range(asked.rounds):
            for case, (function, share) in cases.items():
                with torch.set_grad_enabled(case[2] == "ours"):
                    times[case].append(measured(function) / share)
    kinds = ["forward", "gradients", "target's forward", "Adam", "ours"]
    print(f"{machine()}; {versions()}; {torch.get_num_threads()} threads; milliseconds an update, medians")
    print(f"{'':18}" + "".join(f"{kind:>18}" for kind in [*kinds[:-1], "their sum", "ours"]))
    with open(asked.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [kind.replace("'", "").replace(" ", "_").lower() for kind in kinds]
        writer.writerow(
            ["precision", "network", *names[:-1], "sum", "ours", "ours_least", "rounds", "machine", "versions"]
        )
        for precision in asked.precisions:
            for name in asked.networks:
                found = [statistics.median(times[precision, name, kind]) for kind in kinds]
                row = [*found[:-1], sum(found[:-1]), found[-1]]
                print(f"{precision:9}{name:11}" + "".join(f"{value:16.2f}" for value in row))
                least = min(times[precision, name, "ours"])
                told = [f"{value:.3g}" for value in (*row, least)]
                writer.writerow([precision, name, *told, asked.rounds, machine(), versions()])


if __name__ == "__main__":
    main()
