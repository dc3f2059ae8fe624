"""Every variant on problems whose optimum is known, and every combination on the fast paths and through a stop."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import flat, small_run
from probes import Chain, Memory
from recording import Recording
from test_saving import CARTPOLE, PONG, Stop, assert_equal_runs, go_on
from test_speed import filled, step

from atari_dqn import networks, rules, settings, targets
from atari_dqn.agent import Agent, boltzmann
from atari_dqn.agent import make as make_agent
from atari_dqn.config import AgentConfig, Head, Network
from atari_dqn.errors import UserError

NOISY = ["agent.noisy=true", "exploration.start=0", "exploration.end=0"]
PRIORITIZED = ["replay.prioritized=true", "replay.importance_steps=5_000"]
VARIANTS = {
    "dqn": [],
    "double": ["agent.double=true"],
    "dueling": ["agent.dueling=true", "agent.dueling_gradient_scale=0.7071"],
    "noisy": NOISY,
    "prioritized": PRIORITIZED,
    "3-step": ["agent.n_step=3"],
    "c51": ["head=c51"],
    "qr": ["head=qr", "head.quantiles=25"],
    "iqn": ["head=iqn", "head.samples=8", "head.target_samples=8"],
    "munchausen": ["agent.munchausen=true"],
    "soft copies": ["update.tau=0.02", "update.target_period_steps=4"],
    "Boltzmann": ["exploration.temperature=0.3", "exploration.end=0"],
    "squared": ["agent.loss=squared"],
    "rainbow": ["head=c51", "agent.double=true", "agent.dueling=true", "agent.n_step=3", *NOISY, *PRIORITIZED],
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def support(variant: str, low: float, high: float) -> list[str]:
    """The range of returns, for those that must be told."""
    return [f"head.v_min={low}", f"head.v_max={high}"] if "head=c51" in VARIANTS[variant] else []


# ----------------------------------------------------------------------------------------------------- known optima


def munchausen_values(discount: float, alpha: float, temperature: float, floor: float) -> np.ndarray:
    """The fixed point of Munchausen value iteration on the chain."""
    q = np.zeros((Chain.ROOMS, 2))
    for _ in range(2000):
        log_pi = (q - q.max(1, keepdims=True)) / temperature
        log_pi -= np.log(np.exp(log_pi).sum(1, keepdims=True))
        soft = (np.exp(log_pi) * (q - temperature * log_pi)).sum(1)
        for room, action in itertools.product(range(Chain.ROOMS), range(2)):
            after, reward, end = Chain.outcome(room, action)
            bonus = alpha * np.clip(temperature * log_pi[room, action], floor, 0)
            q[room, action] = reward + bonus + (0 if end else discount * soft[after])
    return q


@each_variant
def test_chain_values_equal_the_table(tmp_path, variant):
    """Mean values of the distributional ones; of several steps the optimal action's, for they follow the behaviour."""
    discount, greedy_only = 0.8, variant in ("3-step", "rainbow")
    run = small_run(
        tmp_path / "run", "env=gymnasium", "env.game=Probe/Chain-v0", "num_envs=4", "total_steps=7_000",
        "replay.warmup_steps=500", "replay.capacity=4_000", "update.period_steps=4", "update.target_period_steps=100",
        f"agent.discount={discount}", f"exploration.end={0.1 if greedy_only else 0.6}", "exploration.decay_steps=1_000",
        "optimizer.learning_rate=2e-3", "network.hidden=[32]", "evaluation.episodes=2", "seed=3", *VARIANTS[variant],
        *support(variant, -1, 1.5),
    )  # fmt: skip
    run.go()
    learnt = run.agent.online.q_values(torch.eye(Chain.ROOMS).unsqueeze(1)).detach().numpy()
    optimal = Chain.optimal_values(discount)
    best = optimal.argmax(1)
    assert (learnt.argmax(1)[1:] == best[1:]).all()  # in room 0 both are worth the same
    if greedy_only:
        np.testing.assert_allclose(learnt.max(1), optimal.max(1), atol=0.08)
    elif variant == "munchausen":
        agent = run.config.agent
        numbers = agent.munchausen_alpha, agent.munchausen_temperature, agent.munchausen_floor
        np.testing.assert_allclose(learnt, munchausen_values(discount, *numbers), atol=0.06)
    else:
        np.testing.assert_allclose(learnt, optimal, atol=0.05)


