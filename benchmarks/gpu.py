"""All figures of a CUDA machine, the first of them what bounds the rest.

    make bench-gpu
    make bench-gpu ARGS="--minutes 5 --num-envs 80"

1. The emulators alone: frames per second with random actions on all cores.
2. An update of 32, in microseconds: eager, as a CUDA graph, and as a graph of compiled networks; with TF32 and without.
3. Acting for all games, from the replay to numbers on the host.
4. The loop end to end for --minutes, with PRESET=nature's schedule: frames, agent steps and updates per second.

`--device cpu` runs the same on a CPU, where a graph is the plain function: to try this script, not to quote.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from race import machine, versions
from speed import measure, wait

from atari_dqn import emulators, networks, optimizers, rules, settings
from atari_dqn import machine as machines
from atari_dqn.agent import Agent
from atari_dqn.config import AgentConfig, Network
from atari_dqn.errors import UserError
from atari_dqn.graphs import graphed
from atari_dqn.replay import Replay

ACTIONS = 4  # Breakout's


def emulator_rate(num_envs: int, seconds: float) -> float:
    """Environment frames per second of the emulators alone."""
    config = settings.to_train_config(settings.compose("train", ["env.game=Breakout"]))
    games = emulators.make(config.env, num_envs)
    games.reset(list(range(num_envs)))
    rng, steps, start = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        games.send(rng.integers(0, ACTIONS, num_envs))
        games.recv()
        steps += num_envs
    games.close()
    return steps * config.env.frame_skip / (time.perf_counter() - start)


def new_agent(device: torch.device, compiled: bool) -> Agent:
    torch.manual_seed(0)
    online = networks.build(Network("nature_cnn"), (84, 84), 4, ACTIONS).to(device)
    optimizer = optimizers.build("NatureRMSProp", online.parameters(), 2.5e-4, {})
    agent = Agent(online, optimizer, rules.build(AgentConfig()), "sum")
    if compiled:
        agent.online.compile()
        agent.target.compile()
    return agent


def filled_replay(device: torch.device, num_envs: int, steps: int) -> Replay:
    replay = Replay(steps // num_envs, num_envs, (84, 84), device=device)
    replay.begin(torch.randint(0, 256, (num_envs, 84, 84), dtype=torch.uint8))
    frames = torch.randint(0, 256, (num_envs, 84, 84), dtype=torch.uint8)
    actions, flags = torch.zeros(num_envs, dtype=torch.uint8), torch.zeros(num_envs, dtype=torch.uint8)
    for _ in range(replay.rows):
        replay.write(actions, torch.rand(num_envs), frames, flags)
    return replay


def timed(function: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median seconds of a call, over five shares of `seconds`."""
    for _ in range(10):
        function()
    wait(device)
    medians = []
    for _ in range(5):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 5:
            function()
            wait(device)
            calls += 1
        medians.append((time.perf_counter() - start) / calls)
    return sorted(medians)[2]


def time_updates_and_acting(args: argparse.Namespace, device: torch.device) -> None:
    replay = filled_replay(device, args.num_envs, min(args.replay, 100_000))
    minibatches = args.num_envs // 4
    for tf32 in (True, False):
        machines.set_tf32(tf32)
        for kind in ("eager", "graph", "graph + compile")[: 2 if args.no_compile else 3]:
            agent, draw = new_agent(device, "compile" in kind), torch.Generator(device).manual_seed(0)

            def learn(n: int, agent: Agent = agent, draw: torch.Generator = draw) -> list[torch.Tensor]:
                return agent.learn(replay.sample(n, 32, draw, 0.99), draw)[1]

            call = graphed(learn, device, [draw]) if "graph" in kind else learn
            seconds = timed(lambda call=call: call(minibatches), device, args.seconds) / minibatches
            print(f"an update, {kind}, {'TF32' if tf32 else 'float32'}: {seconds * 1e6:,.0f} microseconds", flush=True)
    machines.set_tf32(True)
    agent, explore = new_agent(device, False), torch.Generator(device).manual_seed(0)
    act = graphed(lambda: agent.act(replay.newest_stack(), 0.1, explore), device, [explore])
    seconds = timed(lambda: act().cpu(), device, args.seconds)
    print(f"acting for {args.num_envs} games: {seconds * 1e6:,.0f} microseconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-envs", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=10, help="of each part but the last")
    parser.add_argument("--minutes", type=float, default=5, help="of the loop end to end")
    parser.add_argument("--replay", type=int, default=1_000_000, help="capacity in agent steps")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled networks")
    args = parser.parse_args()
    try:
        device = machines.choose_device(args.device)
    except UserError as error:
        print(f"bench-gpu: {error}", file=sys.stderr)
        sys.exit(2)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    print(f"{name}; {machine()}; {versions()}; {args.num_envs} games")

    rate = emulator_rate(args.num_envs, args.seconds)
    print(f"emulators alone: {rate:,.0f} frames/s, so 200M frames take {200e6 / rate / 60:.0f} minutes at least")
    time_updates_and_acting(args, device)
    speed = measure(
        args.minutes * 60, "env.game=Breakout", "preset=nature", f"num_envs={args.num_envs}", f"device={args.device}",
        f"replay.capacity={args.replay}", "replay.warmup_steps=10_000", "exploration.decay_steps=1",
    )  # fmt: skip
    frames = speed.agent_steps * 4
    total = sum(speed.stages.values())
    shares = ", ".join(f"{stage} {seconds / total:.0%}" for stage, seconds in list(speed.stages.items())[:4])
    print(
        f"end to end, {args.minutes:g} minutes: {frames:,.0f} frames/s, {speed.updates:,.0f} updates/s ({shares}); "
        f"200M frames take {200e6 / frames / 60:.0f} minutes"
    )


if __name__ == "__main__":
    main()
