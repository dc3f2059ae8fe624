"""What joins the parts: real runs, with an unusual value for every constant, against what their configs say.

`make mutants` breaks the program in one place at a time, and expects these tests to notice.
"""

import copy
import dataclasses
import math

import numpy as np
import plain
import pytest
import torch
from conftest import flat, small_run
from test_saving import Stop

from atari_dqn.checkpoint import checkpoints
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import compose
from atari_dqn.dqn import networks
from atari_dqn.envs import atari, factory
from atari_dqn.envs.atari import atari_actions
from atari_dqn.envs.base import CUT, ORDINARY, TERMINAL, Game
from atari_dqn.evaluation import evaluate
from atari_dqn.evaluation.player import make_player
from atari_dqn.tracking import curves
from atari_dqn.tracking.callback import Callback
from atari_dqn.training.run import Run

DICE = [
    "env=gymnasium", "env.game=Probe/Dice-v0", "env.frame_stack=2", "env.frame_skip=2", "env.max_frames=11", "seed=7",
    "num_envs=3", "total_steps=180", "network.hidden=[7,5]", "replay.capacity=130", "replay.warmup_steps=51",
    "update.period_steps=2", "update.batch_size=4", "update.target_period_steps=13", "agent.discount=0.83",
    "agent.reward_clip=0.9", "exploration.end=0.3", "exploration.decay_steps=70", "evaluation.every_steps=100",
    "evaluation.episodes=2", "evaluation.num_envs=1", "compute.graphs=false",
]  # fmt: skip
PRIORITIZED = [
    "replay.prioritized=true", "replay.priority_exponent=0.83", "replay.importance_start=0.3",
    "replay.importance_end=0.9", "replay.importance_steps=140",
]  # fmt: skip
SGD = ["optimizer.name=SGD", "optimizer.learning_rate=0.02", "+optimizer.arguments.momentum=0.7"]
VARIANTS = {
    "nature": [
        "optimizer=nature_rmsprop", "optimizer.learning_rate=2e-3", "optimizer.arguments.decay=0.8",
        "optimizer.arguments.eps=0.03", "agent.reduction=sum", "agent.n_step=2", "exploration.begin_steps=80",
    ],
    "double": [
        *SGD, *PRIORITIZED, "agent.double=true", "agent.dueling=true", "agent.dueling_gradient_scale=0.6",
        "agent.n_step=3", "agent.loss=squared", "optimizer.max_grad_norm=0.4", "update.tau=0.03",
        "optimizer.schedule=linear", "optimizer.schedule_steps=140", "optimizer.final_learning_rate=0.005",
        "update.target_period_steps=2", "exploration.temperature=0.4",
    ],
    "rainbow": [
        *PRIORITIZED, "agent.double=true", "agent.dueling=true", "agent.noisy=true", "agent.noisy_sigma=0.9",
        "agent.n_step=2", "head=c51", "head.atoms=7", "head.v_min=-3", "head.v_max=4", "optimizer.learning_rate=0.01",
        "+optimizer.arguments.eps=0.01", "+optimizer.arguments.betas=[0.8,0.95]", "exploration.start=0.2",
        "exploration.end=0.05", "compute.graphs=true",
    ],
    "qr": [
        *SGD, *PRIORITIZED, "head=qr", "head.quantiles=4", "agent.reward_clip=null", "exploration.persistence=1.2",
        "exploration.start=0.8",
    ],
    "iqn": [
        *SGD, *PRIORITIZED, "head=iqn", "head.cosines=6", "head.samples=3", "head.target_samples=4",
        "head.policy_samples=5", "agent.noisy=true", "agent.noisy_sigma=0.2", "agent.n_step=2",
    ],
    "der": [
        *SGD, *PRIORITIZED, "agent.double=true", "agent.dueling=true", "agent.dueling_shared=true", "agent.noisy=true",
        "agent.noisy_sigma=0.3", "head=c51", "head.atoms=5", "head.v_min=-2", "head.v_max=3", "update.repeats=2",
        "update.period_steps=3", "head.priority=cross_entropy",
    ],
    "munchausen": [
        *SGD, *PRIORITIZED, "agent.munchausen=true", "agent.munchausen_alpha=0.7", "agent.munchausen_temperature=0.4",
        "agent.munchausen_floor=-0.5", "agent.reduction=sum", "agent.noisy=true", "head=iqn", "head.cosines=4",
        "head.samples=4", "head.target_samples=6", "head.policy_samples=3", "optimizer.learning_rate=0.005",
    ],
}  # fmt: skip


