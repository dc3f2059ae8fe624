"""A GPU's ways against the plain ones: each variant with graphs and without, compiled, saved, resumed."""

import pytest
import torch
from conftest import QUIET, flat, small_run
from test_saving import Stop, assert_equal_runs

from atari_dqn.dqn.loop import training_loop
from atari_dqn.utils import devices, machine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")

VARIANTS = {
    "nature": ["preset=nature"],
    "dqn": [],
    "double": ["preset=double_dqn"],
    "dueling": ["preset=dueling"],
    "per": ["preset=per"],
    "n_step": ["agent.n_step=3"],
    "noisy": ["agent.noisy=true"],
    "c51": ["preset=c51"],
    "qr": ["preset=qr_dqn"],
    "iqn": ["preset=iqn"],
    "munchausen": ["preset=munchausen"],
    "rainbow": ["preset=rainbow"],
    "dopamine": ["preset=dopamine"],
    "standardize": ["network.standardize=true"],
    "boltzmann": ["exploration.temperature=1.0"],
    "persistent": ["exploration.persistence=2"],
    "clipped": ["optimizer.max_grad_norm=10"],
    "sgd": ["optimizer.name=SGD"],
    "linear": ["optimizer.schedule=linear", "optimizer.schedule_steps=500"],
    "nature-cosine": ["preset=nature", "optimizer.schedule=cosine", "optimizer.schedule_steps=500"],
    "sgd-step": ["optimizer.name=SGD", "optimizer.schedule=StepLR", "optimizer.schedule_arguments.step_size=40"],
}
WORDS = [
    "env.game=Pong", "device=cuda", "num_envs=6", "total_steps=600", "replay.warmup_steps=100", "replay.capacity=2000",
    "update.target_period_steps=50", "exploration.start=0.9", "exploration.decay_steps=300", "compute.tf32=false",
    "compute.deterministic=true", "compute.compile=false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _tidy():
    yield
    devices.set_deterministic(False, torch.device("cuda"))
    torch.cuda.empty_cache()


def play(folder, *words):
    run = small_run(folder, *WORDS, *words)
    records = training_loop(run.emulators, run.replay, run.agent, run.config, run.streams)
    last = [(record.updates, run.agent.is_finite()) for record in records][-1]
    run.emulators.close()
    assert last[0] > 100 and last[1]
    return run


@pytest.mark.parametrize("variant", VARIANTS)
def test_graphs_equal_eager(tmp_path, variant):
    """K is 1 and 2 by turns, so two graphs share an optimiser, a generator and the gradients' places."""
    eager = play(tmp_path / "eager", *VARIANTS[variant], "compute.graphs=false")
    graphs = play(tmp_path / "graphs", *VARIANTS[variant], "compute.graphs=true")
    same = (eager.replay.actions == graphs.replay.actions).float().mean()
    worst = (flat(eager.agent.online) - flat(graphs.agent.online)).abs().max()
    print(f"{variant}: actions alike {float(same):.4f}, weights apart by {float(worst):.2e}")
    assert torch.equal(eager.streams.exploration.get_state(), graphs.streams.exploration.get_state())
    assert torch.equal(eager.streams.replay.get_state(), graphs.streams.replay.get_state())
    assert torch.equal(eager.replay.actions, graphs.replay.actions)
    torch.testing.assert_close(flat(eager.agent.online), flat(graphs.agent.online), rtol=1e-4, atol=1e-6)
    assert eager.agent.losses() == pytest.approx(graphs.agent.losses(), rel=1e-3)


@pytest.mark.parametrize("variant", ["nature", "rainbow", "nature-cosine"])
def test_compiled_equals_eager_to_rounding(tmp_path, variant):
    few = [
        "total_steps=200", "update.target_period_steps=20", "exploration.start=1", "exploration.end=1",
        "compute.deterministic=false", "replay.priority_exponent=0",  # else last bits choose what is learned from
    ]  # fmt: skip
    runs = []
    for words in (["compute.graphs=false"], ["compute.graphs=true", "compute.compile=true"]):
        run = small_run(tmp_path / words[-1], *WORDS, *VARIANTS[variant], *few, *words)
        start = flat(run.agent.online).clone()
        list(training_loop(run.emulators, run.replay, run.agent, run.config, run.streams))
        run.emulators.close()
        runs.append(flat(run.agent.online))
    moved, apart = (runs[0] - start).norm(), (runs[0] - runs[1]).norm()
    print(f"{variant}: moved {float(moved):.2e}, apart {float(apart):.2e}")
    assert apart < 0.05 * moved


@pytest.mark.parametrize("graphs", ["false", "true"])
@pytest.mark.parametrize("variant", ["nature", "rainbow"])
def test_a_replay_in_host_memory_equals_one_on_the_gpu_to_rounding(tmp_path, variant, graphs):
    """The dice are the same, and with an exponent of 0 all priorities are: the last bits of errors choose nothing."""
    few = ["total_steps=300", "replay.priority_exponent=0", f"compute.graphs={graphs}"]
    runs = {}
    for place in ("cuda", "cpu"):
        run = small_run(tmp_path / place, *WORDS, *VARIANTS[variant], *few, f"replay.device={place}")
        start = flat(run.agent.online).clone()
        list(training_loop(run.emulators, run.replay, run.agent, run.config, run.streams))
        run.emulators.close()
        runs[place] = run
        assert run.replay.frames.device.type == place
    gpu, host = runs["cuda"], runs["cpu"]
    moved = (flat(gpu.agent.online) - start).norm()
    apart = (flat(gpu.agent.online) - flat(host.agent.online)).norm()
    print(f"{variant}: moved {float(moved):.2e}, apart {float(apart):.2e}")
    assert torch.equal(gpu.streams.replay.get_state(), host.streams.replay.get_state())
    assert torch.equal(gpu.agent.batch.rows.cpu(), host.agent.batch.rows)
    assert torch.equal(gpu.replay.actions.cpu(), host.replay.actions)
    assert apart < 0.05 * moved


@pytest.mark.parametrize("place", ["cuda", "cpu"])
def test_a_run_saves_and_resumes_on_a_gpu(command, tmp_path, place):
    words = [
        "env.game=Pong", "preset=rainbow", "num_envs=6", "replay.warmup_steps=100", "replay.capacity=2000",
        "device=cuda", "logger.wandb=off", "evaluation.video_seconds=0", "evaluation.episodes=1",
        "evaluation.num_envs=1", "evaluation.every_steps=100_000", "env.max_frames=400", "protocol.max_frames=400",
        "evaluation.held_out_states=20", "checkpoint.every_steps=200", f"run_dir={tmp_path / 'run'}",
        f"replay.device={place}", "compute.compile=false",
    ]  # fmt: skip
    first = command("train", *words, "total_steps=600")
    print(first.stdout[-2000:], first.stderr[-2000:])
    assert first.returncode == 0 and ("updates are slower" in first.stdout) == (place == "cpu")
    second = command("train", f"resume={tmp_path / 'run'}", "total_steps=900")
    print(second.stdout[-2000:], second.stderr[-2000:])
    assert second.returncode == 0 and "not be bit-identical" not in second.stdout
    played = command(
        "evaluate", f"checkpoint={tmp_path / 'run'}", "evaluation.episodes=2", "protocol.max_frames=400", "device=cuda"
    )
    assert played.returncode == 0, played.stderr


@pytest.mark.parametrize("place", ["cuda", "cpu"])
def test_memory_does_not_grow_with_turns(tmp_path, place):
    run = small_run(tmp_path / "run", *WORDS, "total_steps=2000", "preset=nature", f"replay.device={place}")
    seen = []
    for _ in training_loop(run.emulators, run.replay, run.agent, run.config, run.streams):
        seen.append(torch.cuda.memory_allocated())
    run.emulators.close()
    assert max(seen[-20:]) <= max(seen[-120:-100]) + (1 << 20)
    assert machine.available_memory(torch.device("cuda")) > 0


RESUMED = [
    "checkpoint.every_steps=100", "checkpoint.cut_every_turns=25", "evaluation.every_steps=400", "replay.capacity=500",
    "evaluation.episodes=1", "protocol.max_frames=100", "env.max_frames=300", "logger.every_steps=100",
]  # fmt: skip


@pytest.mark.parametrize("variant", ["nature", "rainbow", "linear", "sgd-step"])
def test_a_resumed_run_ends_as_an_untouched_one(variant, command, tmp_path):
    """To the bit, in a process of its own: nothing that the first one's libraries have settled on helps it."""
    words = [*WORDS, *RESUMED, *VARIANTS[variant], "compute.compile=null", "compute.tf32=true"]
    small_run(tmp_path / "untouched", *words).go()
    run = small_run(tmp_path / "run", *words)
    run.go(Stop(run, 300))
    assert run.agent_steps == 300 and run.updates
    done = command("train", f"resume={tmp_path / 'run'}")
    assert done.returncode == 0 and "not be bit-identical" not in done.stdout, done.stdout + done.stderr
    assert_equal_runs(tmp_path / "untouched", tmp_path / "run")


@pytest.mark.parametrize("variant", ["nature", "rainbow", "iqn", "persistent"])
def test_torchs_own_deterministic_operators_change_nothing(variant, tmp_path):
    """Nor does one raise that has none: what devices.set_deterministic says of the operators we use."""
    ours = play(tmp_path / "ours", *VARIANTS[variant], "compute.graphs=false")
    torch.use_deterministic_algorithms(True)
    try:
        torchs = play(tmp_path / "torchs", *VARIANTS[variant], "compute.graphs=false")
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(ours.replay.actions, torchs.replay.actions)
    assert torch.equal(flat(ours.agent.online), flat(torchs.agent.online))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has not got two GPUs")
@pytest.mark.parametrize(
    "words", [["preset=rainbow"], ["preset=nature", "compute.deterministic=false", "compute.compile=true"]], ids=str
)
def test_a_run_on_the_second_gpu_takes_nothing_of_the_first(words, command, tmp_path):
    torch.cuda.reset_peak_memory_stats(0)
    before = torch.cuda.memory_allocated(0)
    run = play(tmp_path / "run", *words, "device=cuda:1")
    assert torch.cuda.current_device() == 1 and {p.device.index for p in run.agent.online.parameters()} == {1}
    assert machine.facts()["GPU"] == devices.numerics(run.device)["GPU"] == torch.cuda.get_device_name(1)
    assert torch.cuda.max_memory_allocated(0) == before
    again = [*WORDS, *RESUMED, *words, *QUIET, "device=cuda:1", "total_steps=300", f"run_dir={tmp_path / 'saved'}"]
    first = command("train", *again)
    assert first.returncode == 0, first.stderr
    second = command("train", f"resume={tmp_path / 'saved'}", "device=cuda:0", "total_steps=600")
    assert second.returncode == 0 and "new random numbers" not in second.stdout, second.stdout + second.stderr
    played = command("evaluate", f"checkpoint={tmp_path / 'saved'}", "evaluation.episodes=1", "device=cuda:1")
    assert played.returncode == 0, played.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has not got two GPUs")
def test_a_run_after_one_on_the_second_gpu_has_the_first(tmp_path):
    assert devices.choose_device("cuda:1").index == torch.cuda.current_device() == 1
    run = play(tmp_path / "run")
    assert next(run.agent.online.parameters()).device.index == torch.cuda.current_device() == 0
