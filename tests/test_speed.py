"""Every fast path against its plain twin."""

import copy
import resource
import time

import pytest
import torch
from conftest import flat, small_run
from recording import Recording
from torch import nn

from atari_dqn.config.schema import AgentConfig, Network
from atari_dqn.dqn import bootstrap, inputs, layers, networks
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.loop import due, epsilon_at, training_loop
from atari_dqn.dqn.replay import Replay
from atari_dqn.envs.base import ORDINARY, TERMINAL
from atari_dqn.training.optimizers import make_optimizer
from atari_dqn.utils import devices, machine, seeding
from atari_dqn.utils.graphs import EAGER_CALLS, graphed, scripted
from atari_dqn.utils.stopwatch import Stopwatch

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")


def filled(device: str = "cpu", num_envs: int = 3) -> tuple[Replay, torch.Generator]:
    """A small replay, and what its next frames are drawn with."""
    replay, rng = Replay(50, num_envs, (36, 36), device=device), torch.Generator().manual_seed(5)
    replay.begin(torch.randint(0, 256, (num_envs, 36, 36), dtype=torch.uint8, generator=rng))
    for _ in range(70):
        step(replay, rng)
    return replay, rng


def step(replay: Replay, rng: torch.Generator) -> None:
    n = replay.num_envs
    ended = torch.rand(n, generator=rng) < 0.1
    replay.write(
        torch.randint(0, 4, (n,), generator=rng),
        torch.randn(n, generator=rng),
        torch.randint(0, 256, (n, 36, 36), dtype=torch.uint8, generator=rng),
        torch.where(ended, TERMINAL, ORDINARY).to(torch.uint8),
    )


def new_agent(optimizer: str = "Adam", device: str = "cpu", script: bool = False, fuse: bool = False) -> Agent:
    torch.manual_seed(1)
    online = networks.make_network(Network("nature_cnn"), (36, 36), 4, 4).to(device)
    adam = make_optimizer(optimizer, online.parameters(), 1e-3, {})
    agent = Agent(online, adam, bootstrap.make_rule(AgentConfig()), "sum", script=script, fuse=fuse)
    with torch.no_grad():
        for parameter in agent.target.parameters():  # another network, so that the two cannot be mistaken
            parameter.mul_(0.9)
    return agent


def test_dense_layer_equals_torchs_with_gradients():
    assert layers.HAS_ONE_DNN or not torch.backends.mkldnn.is_available()
    dense, x = layers.Dense(600, 170), torch.randn(9, 600, requires_grad=True)
    plain = nn.Linear(600, 170)
    plain.load_state_dict(dense.state_dict())
    g = torch.randn(9, 170)
    fast = torch.autograd.grad(dense(x), [x, *dense.parameters()], g)
    slow = torch.autograd.grad(plain(x), [x, *plain.parameters()], g)
    torch.testing.assert_close(dense(x), plain(x))
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other)


def test_targets_of_a_whole_turn_equal_those_of_each_update():
    together, alone = new_agent(), new_agent()
    (replay, _), draw = filled(), torch.Generator()
    _, together.gradients = together.learn(replay.sample(6, 8, torch.Generator().manual_seed(2), 0.9, 3), draw)
    draw = torch.Generator().manual_seed(2)
    for _ in range(6):
        _, alone.gradients = alone.learn(replay.sample(1, 8, draw, 0.9, 3), draw)
    torch.testing.assert_close(flat(together.online), flat(alone.online), rtol=1e-4, atol=1e-6)
    assert together.losses() == pytest.approx(alone.losses(), rel=1e-4)
    assert together.gradient_norm() == pytest.approx(alone.gradient_norm(), rel=1e-3)


