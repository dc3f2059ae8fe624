"""Parts of other kinds than the examples': frozen, recurrent, wrongly shaped; optimizers that count in their groups."""

from importlib import metadata

import numpy as np
import own_parts
import pytest
import torch
from safetensors import safe_open
from test_plugins import own_run
from test_saving import CARTPOLE, assert_equal_runs
from torch import nn

from atari_dqn.checkpoint import checkpoints
from atari_dqn.config import compose
from atari_dqn.dqn.bootstrap import Munchausen
from atari_dqn.exchange import safetensors
from atari_dqn.extend import Callback, Greedy
from atari_dqn.registry import plugins
from atari_dqn.training import launch
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed, UserError

BRIEF = ["env=cartpole", "total_steps=240", "replay.capacity=400", "replay.warmup_steps=200", "evaluation.episodes=1"]


class Frozen(own_parts.Net):
    """Its first layer is frozen, and it has a recurrent one, whose outputs are a tuple."""

    def __init__(self, frame_shape, stack):
        super().__init__(frame_shape, stack)
        self.layers.requires_grad_(False)
        self.recurrent = nn.GRU(32, 32, batch_first=True)

    def forward(self, x):
        return self.recurrent(super().forward(x)[:, None])[0][:, 0]


class Batched(own_parts.Net):
    def __init__(self, frame_shape, stack):
        super().__init__(frame_shape, stack)
        self.layers.append(nn.BatchNorm1d(32))


class Exiting(own_parts.Net):
    def forward(self, x):
        raise SystemExit(3)


class Flat(Greedy):
    """Targets [B], which would broadcast to [B, B]."""

    def target(self, online, m):
        return super().target(online, m).squeeze(-1)


class OneError(Greedy):
    def loss(self, online, z_tm1, y, m):
        loss, error = super().loss(online, z_tm1, y, m)
        return loss, error.mean()


class Counting(torch.optim.Optimizer):
    """Counts in its groups, as Prodigy does, and keeps more numbers of a parameter than it has."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "count": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                last = self.state[p].setdefault("last", torch.zeros(3, *p.shape))
                last[group["count"] % 3] = p.grad
                p.sub_(group["lr"] * (1 + group["count"] % 7) * last.mean(0))


class WithArrays(Counting):
    def step(self, closure=None):
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p]["seen"] = np.ones(2)


class Tied(own_parts.Net):
    def __init__(self, frame_shape, stack):
        super().__init__(frame_shape, stack)
        self.one, self.other = nn.Linear(32, 32), nn.Linear(32, 32)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(self.one(super().forward(x)))


class Unmade(Callback):
    def __init__(self):
        raise ValueError("no")


class Leaving(Callback):
    def step(self, info):
        raise SystemExit(3)


class Clearing(Callback):
    """Takes the rows that it is told for its own, and has a state that contains itself."""

    def evaluation(self, row):
        row.clear()

    def state(self):
        state = {}
        state["itself"] = [state, state]
        return state


class Soft(Munchausen):
    """Derived, with the usual numbers."""


def test_a_frozen_part_stays_as_it_is_and_the_rest_learns(tmp_path):
    run = own_run(tmp_path / "run", *BRIEF, f"network={__name__}:Frozen", f"rule={__name__}:Soft")
    module = run.agent.online.features.module
    before = [weights.clone() for weights in module.parameters()]
    run.go()
    changed = [not torch.equal(one, other) for one, other in zip(before, module.parameters(), strict=True)]
    assert changed[:3] == [False, False, True]


def test_an_optimizer_of_ones_own_resumes_with_its_counts(tmp_path):
    words = [*CARTPOLE, f"optimizer={__name__}:Counting", "total_steps=1_200"]
    own_run(tmp_path / "untouched", *words).go()
    own_run(tmp_path / "stopped", *words, "callbacks=[own_parts:Enough]").go()
    resumed = own_run(tmp_path / "other", *words).config
    again = launch.Run(
        resumed, tmp_path / "stopped", Console(quiet=True), checkpoints.newest(tmp_path / "stopped", print)
    )
    again.go()
    assert_equal_runs(tmp_path / "untouched", tmp_path / "stopped")


def test_tied_weights_are_exported(tmp_path):
    run = own_run(tmp_path / "run", *BRIEF, f"network={__name__}:Tied", "network.initialization=he")
    (tmp_path / "file").write_bytes(safetensors.save(run.agent.online, {}))
    with safe_open(tmp_path / "file", "pt") as file:
        assert torch.equal(file.get_tensor("features.module.other.weight"), run.agent.online.features.module.one.weight)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("network=NAME:Batched", "module.layers.3 is a BatchNorm1d"),
        ("network=NAME:Exiting", "fails on states float32 (1, 1, 4): SystemExit: 3"),
        ("network=own_parts:Idle", "does not use its parameter spare.weight"),
        ("callbacks=[NAME:Unmade]", "callbacks=NAME:Unmade cannot be created: ValueError: no"),
        ("callbacks=[tolled]", "no callback is called 'tolled'"),
        ("trackers=[tolled]", "no tracker is called 'tolled'"),
    ],
)
def test_refused_before_anything_is_written(words, why, tmp_path):
    with pytest.raises(UserError) as told:
        own_run(tmp_path / "run", *BRIEF, words.replace("NAME", __name__))
    assert why.replace("NAME", __name__).removeprefix("module.") in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("rule=NAME:Flat", "target() returns [32]; expected [32, n]"),
        ("rule=NAME:OneError", "loss() returns errors []; expected [32]"),
        ("optimizer=NAME:WithArrays", "the optimizer has a state that a checkpoint cannot keep, ndarray"),
        ("callbacks=[NAME:Clearing]", "the callback Clearing has a state that contains itself"),
        ("callbacks=[NAME:Leaving]", "the callback Leaving failed in step: SystemExit: 3"),
    ],
)
def test_what_would_broadcast_or_leave_ends_the_run(words, why, tmp_path):
    run = own_run(tmp_path / "run", *BRIEF, "update.batch_size=32", words.replace("NAME", __name__))
    with pytest.raises(RunFailed) as told:
        run.go()
    assert why in str(told.value)


def test_what_is_installed_replaces_nothing_of_ours(monkeypatch):
    points = {
        group: [metadata.EntryPoint(name, f"{__name__}:Counting", group) for name in names]
        for group, names in {"atari_dqn.optimizers": ("adam", "mine"), "atari_dqn.envs": ("Pong", "Grid-v0")}.items()
    }
    monkeypatch.setattr(metadata, "entry_points", lambda group: points.get(group, []))
    plugins.installed.cache_clear()
    try:
        assert [compose.plugged(f"optimizer={name}") for name in ("adam", "mine")] == [
            "optimizer=adam", "optimizer.name=mine",
        ]  # fmt: skip
        assert compose.game_name("atari", "Pong") == "Pong" and plugins.is_own(plugins.ENVIRONMENT, "Grid-v0")
    finally:
        plugins.installed.cache_clear()
