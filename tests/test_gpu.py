"""A GPU's ways against the plain ones: each variant with graphs and without, compiled, saved, resumed."""

import pytest
import torch
from conftest import flat, small_run

from atari_dqn import machine
from atari_dqn.training import play_and_learn

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
}
WORDS = [
    "env.game=Pong", "device=cuda", "num_envs=10", "total_steps=600", "replay.warmup_steps=100", "replay.capacity=2000",
    "update.target_period_steps=50", "exploration.start=0.9", "exploration.decay_steps=300", "compute.tf32=false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    yield
    torch.cuda.empty_cache()


def play(folder, *words):
    run = small_run(folder, *WORDS, *words)
    records = play_and_learn(run.emulators, run.replay, run.agent, run.config, run.explore, run.draw)
    last = [(record.updates, run.agent.is_finite()) for record in records][-1]
    run.emulators.close()
    assert last[0] > 100 and last[1]
    return run


@pytest.mark.parametrize("variant", VARIANTS)
def test_graphs_equal_eager(tmp_path, variant):
    """K is 2 and 3 by turns, so two graphs share an optimiser, a generator and the gradients' places."""
    eager = play(tmp_path / "eager", *VARIANTS[variant], "compute.graphs=false")
    graphs = play(tmp_path / "graphs", *VARIANTS[variant], "compute.graphs=true")
    same = (eager.replay.actions == graphs.replay.actions).float().mean()
    worst = (flat(eager.agent.online) - flat(graphs.agent.online)).abs().max()
    print(f"{variant}: actions alike {float(same):.4f}, weights apart by {float(worst):.2e}")
    assert torch.equal(eager.explore.get_state(), graphs.explore.get_state())
    assert torch.equal(eager.draw.get_state(), graphs.draw.get_state())
    assert torch.equal(eager.replay.actions, graphs.replay.actions)
    torch.testing.assert_close(flat(eager.agent.online), flat(graphs.agent.online), rtol=1e-4, atol=1e-6)
    assert eager.agent.losses() == pytest.approx(graphs.agent.losses(), rel=1e-3)


@pytest.mark.parametrize("variant", ["nature", "rainbow"])
def test_compiled_equals_eager_to_rounding(tmp_path, variant):
    few = ["total_steps=200", "update.target_period_steps=20", "exploration.start=1", "exploration.end=1"]
    runs = []
    for words in (["compute.graphs=false"], ["compute.graphs=true", "compute.compile=true"]):
        run = small_run(tmp_path / words[-1], *WORDS, *VARIANTS[variant], *few, *words)
        start = flat(run.agent.online).clone()
        list(play_and_learn(run.emulators, run.replay, run.agent, run.config, run.explore, run.draw))
        run.emulators.close()
        runs.append(flat(run.agent.online))
    moved, apart = (runs[0] - start).norm(), (runs[0] - runs[1]).norm()
    print(f"{variant}: moved {float(moved):.2e}, apart {float(apart):.2e}")
    assert apart < 0.05 * moved


def test_a_run_saves_and_resumes_on_a_gpu(command, tmp_path):
    words = [
        "env.game=Pong", "preset=rainbow", "num_envs=10", "replay.warmup_steps=100", "replay.capacity=2000",
        "device=cuda", "logger.wandb=off", "evaluation.video_seconds=0", "evaluation.episodes=1",
        "evaluation.num_envs=1", "evaluation.every_steps=100_000", "env.max_frames=400", "protocol.max_frames=400",
        "evaluation.held_out_states=20", "checkpoint.every_steps=200", f"run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    first = command("train", *words, "total_steps=600")
    print(first.stdout[-2000:], first.stderr[-2000:])
    assert first.returncode == 0
    second = command("train", f"resume={tmp_path / 'run'}", "total_steps=900")
    print(second.stdout[-2000:], second.stderr[-2000:])
    assert second.returncode == 0 and "not to the bit" not in second.stdout
    played = command(
        "evaluate", f"checkpoint={tmp_path / 'run'}", "evaluation.episodes=2", "protocol.max_frames=400", "device=cuda"
    )
    assert played.returncode == 0, played.stderr


def test_memory_does_not_grow_with_turns(tmp_path):
    run = small_run(tmp_path / "run", *WORDS, "total_steps=2000", "preset=nature")
    seen = []
    for _ in play_and_learn(run.emulators, run.replay, run.agent, run.config, run.explore, run.draw):
        seen.append(torch.cuda.memory_allocated())
    run.emulators.close()
    assert max(seen[-20:]) <= max(seen[-120:-100]) + (1 << 20)
    assert machine.available_memory(torch.device("cuda")) > 0