class Log(Callback):
    """Everything that a run tells, and the weights at its evaluations."""

    def __init__(self, run: Run) -> None:
        self.run, self.records, self.episodes, self.evaluations, self.weights = run, [], [], [], []
        self.measured = []

    def step(self, info):
        self.records.append(info)

    def episode(self, row):
        self.episodes.append(row)

    def metrics(self, row):
        self.measured.append(row)

    def evaluation(self, row):
        self.evaluations.append(row)
        self.weights.append(plain.weights_of(self.run.agent.online))


def moved(start: plain.Weights, end: plain.Weights) -> torch.Tensor:
    return torch.cat([(end[name] - start[name]).detach().flatten() for name in start])


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert torch.linalg.norm(wanted) > 0.1  # there is something to be wrong about
    assert torch.linalg.norm(found - wanted) < 1e-3 * torch.linalg.norm(wanted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_does_what_its_config_says(variant, tmp_path, monkeypatch):
    """Games, actions, replay, draws, weights, priorities: all that a run leaves equals a plain run of the same seed."""
    run = small_run(tmp_path / "run", *DICE, *VARIANTS[variant])
    c, log, errors, update = run.config, Log(run), [], run.replay.update_priorities
    monkeypatch.setattr(
        run.replay, "update_priorities", lambda batch, some: (errors.append(some.clone()), update(batch, some))
    )
    start, learner = plain.weights_of(run.agent.online), plain.Learner(c, run.agent.online, errors)
    assert torch.equal(flat(run.agent.online), flat(run.agent.target))
    run.go(log)
    learner.go()

    told = [(r.agent_steps, r.updates, r.epsilon, [(g.env, g.score, g.length_frames) for g in r.games])
            for r in log.records]  # fmt: skip
    assert [t[:2] for t in told] == [t[:2] for t in learner.told] and told[-1][1] > 60
    assert [t[2] for t in told] == pytest.approx([t[2] for t in learner.told])
    games = [game for *_, some in told for game in some]
    assert games == learner.games.ended and len(games) > 10
    assert [(row["env"], row["return"], row["length_frames"]) for row in log.episodes] == games
    flags = np.array(learner.games.flags)
    assert (flags == TERMINAL).sum() > 5 and (flags == CUT).sum() > 5

    replay, plainly = run.replay, learner.games
    assert replay.rows == learner.rows == 45 and replay.written == len(plainly.frames[0]) == 61  # it has wrapped around
    for t in range(replay.written - replay.rows, replay.written):
        row = t % replay.rows
        assert replay.flags[row].tolist() == [flags[t] for flags in plainly.flags]
        np.testing.assert_array_equal(replay.frames[row], [frames[t] for frames in plainly.frames])
        if t + 1 < replay.written:
            assert replay.actions[row].tolist() == [actions[t] for actions in plainly.actions]
            np.testing.assert_allclose(replay.rewards[row], [rewards[t] for rewards in plainly.rewards], rtol=1e-6)
    for mine, its in ((run.streams.exploration, learner.explore), (run.streams.replay, learner.draw)):
        assert torch.equal(mine.get_state(), its.get_state())

    assert_near(moved(start, plain.weights_of(run.agent.online)), moved(start, learner.online))
    assert_near(moved(start, plain.weights_of(run.agent.target)), moved(start, learner.target))
    if c.replay.prioritized:
        values = replay.priorities.values.view(replay.rows, c.num_envs).tolist()
        newest = replay.written - 1
        for t in range(newest - replay.rows + c.env.frame_stack, newest - c.agent.n_step + 1):
            wanted = [learner.priorities[t, i] * (plainly.flags[i][t] == ORDINARY) for i in range(c.num_envs)]
            assert values[t % replay.rows] == wanted
        assert int(replay._highest) == learner.highest > plain.ONE
        assert len({value for row in values for value in row}) > 40  # learned, each by itself


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_weights_are_those_of_the_config_and_its_seed(variant, tmp_path):
    run = small_run(tmp_path / "run", *DICE, *VARIANTS[variant])
    c = run.config
    torch.manual_seed(plain.stream(c.seed, "network")[0])
    fresh = networks.make_network(c.network, (3,), 2, 3, c.head, c.agent)
    assert torch.equal(flat(run.agent.online), flat(fresh))
    shapes = {name: tuple(part.shape) for name, part in run.agent.online.named_parameters()}
    each = {"c51": c.head.atoms, "qr": c.head.quantiles}.get(c.head.name, 1)
    mean = ".mean" if c.agent.noisy else ""
    hidden, last = ("shared.0", "head.0") if c.agent.dueling_shared else ("head.0", "head.2")
    assert shapes["features.layers.0.weight"] == (7, 2 * 3) and shapes[f"{hidden}{mean}.weight"] == (5, 7)
    assert shapes[f"{last}{mean}.weight"] == (3 * each, 5)
    assert ("value.0.weight" in shapes or "value.0.mean.weight" in shapes) == c.agent.dueling
    if c.head.name == "iqn":
        assert shapes["embedding.weight"] == (7, c.head.cosines)
    for name, part in run.agent.online.named_parameters():
        if "spread" in name:
            inputs = shapes[name.rpartition(".")[0] + ".weight"][1]
            assert part.unique().tolist() == pytest.approx([c.agent.noisy_sigma / math.sqrt(inputs)])
    run.emulators.close()


EXAMINED = [
    *DICE, "total_steps=240", "evaluation.every_steps=60", "evaluation.episodes=5", "evaluation.num_envs=2",
    "evaluation.held_out_states=7", "protocol.epsilon=0.25", "protocol.max_frames=15", "optimizer.learning_rate=0.02",
    "seed=3",
]  # fmt: skip


NOISY = ["agent.noisy=true", "head=qr", "head.quantiles=4", "seed=9"]


@pytest.mark.parametrize("words", [[], NOISY], ids=["dqn", "noisy"])
def test_evaluations_are_those_of_the_config(words, tmp_path):
    """Seeds, epsilon, quotas, time limits, held-out states and the choice of the best, against games played plainly."""
    run = small_run(tmp_path / "run", *EXAMINED, *words)
    c, log = run.config, Log(run)
    run.go(log)
    assert [(row["agent_steps"], row["network"]) for row in log.evaluations] == [
        (60, "current"), (120, "current"), (180, "current"), (240, "current"), (240, "best"),
    ]  # fmt: skip
    means: list[float] = []
    for row, weights in zip(log.evaluations[:-1], log.weights, strict=False):
        scores = plain.evaluate(c, weights, plain.stream(c.seed, f"evaluation/{row['agent_steps']}")[0])
        assert (row["mean"], row["sd"]) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
        assert (row["episodes"], row["max"]) == (5, max(scores))
        assert row["best"] == (not means or row["mean"] > max(means))
        assert row["held_out_q"] == pytest.approx(plain.held_out_q(c, weights), rel=1e-4)
        means.append(row["mean"])
    chosen = int(np.argmax(means))
    assert 0 < chosen < 3  # neither the first nor the last one
    best = Checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best.agent_steps == log.evaluations[chosen]["agent_steps"]
    for name, part in best.network.named_parameters():
        assert torch.equal(part, log.weights[chosen][name])
    again = plain.evaluate(c, log.weights[chosen], plain.stream(c.seed, "fresh evaluation/240")[0])
    assert log.evaluations[-1]["mean"] == pytest.approx(np.mean(again)) != means[chosen]
    assert run.evaluator.best_score == pytest.approx(means[chosen])

    # The same network played later, under another protocol.
    other = dataclasses.replace(c.protocol, name="other", epsilon=0.4, max_frames=9)
    seated = make_player(best, other, None)
    result = evaluate.evaluate(best, other, *seated, episodes=4, num_envs=3, seed=11)
    few = dataclasses.replace(c.evaluation, episodes=4, num_envs=3)
    scores = plain.evaluate(dataclasses.replace(c, protocol=other, evaluation=few), log.weights[chosen], 11)
    assert sorted(result["returns"]) == pytest.approx(sorted(scores))


def test_of_equal_networks_the_first_is_the_best(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", *EXAMINED)
    monkeypatch.setattr(run.evaluator, "_play", lambda player, seed: [Game(0, score, 9, False) for score in (1, 2)])
    log = Log(run)
    run.go(log)
    assert [row["best"] for row in log.evaluations] == [1, 0, 0, 0, 0]
    assert Checkpoint(tmp_path / "run" / "checkpoints" / "best.pt").agent_steps == 60


def test_what_is_due_comes_when_the_config_says(tmp_path, monkeypatch):
    run = small_run(
        tmp_path / "run", *DICE, "total_steps=201", "checkpoint.every_steps=70", "logger.every_steps=45",
        "evaluation.every_steps=80",
    )  # fmt: skip
    log, saved, save = Log(run), [], run.saver.save
    monkeypatch.setattr(run.saver, "save", lambda: (saved.append(run.agent_steps), save()))
    run.go(log)
    assert [r.agent_steps for r in log.records] == list(range(3, 202, 3))
    assert saved == [72, 141, 201, 201]  # and at the end, before and after the best network's games
    assert [row["agent_steps"] for row in log.measured] == [45, 90, 135, 180, 201]
    assert [row["frames"] for row in log.measured] == [90, 180, 270, 360, 402]
    assert [row["agent_steps"] for row in log.evaluations] == [81, 162, 201, 201]
    rows = curves.read(tmp_path / "run" / "metrics.csv")
    assert [float(row["epsilon"]) for row in rows] == pytest.approx(
        [record.epsilon for record in log.records if record.agent_steps in (45, 90, 135, 180, 201)]
    )


def test_goals_are_reached_by_consecutive_games_and_end_the_run_where_they_should(tmp_path):
    goals = "[{score: 9, games: 3, note: three}, {score: 9.5, games: 4, note: four, stop: true}]"
    run = small_run(tmp_path / "run", *DICE, "total_steps=3_000", "replay.warmup_steps=130", f"env.goals={goals}")
    log, said = Log(run), []
    run.say = said.append
    run.go(log)
    returns, ends = [row["return"] for row in log.episodes], {}
    for count, score in ((3, 9), (4, 9.5)):
        ends[count] = next(k for k in range(count, len(returns) + 1) if np.mean(returns[k - count : k]) >= score)
    assert ends[3] < ends[4]
    reached = [text.split(":")[0] for text in said if "consecutive" in text]
    assert reached == ["three", "four"] and run.goals.reached == reached
    last = log.episodes[ends[4] - 1]["agent_steps"]
    assert run.agent_steps == last < 3_000 and all(row["agent_steps"] <= last for row in log.episodes)


def test_a_resumed_run_goes_on_with_its_counts(tmp_path):
    """Without its replay it fills a new one, but epsilon, updates and the importance of priorities go on."""
    run = small_run(tmp_path / "run", *DICE, *PRIORITIZED, "checkpoint.replay=false", "exploration.decay_steps=100")
    before = Log(run)
    run.go(before, Stop(run, 120))
    again = Run(run.config, tmp_path / "run", run.console, checkpoints.newest(tmp_path / "run", print))
    assert int(again.replay._before) == 120 and again.replay._exponent == 0.83
    after, learner = Log(again), plain.Learner(run.config, run.agent.online)
    again.go(after)
    assert [r.agent_steps for r in after.records] == list(range(123, 181, 3))
    assert [r.epsilon for r in after.records] == pytest.approx([learner.epsilon(step) for step in range(120, 180, 3)])
    updates = before.records[-1].updates
    assert after.records[0].updates == updates > 20
    # 51 steps are played before a turn can learn: that from 171 to 174 on.
    assert after.records[-1].updates == updates + plain.multiples(2, 171, 180)


# -------------------------------------------------------------------------------------------------------------- Atari

ATARI = [
    "env.game=Breakout", "network=small_cnn", "env.screen_size=40", "env.frame_skip=3", "env.frame_stack=2",
    "env.repeat_action_probability=0.13", "env.noop_max=7", "env.fire_reset=true", "env.max_frames=450",
    "env.full_action_space=false", "env.terminal_on_life_loss=true", "num_envs=3", "total_steps=1_500",
    "replay.capacity=2_000", "replay.warmup_steps=2_000", "protocol.repeat_action_probability=0.21",
    "protocol.noop_max=4", "protocol.fire_reset=false", "protocol.max_frames=60", "protocol.full_action_space=true",
    "protocol.epsilon=0.9", "evaluation.held_out_states=3", "evaluation.every_steps=1_500", "evaluation.episodes=1",
    "evaluation.num_envs=1",
]  # fmt: skip


class Watched:
    """The ALE's vector environment, and what it was told and answered."""

    made: list["Watched"] = []  # noqa: RUF012

    def __init__(self, game: str, num_envs: int, **settings) -> None:
        self.inner = self.AtariVectorEnv(game, num_envs, **settings)
        self.game, self.num_envs, self.settings = game, num_envs, settings
        self.answers, self.seeds = [], []
        Watched.made.append(self)

    def reset(self, *, seed=None, options=None):
        answer = self.inner.reset(seed=seed, options=options)
        if seed is not None:
            self.seeds.append(seed.tolist())
            self.lives = answer[1]["lives"].copy()
        return answer

    def send(self, actions):
        assert actions.max() < (18 if self.settings["full_action_space"] else 4)  # else the ALE waits for ever
        self.actions = actions.copy()
        self.inner.send(actions)

    def recv(self):
        answer = self.inner.recv()
        self.answers.append((self.actions, *copy.deepcopy(answer)))
        return answer

    def close(self):
        self.inner.close()


def test_ataris_settings_reach_the_emulators_and_its_flags_the_replay(tmp_path, monkeypatch):
    monkeypatch.setattr(Watched, "AtariVectorEnv", atari.AtariVectorEnv, raising=False)
    monkeypatch.setattr(Watched, "made", [])
    monkeypatch.setattr(atari, "AtariVectorEnv", Watched)
    run = small_run(tmp_path / "run", *ATARI)
    log, c = Log(run), run.config
    run.go(log)
    training, *others = Watched.made
    assert (training.game, training.num_envs, len(training.seeds)) == ("breakout", 3, 1)
    assert training.seeds[0] == plain.stream(c.seed, "games/0", 3)
    wanted = {
        "stack_num": 1, "frameskip": 3, "img_height": 40, "img_width": 40, "repeat_action_probability": 0.13,
        "full_action_space": False, "noop_max": 8, "life_loss_info": True, "use_fire_reset": True,
        "reward_clipping": False,
    }  # fmt: skip
    assert {key: training.settings[key] for key in wanted} == wanted
    asked = wanted | {
        "repeat_action_probability": 0.21, "full_action_space": True, "noop_max": 5, "life_loss_info": False,
        "use_fire_reset": False,
    }  # fmt: skip
    (examined,) = [other for other in others if other.seeds]
    assert {key: examined.settings[key] for key in asked} == asked
    # The only network's game, of 20 steps, which is not played again; then three held-out states by random play.
    acted = [int(answer[0][0]) for answer in examined.answers]
    (seed,), every = plain.stream(c.seed, "held-out states/0"), atari_actions("Breakout", True)
    draw = plain.generator(seed, "held-out actions")
    assert len(acted) == 20 + 30
    assert acted[20:] == [int(torch.randint(18, (1,), generator=draw)) for _ in range(30)]
    known = set(atari_actions("Breakout", False))  # to the network, and played by their meanings
    assert {every[action] for action in acted[:20]} == known

    # A lost life or a game over ends a state for good, a time limit cuts it off; games end with neither lives nor cuts.
    lives, played, over = training.lives.copy(), [0] * 3, [False] * 3
    flags, ended = [[ORDINARY] * 3], []
    for _, _, _, terminated, _, info in training.answers:
        flags.append([])
        for i in range(3):
            now, lost = int(info["lives"][i]), False
            if over[i]:
                played[i], over[i], flag = 0, False, ORDINARY
            else:
                played[i] += 3
                lost = now < lives[i]
                over[i] = now == 0 or played[i] >= 450
                flag = TERMINAL if lost else CUT if over[i] else ORDINARY
                assert lost == bool(terminated[i])
                if over[i]:
                    ended.append((i, played[i]))
            flags[-1].append(flag)
            lives[i] = now
    assert run.replay.flags[: run.replay.written].tolist() == flags
    found = np.array(flags)
    assert (found == TERMINAL).sum() > 10 and len(ended) >= 3
    assert [(row["env"], row["length_frames"]) for row in log.episodes] == ended

    # FIRE is pressed in place of what was chosen after each lost life, and there only.
    pressed = np.array([answer[0] for answer in training.answers])
    chosen = run.replay.actions[: len(pressed)].numpy()
    before = np.array([training.lives, *(answer[5]["lives"] for answer in training.answers[:-1])])
    after_life = (found[:-1] == TERMINAL) & (before > 0)
    np.testing.assert_array_equal(pressed, np.where(after_life, 1, chosen))
    assert after_life.sum() > 10
    shown = found[:-1] != CUT  # after a time limit the next game is shown, which the emulator was then asked for
    rewards = np.array([answer[2] for answer in training.answers])
    np.testing.assert_array_equal(run.replay.rewards[: len(rewards)], np.where(shown, rewards, 0))
    frames = np.array([answer[1][:, 0] for answer in training.answers])
    np.testing.assert_array_equal(run.replay.frames[1 : len(flags)].numpy()[shown], frames[shown])


class Scripted:
    """In place of the ALE's: a game with nine lives, of which a new one has five; each step pays 1."""

    def __init__(self, *_, **__) -> None:
        self.sent = []

    @staticmethod
    def shown(lives: int) -> tuple[np.ndarray, dict]:
        return np.zeros((1, 1, 84, 84), np.uint8), {"lives": np.array([lives])}

    def reset(self, *, seed=None, options=None):
        return self.shown(5 if seed is None else 9)

    def send(self, actions):
        self.sent.append(int(actions[0]))

    def recv(self):
        frames, info = self.shown(9)
        return frames, np.ones(1), np.array([False]), np.array([False]), info


def test_a_cut_game_leaves_nothing_to_the_next(monkeypatch):
    """Neither a reward nor, for its lives, a FIRE."""
    monkeypatch.setattr(atari, "AtariVectorEnv", Scripted)
    words = ["env.game=Breakout", "env.fire_reset=true", "env.max_frames=8"]
    envs = factory.make_emulators(compose.to_train_config(compose.compose("train", words)).env, 1)
    envs.reset([1])
    turns = []
    for _ in range(5):
        envs.send(np.zeros(1, np.int64))
        turns.append(envs.recv())
    assert [int(turn.flags[0]) for turn in turns] == [ORDINARY, CUT, ORDINARY, ORDINARY, CUT]
    assert [float(turn.rewards[0]) for turn in turns] == [1, 1, 0, 1, 1]
    assert [game[1:4] for turn in turns for game in turn.games] == [(2, 8, True), (2, 8, True)]
    assert envs._envs.sent == [0] * 5