def test_scripted_updates_equal_eager_ones_to_the_bit():
    script, eager = new_agent(script=True), new_agent()
    replay, rng = filled()
    draw, twin_draw = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    for turn in range(8):
        step(replay, rng)
        size = 8 if turn % 2 else 5  # two shapes, two scripts
        _, script.gradients = script.learn(replay.sample(2, size, draw, 0.9), draw)
        _, eager.gradients = eager.learn(replay.sample(2, size, twin_draw, 0.9), twin_draw)
        assert all(one != script._differentiate for one in script._differentiated.made.values())
    assert len(script._differentiated.made) == 2 and eager._differentiated == eager._differentiate
    assert torch.equal(flat(script.online), flat(eager.online))
    assert script.losses() == eager.losses() and script.gradient_norm() == eager.gradient_norm()


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "size"), [(4, 8, 4, 84), (32, 4, 2, 20), (64, 3, 1, 9), (3, 5, 5, 45)]
)
def test_a_convolution_as_a_product_equals_torchs_with_gradients(channels, kernel, stride, size):
    layer = layers.Convolution(channels, 16, kernel, stride).to(torch.float64, memory_format=torch.channels_last)
    x = torch.randn(3, channels, size, size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    found = []
    for layer.as_product in (False, True):
        y = layer(x)
        with torch.no_grad():
            assert torch.equal(layer(x), y)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for plain, product in zip(*found, strict=True):
        torch.testing.assert_close(product, plain)
        assert product.stride() == plain.stride()  # so that the optimizer's kernels take weights and gradients alike
    layer.as_product = True
    assert layer(x[..., 1:, :]).shape == (3, 16, (size - 1 - kernel) // stride + 1, y.shape[3])  # torch's own way


def test_updates_to_be_compiled_as_a_whole_equal_eager_ones(monkeypatch):
    monkeypatch.setattr(layers, "HAS_ONE_DNN", False)  # as on a GPU
    monkeypatch.setattr(inputs, "interleaved", lambda states: states)
    fused, eager = new_agent("NatureRMSProp", fuse=True), new_agent("NatureRMSProp")
    (replay, _), draw = filled(), torch.Generator()
    with torch.compiler.set_stance("force_eager"):  # the operators as the compiler is given them
        for turn in range(3):
            for agent in (fused, eager):
                batch = replay.sample(2, 8, draw.manual_seed(turn), 0.9)
                _, agent.gradients = agent.learn(batch, draw)
    assert len(fused._differentiated.made) == 1 and eager._differentiated == eager._differentiate
    torch.testing.assert_close(flat(fused.online), flat(eager.online), rtol=1e-4, atol=1e-6)
    assert fused.losses() == pytest.approx(eager.losses(), rel=1e-5)
    assert fused.gradient_norm() == pytest.approx(eager.gradient_norm(), rel=1e-4)


def test_what_cannot_be_scripted_stays_a_function():
    def asks(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum().item() > 0 else x

    assert scripted(asks, torch.ones(2)) is asks


@pytest.mark.parametrize("optimizer", ["Adam", "NatureRMSProp", "SGD"])
def test_a_recorded_turn_of_updates_replays_as_if_called(optimizer, monkeypatch):
    """All that changes from turn to turn is in tensors, and nothing waits for the device: a CUDA graph can do it."""
    monkeypatch.setattr(inputs, "interleaved", lambda states: states)  # OpenCV's work would not be recorded
    weights, losses = [], []
    for recorded in (False, True):
        agent, draw = new_agent(optimizer), torch.Generator().manual_seed(3)
        replay, rng = filled()

        def learn(agent=agent, replay=replay, draw=draw):
            return agent.learn(replay.sample(2, 8, draw, 0.9, 3), draw)[1]

        learn()  # as `graphed` does, so that the optimiser has begun
        recording = Recording(learn) if recorded else None
        for turn in range(60):  # once more around the ring
            if recording:
                agent.gradients = recording.replay() if turn else recording.result
            else:
                agent.gradients = learn()
            step(replay, rng)
        weights.append(flat(agent.online))
        losses.append((*agent.losses(), agent.gradient_norm()))
    assert torch.equal(*weights) and losses[0] == losses[1]
    assert losses[0][2] == 2 * 61  # updates, all counted on the device


def test_recorded_acting_replays_as_if_called(monkeypatch):
    monkeypatch.setattr(inputs, "interleaved", lambda states: states)
    agent, epsilon = new_agent(), torch.tensor(0.5)
    replay, rng = filled()
    twin, twin_rng = filled()
    explore, twin_explore = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    recording = Recording(lambda: agent.act(replay.newest_stack(), epsilon, explore))
    assert torch.equal(recording.result, agent.act(twin.newest_stack(), 0.5, twin_explore))
    for turn in range(40):
        step(replay, rng)
        step(twin, twin_rng)
        epsilon.fill_(turn / 40)
        assert torch.equal(recording.replay(), agent.act(twin.newest_stack(), turn / 40, twin_explore))


def test_on_a_cpu_a_graph_is_the_function_itself():
    assert graphed(max, torch.device("cpu"), []) is max


def sequential_reference(run, seeds: list[int]) -> torch.Tensor:
    """Algorithm 1 with everything one by one: a stack, an action, a minibatch, a target; plain layers and Adam."""
    config, replay = run.config, run.replay
    online, target = copy.deepcopy(run.agent.online), copy.deepcopy(run.agent.target)
    adam = torch.optim.Adam(online.parameters(), lr=config.optimizer.learning_rate, foreach=False, fused=False)

    def q(network, stack):
        x = (stack.float() / 255).unsqueeze(0).contiguous()
        for layer in network.features.convolutions:
            x = layer(x)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for layer in network.head:
            x = nn.functional.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
        return x[0]

    replay.begin(torch.from_numpy(run.emulators.reset(seeds)))
    steps = 0
    while steps < config.total_steps:
        epsilon = epsilon_at(steps, config.replay.warmup_steps, config.exploration)
        random = torch.rand(config.num_envs, generator=run.streams.exploration) < epsilon
        anything = torch.rand(config.num_envs, run.agent.online.num_actions, generator=run.streams.exploration).argmax(
            1
        )
        with torch.no_grad():
            best = torch.stack([q(online, stack).argmax() for stack in replay.newest_stack()])
        actions = torch.where(random, anything, best)
        steps += config.num_envs
        if replay.size >= config.replay.warmup_steps:
            for _ in range(due(config.update.period_steps, steps - config.num_envs, steps)):
                batch = replay.sample(1, config.update.batch_size, run.streams.replay, config.agent.discount)
                losses = []
                for s_tm1, a_tm1, r_t, discount_t, s_t in zip(*(part[0] for part in batch[:5]), strict=True):
                    with torch.no_grad():
                        y = r_t + discount_t * q(target, s_t).max()
                    losses.append(nn.functional.smooth_l1_loss(q(online, s_tm1)[a_tm1], y))
                adam.zero_grad()
                torch.stack(losses).mean().backward()
                adam.step()
        if due(config.update.target_period_steps, steps - config.num_envs, steps):
            target.load_state_dict(online.state_dict())
        run.emulators.send(actions.numpy())
        turn = run.emulators.recv()
        replay.write(actions, *(torch.from_numpy(x) for x in (turn.rewards, turn.frames, turn.flags)))
    return flat(online)


@pytest.mark.parametrize("num_envs", [1, 8])
def test_the_loop_equals_a_sequential_one(tmp_path, num_envs):
    """Real frames of Pong, N games and K updates in a turn; the same draws, so the same weights to rounding."""
    words = [
        "env.game=Pong", f"num_envs={num_envs}", "total_steps=200", "replay.warmup_steps=80",
        "update.target_period_steps=40", "update.batch_size=8", "exploration.decay_steps=100",
    ]  # fmt: skip
    reference, run = small_run(tmp_path / "reference", *words), small_run(tmp_path / "run", *words)
    start = flat(run.agent.online).clone()
    expected = sequential_reference(reference, seeding.derive(run.config.seed, "games", 0, count=num_envs))
    list(training_loop(run.emulators, run.replay, run.agent, run.config, run.streams))
    learned = flat(run.agent.online)
    moved = (learned - start).abs().max()
    assert moved > 1e-3  # 30 updates of about the learning rate, 1e-4
    assert (learned - expected).abs().max() < 0.02 * moved
    assert torch.equal(run.replay.actions, reference.replay.actions)
    assert torch.equal(run.replay.frames, reference.replay.frames)


def test_freed_memory_is_kept():
    """Else each tensor of a few megabytes costs thousands of page faults, every time."""
    if not machine.keep_freed_memory():
        pytest.skip("this C library has no mallopt")

    def allocate() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(2_000_000) for _ in range(4)]
        del tensors
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults = [allocate() for _ in range(10)]
    assert sum(faults[2:]) < 1_000  # 8 * 7,800 otherwise


def test_stopwatch_counts_each_stage():
    settled = []
    watch = Stopwatch(lambda: settled.append(1))
    torch.randn(500, 500) @ torch.randn(500, 500)
    watch.lap("work")
    watch.lap("nothing")
    watch.lap("nothing")
    assert list(watch.since({})) == ["work", "nothing"] and len(settled) == 3
    before = dict(watch.seconds)
    time.sleep(0.02)
    watch.skip()
    watch.lap("nothing")
    passed = watch.since(before)
    assert passed["work"] == 0 and 0 < passed["nothing"] < 0.02


@needs_cuda
@pytest.mark.parametrize("optimizer", ["Adam", "NatureRMSProp"])
def test_cuda_graph_equals_eager(optimizer, monkeypatch):
    device, weights = torch.device("cuda"), []
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # else Adam makes rounding as large as a step
    devices.set_tf32(False)
    for graphs in (False, True):
        agent, draw = new_agent(optimizer, "cuda"), torch.Generator("cuda").manual_seed(3)
        replay, rng = filled("cuda")

        def learn(n, agent=agent, replay=replay, draw=draw):
            return agent.learn(replay.sample(n, 8, draw, 0.9), draw)[1]

        call = graphed(learn, device, [draw]) if graphs else learn
        for turn in range(4 * EAGER_CALLS):
            step(replay, rng)
            agent.gradients = call(1 + turn % 2)
        weights.append(flat(agent.online))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


@needs_cuda
def test_replay_on_a_gpu_equals_the_one_on_the_cpu():
    host, rng = filled()
    device, device_rng = filled("cuda")
    for _ in range(60):
        step(host, rng)
        step(device, device_rng)
        assert torch.equal(host.newest_stack(), device.newest_stack().cpu())
    assert torch.equal(host.frames, device.frames.cpu()) and torch.equal(host.flags, device.flags.cpu())
    rows, envs = torch.arange(20, 40), torch.arange(20) % 3
    ours = device._transitions(rows.cuda(), envs.cuda(), 0.9, 3, 1.0)
    for part, other in zip(host._transitions(rows, envs, 0.9, 3, 1.0), ours, strict=True):
        torch.testing.assert_close(part, other.cpu())
