"""Learning-rate schedules: their values, that the optimizer uses them, and that a resumed run goes on with them."""

import csv
import math
import shutil

import pytest
import torch
from conftest import flat, small_run
from recording import Recording
from test_saving import Stop, assert_equal_runs, go_on
from test_speed import filled, new_agent, step
from test_wiring import DICE

from atari_dqn.analysis import run_data
from atari_dqn.config.schema import Optimizer
from atari_dqn.dqn import inputs
from atari_dqn.dqn.optimizers import NatureRMSProp, nature_rmsprop
from atari_dqn.dqn.schedules import Schedule, learning_rate_at
from atari_dqn.tracking.csv_files import CsvFiles
from atari_dqn.training.schedules import make_schedule

TORCHS = [
    ("StepLR", {"step_size": 7, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [3, 20, 21]}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("LinearLR", {"start_factor": 0.2, "total_iters": 11}),
    ("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2}),
    ("PolynomialLR", {"total_iters": 30, "power": 2.0}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 4}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 60}),
]
KINDS = {
    "linear": ["optimizer.schedule=linear", "optimizer.schedule_steps=130", "optimizer.final_learning_rate=1e-3"],
    "cosine": ["optimizer.schedule=cosine", "optimizer.schedule_steps=150"],
    "StepLR": ["optimizer.schedule=StepLR", "optimizer.schedule_arguments={step_size: 9, gamma: 0.7}"],
    "restarts": [
        "optimizer.schedule=CosineAnnealingWarmRestarts", "optimizer.schedule_arguments={T_0: 10, T_mult: 2}",
    ],
}  # fmt: skip
FAST = [*DICE, "optimizer.learning_rate=0.02", "logger.every_steps=30", "checkpoint.every_steps=60"]


def host_optimizer(learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=learning_rate)


def chosen(schedule: str, arguments: dict) -> Optimizer:
    return Optimizer(name="SGD", learning_rate=0.1, schedule=schedule, schedule_arguments=arguments)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_values_of_linear_and_cosine(name):
    config = Optimizer(learning_rate=0.1, schedule=name, schedule_steps=40, final_learning_rate=0.02)
    found = [learning_rate_at(agent_steps, config) for agent_steps in range(60)]
    if name == "linear":
        wanted = [0.1 - 0.08 * agent_steps / 40 for agent_steps in range(40)]
    else:
        wanted = [0.06 + 0.04 * math.cos(math.radians(4.5 * agent_steps)) for agent_steps in range(40)]
    assert found == pytest.approx(wanted + 20 * [0.02], abs=1e-12)
    assert (found[0], found[20]) == pytest.approx((0.1, 0.06)) and found[10] != found[11]


@pytest.mark.parametrize(("name", "arguments"), TORCHS, ids=str)
def test_torchs_schedules_are_stepped_as_in_torchs_own_loop(name, arguments, recwarn):
    ours, plain = host_optimizer(0.1), host_optimizer(0.1)
    schedule, theirs = make_schedule(chosen(name, arguments), ours), getattr(torch.optim.lr_scheduler, name)(
        plain, **arguments, **({"cycle_momentum": False} if "max_lr" in arguments else {})
    )  # fmt: skip
    turns, at = [1, 2, 1, 3, 1, 1, 2] * 5, 0
    for updates in turns:  # each turn has its learning rate, and a step of the scheduler for each of its updates
        schedule.begin_turn(999, at)
        assert ours.param_groups[0]["lr"] == plain.param_groups[0]["lr"] == schedule.learning_rate
        for _ in range(updates):
            plain.step()
            theirs.step()
        at += updates
    assert at == 55 and not recwarn.list


def test_one_cycle_rests_at_its_end():
    optimizer = host_optimizer(0.1)
    schedule = make_schedule(chosen("OneCycleLR", {"max_lr": 0.3, "total_steps": 20}), optimizer)
    for updates in (0, 19, 20, 500):
        schedule.begin_turn(0, updates)
    assert schedule.learning_rate == pytest.approx(0.3 / 25 / 1e4) == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_at_the_rate_of_its_schedule(kind, tmp_path):
    """By each update, of K to a turn; and it stands in metrics.csv."""
    run = small_run(tmp_path / "run", *FAST, *KINDS[kind], "optimizer.name=SGD", "update.period_steps=1")
    used, own_step, optimizer = [], run.agent.optimizer.step, run.agent.optimizer

    def recorded():
        used.append((run.agent_steps, optimizer.param_groups[0]["lr"]))
        own_step()

    optimizer.step = recorded
    run.go()
    plain = host_optimizer(0.02)
    theirs = {
        "StepLR": lambda: torch.optim.lr_scheduler.StepLR(plain, 9, 0.7),
        "restarts": lambda: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(plain, 10, 2),
    }.get(kind, lambda: None)()
    wanted = []
    for agent_steps in range(51, 180, 3):
        done = min(1, agent_steps / {"linear": 130}.get(kind, 150))
        rate = {"linear": 0.02 - 0.019 * done, "cosine": 0.01 + 0.01 * math.cos(math.pi * done)}.get(kind)
        wanted += 3 * [(agent_steps, plain.param_groups[0]["lr"] if rate is None else rate)]
        for _ in range(3 if theirs else 0):
            plain.step()
            theirs.step()
    assert [agent_steps for agent_steps, _ in used] == [agent_steps for agent_steps, _ in wanted]
    assert [rate for _, rate in used] == pytest.approx([rate for _, rate in wanted], rel=1e-12, abs=1e-12)
    with open(tmp_path / "run" / "metrics.csv") as file:
        rows = {int(row["agent_steps"]): float(row["learning_rate"]) for row in csv.DictReader(file)}
    rates = dict(wanted)
    assert rows == pytest.approx({30: 0.02} | {end: rates[end - 3] for end in (60, 90, 120, 150, 180)})
    drawn = run_data.entry(tmp_path / "run", 100)["measured"]["learning_rate"]
    assert drawn == pytest.approx([*rows.values()], rel=1e-6)