@each_variant
def test_memory_is_learnt_from_pixels(tmp_path, variant):
    run = small_run(
        tmp_path / "run", "env=gymnasium", "env.game=Probe/Memory-v0", "network=small_cnn", "env.frame_stack=2",
        "num_envs=4", "total_steps=3_000", "replay.warmup_steps=200", "replay.capacity=4_000", "agent.discount=0.9",
        "update.target_period_steps=100", "exploration.decay_steps=500", "exploration.end=0.2",
        "optimizer.learning_rate=1e-3", "evaluation.episodes=20", *VARIANTS[variant], *support(variant, -1.5, 1.5),
    )  # fmt: skip
    run.go()
    blank, left, right = (torch.from_numpy(Memory.picture(side)) for side in (None, 0, 1))
    states = torch.stack([torch.stack(pair) for pair in ((left, blank), (right, blank))])
    values = run.agent.online.q_values(states)
    assert values.argmax(1).tolist() == [0, 1] and run.examiner.best_score == 1.0  # in all games of the evaluation
    np.testing.assert_allclose(values.max(1).values, [1, 1], atol=0.2)


@each_variant
def test_cartpole_is_balanced(tmp_path, variant):
    """195 is what counted as solving CartPole-v0."""
    run = small_run(
        tmp_path / "run", "env=cartpole", "total_steps=24_000", "evaluation.every_steps=6_000", "evaluation.episodes=10",
        "network.hidden=[64,64]", "env.max_frames=300", "optimizer.learning_rate=1e-3", *VARIANTS[variant],
        *support(variant, 0, 100),
    )  # fmt: skip
    run.go()
    assert run.examiner.best_score >= 195


# ------------------------------------------------------------------------------------------------------- combinations

SWITCHES = {
    "head": ("scalar", "c51", "qr", "iqn"),
    "rule": ("agent.double=false", "agent.double=true", "agent.munchausen=true"),
    "agent.dueling": ("false", "true"),
    "agent.noisy": ("false", "true"),
    "replay.prioritized": ("false", "true"),
    "agent.n_step": ("1", "3"),
    "exploration.temperature": ("null", "0.5"),
    "update.tau": ("1", "0.1"),
}
SMALL = ["head.atoms=11", "head.quantiles=5", "head.samples=4", "head.target_samples=3", "head.policy_samples=2"]


def words(combination: tuple[str, ...]) -> list[str]:
    return [
        value if key == "rule" else f"{key}={value}" for key, value in zip(SWITCHES, combination, strict=True)
    ] + SMALL


def is_sound(combination: tuple[str, ...]) -> bool:
    """What theory allows."""
    head, rule, *_, n_step, _, _ = combination
    return "munchausen" not in rule or (head != "c51" and n_step == "1")


ALL = list(itertools.product(*SWITCHES.values()))


def covering_pairs() -> list[tuple[str, ...]]:
    """Sound combinations in which every sound pair of two switches' values is found."""

    def pairs(combination: tuple[str, ...]) -> set[tuple]:
        return set(itertools.combinations(enumerate(combination), 2))

    sound = [combination for combination in ALL if is_sound(combination)]
    missing, chosen = set().union(*map(pairs, sound)), []
    while missing:
        chosen.append(max(sound, key=lambda combination: len(pairs(combination) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


def test_every_combination_composes_or_is_refused_with_a_sentence():
    config = settings.to_train_config(settings.compose("train", SMALL))
    for combination in ALL:
        head, rule, dueling, noisy, prioritized, n_step, temperature, tau = combination
        config.head.name, config.agent.n_step, config.update.tau = head, int(n_step), float(tau)
        config.agent.munchausen, config.agent.double = "munchausen" in rule, rule == "agent.double=true"
        config.agent.dueling, config.agent.noisy = dueling == "true", noisy == "true"
        config.replay.prioritized = prioritized == "true"
        config.exploration.temperature = None if temperature == "null" else float(temperature)
        if is_sound(combination):
            settings.check(config)
        else:
            with pytest.raises(UserError, match=r"agent\.munchausen=true"):
                settings.check(config)


def agents(*overrides: str) -> tuple[Agent, Agent]:
    """One that is scripted and one that is not, alike, whose target networks differ from their online ones."""
    made = []
    for graphs in ("true", "false"):
        config = settings.to_train_config(
            settings.compose("train", ["network=small_cnn", *overrides, f"compute.graphs={graphs}", "env.game=Pong"])
        )
        agent = make_agent(config, (36, 36), 4, torch.device("cpu"))
        with torch.no_grad():
            for parameter in agent.target.parameters():
                parameter.mul_(0.9)
        made.append(agent)
    return made[0], made[1]


@pytest.mark.parametrize("combination", covering_pairs(), ids="-".join)
def test_scripted_and_recorded_updates_equal_eager_ones(combination, monkeypatch):
    script, eager = agents(*words(combination))
    recorded = copy.deepcopy(eager)
    replay, rng = filled()
    draws = [torch.Generator().manual_seed(2) for _ in range(3)]
    monkeypatch.setattr(networks, "interleaved", lambda states: states)  # OpenCV's work would not be recorded

    def learn(agent: Agent, draw: torch.Generator) -> torch.Tensor:
        return agent.learn(replay.sample(2, 5, draw, 0.9, int(combination[5])), draw)[0]

    errors = [learn(agent, draw) for agent, draw in zip((script, eager, recorded), draws, strict=True)]
    assert torch.equal(errors[0], errors[1])
    recording = Recording(lambda: learn(recorded, draws[2]))
    for turn in range(4):
        errors = [learn(script, draws[0]), learn(eager, draws[1]), recording.replay() if turn else recording.result]
        assert torch.equal(errors[0], errors[1]) and torch.equal(errors[1], errors[2])
        step(replay, rng)
    assert all(one != script._differentiate for one in script._scripts.values()) and not eager._scripts
    assert torch.equal(flat(script.online), flat(eager.online))
    assert torch.equal(flat(recorded.online), flat(eager.online))


@pytest.mark.parametrize("combination", covering_pairs(), ids="-".join)
def test_a_stopped_run_goes_on_to_the_bit(combination, tmp_path):
    short = ["total_steps=1_200", "replay.capacity=600", "replay.warmup_steps=200", "checkpoint.every_steps=300"]
    mine = [*CARTPOLE, *words(combination), *short, "network.hidden=[16,16]", "evaluation.every_steps=700"]
    small_run(tmp_path / "untouched", *mine).go()
    run = small_run(tmp_path / "stopped", *mine)
    run.go(Stop(run, 450))
    assert "going on" in go_on(tmp_path / "stopped")
    assert_equal_runs(tmp_path / "untouched", tmp_path / "stopped")


def test_rainbow_from_pixels_goes_on_to_the_bit(tmp_path):
    mine = [*PONG, *VARIANTS["rainbow"], "network=small_cnn"]
    small_run(tmp_path / "untouched", *mine).go()
    run = small_run(tmp_path / "stopped", *mine)
    run.go(Stop(run, 450))
    assert "going on" in go_on(tmp_path / "stopped")
    assert_equal_runs(tmp_path / "untouched", tmp_path / "stopped")