@pytest.mark.parametrize("kind", ["linear", "StepLR", "restarts"])
def test_a_resumed_run_goes_on_with_its_schedule(kind, tmp_path):
    """Stopped, and then killed: resumed from the checkpoint before."""
    small_run(tmp_path / "untouched", *FAST, *KINDS[kind]).go()
    run = small_run(tmp_path / "run", *FAST, *KINDS[kind])
    run.go(Stop(run, 102))
    killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    (killed / "checkpoints" / "previous.pt").rename(killed / "checkpoints" / "latest.pt")
    shutil.copy(killed / "checkpoints" / "latest.pt", killed / "checkpoints" / "previous.pt")
    for folder, steps in ((tmp_path / "run", 102), (killed, 60)):
        assert f"resuming {folder} after {steps} agent steps" in go_on(folder)
        assert_equal_runs(tmp_path / "untouched", folder)


def test_a_schedule_comes_back_where_it_was():
    """Without stepping there from the start, which takes a minute after ten million updates."""
    config = chosen("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2})
    optimizer, other = host_optimizer(0.1), host_optimizer(0.1)
    schedule, again = make_schedule(config, optimizer), make_schedule(config, other)
    schedule.begin_turn(0, 40)
    state = schedule.state()
    again.restore(state)
    assert again.state() == state and other.param_groups[0]["lr"] == schedule.learning_rate != 0.1
    for wrong in ({"T_cur": "x"}, {"lr": None}, {"last_epoch": True}):
        with pytest.raises(ValueError, match="numbers are none"):
            again.restore(state | {"torch": state["torch"] | wrong})
    for wrong in ({"last_epoch": -(10**9)}, {"last_epoch": 10**9}, {"last_epoch": math.nan}):
        again.restore(state | {"torch": state["torch"] | wrong})
        with pytest.raises(ValueError, match="not where the run is"):
            again.begin_turn(0, 41)


def test_a_scripted_run_equals_a_plain_one(tmp_path):
    weights = []
    for graphs in ("true", "false"):
        run = small_run(tmp_path / graphs, *FAST, *KINDS["linear"], f"compute.graphs={graphs}")
        run.go()
        weights.append(flat(run.agent.online))
    assert torch.equal(*weights)


@pytest.mark.parametrize("optimizer", ["Adam", "NatureRMSProp", "SGD"])
def test_a_recorded_turn_follows_the_schedule(optimizer, monkeypatch):
    """As a CUDA graph has it: the learning rate is a tensor that is filled between replays."""
    monkeypatch.setattr(inputs, "interleaved", lambda states: states)  # OpenCV's work would not be recorded
    config = Optimizer(learning_rate=1e-3, schedule="cosine", schedule_steps=40, final_learning_rate=1e-5)
    weights = []
    for way in ("number", "called", "recorded"):
        agent, draw = new_agent(optimizer), torch.Generator().manual_seed(3)
        schedule = Schedule(agent.optimizer, lambda agent_steps, updates: learning_rate_at(agent_steps, config))
        if way != "number":
            agent.optimizer.param_groups[0]["lr"] = torch.tensor(1e-3)
        replay, rng = filled()

        def learn(agent=agent, replay=replay, draw=draw):
            return agent.learn(replay.sample(2, 8, draw, 0.9, 3), draw)[1]

        learn()  # the optimizer's first step is not recorded
        recording = None
        for turn in range(30):
            schedule.begin_turn(turn, 2 * turn)
            if recording:
                recording.replay()
            elif way == "recorded":
                recording = Recording(learn)
            else:
                learn()
            step(replay, rng)
        weights.append(flat(agent.online))
    number, called, recorded = weights
    assert torch.equal(called, recorded)
    torch.testing.assert_close(number, called, rtol=1e-4, atol=1e-6)


def test_a_compiled_optimizer_is_not_compiled_again_for_another_rate():
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = NatureRMSProp([weights])
    optimizer._apply = torch.compile(nature_rmsprop, dynamic=False, fullgraph=True, backend="eager")
    schedule = Schedule(optimizer, lambda agent_steps, updates: 0.1 / (1 + updates))
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)  # as on a GPU
    torch._dynamo.utils.counters.clear()
    for updates in range(4):
        schedule.begin_turn(0, updates)
        weights.grad = torch.ones(3)
        optimizer.step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_rows_of_a_run_without_the_column_are_kept(tmp_path):
    (tmp_path / "metrics.csv").write_text("frames,agent_steps,updates,seconds,epsilon,loss\n40,10,2,1.5,0.5,0.25\n")
    CsvFiles(tmp_path, 10).close()
    with open(tmp_path / "metrics.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["epsilon"], row["learning_rate"], row["loss"]) == ("0.5", "", "0.25")
