"""The Python interface."""

import functools
import inspect
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import warnings

import cv2
import gymnasium
import hydra
import numpy as np
import pytest
import torch
from conftest import QUIET, ROOT
from gymnasium.utils.env_checker import check_env

import atari_dqn
from atari_dqn.api.preprocess import Preprocess
from atari_dqn.dqn.replay import Replay
from atari_dqn.envs import factory
from atari_dqn.envs.base import CUT, TERMINAL
from atari_dqn.utils.errors import UserError

CARTPOLE = [
    "env=cartpole", *QUIET, "total_steps=300", "num_envs=2", "replay.warmup_steps=100", "logger.every_steps=100",
    "evaluation.episodes=2", "evaluation.num_envs=2",
]  # fmt: skip
PONG = [
    "env.game=Pong", *QUIET, "total_steps=40", "num_envs=2", "replay.capacity=200", "replay.warmup_steps=20",
    "network=small_cnn", "evaluation.episodes=1", "protocol.max_frames=40",
]  # fmt: skip


@pytest.fixture
def cartpole(shared):
    return shared("api-cartpole", lambda folder: atari_dqn.train([*CARTPOLE, f"run_dir={folder / 'run'}"])) / "run"


@pytest.fixture
def pong(shared):
    return shared("api-pong", lambda folder: atari_dqn.train([*PONG, f"run_dir={folder / 'run'}"])) / "run"


def python(code: str, folder: pathlib.Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])} | more
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


# --- names --------------------------------------------------------------------------------------------------------


def test_names_are_few_and_cost_nothing_until_used(tmp_path):
    code = """
        import sys, atari_dqn
        assert dir(atari_dqn) == sorted(atari_dqn.__all__)
        assert not {"torch", "numpy", "hydra", "gymnasium"} & sys.modules.keys()
        assert atari_dqn.UserError.__name__ == "UserError" and "torch" not in sys.modules
        for name in atari_dqn.__all__:
            getattr(atari_dqn, name)
        print(*atari_dqn.__all__)
        try:
            atari_dqn.nothing
        except AttributeError as error:
            print(error)
    """
    done = python(code, tmp_path)
    names = "Agent Callback Result Run RunFailed UserError __version__ evaluate load make_env make_vec_env runs train"
    assert done.stdout.splitlines() == [names, "module 'atari_dqn' has no attribute 'nothing'"], done.stderr


SIGNATURES = {
    "train": "settings, *, callbacks=(), network=None, rule=None",
    "load": "where, *, device='auto', seed=0, network=None, game=None",
    "make_env": "agent_or_settings, *, game=None, protocol=None, render_mode=None",
    "make_vec_env": "agent_or_settings, num_envs, *, game=None, protocol=None",
    "evaluate": "agent_or_where, *, game=None, protocol=None, episodes=None, num_envs=None, seed=None",
    "runs": "where='runs/'",
    "Agent.act": "self, observation, epsilon=0.0",
    "Agent.q_values": "self, observation",
    "Run.load": "self, *, device='auto', seed=0, network=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_stay_and_each_argument_is_described(name):
    function = functools.reduce(getattr, name.split("."), atari_dqn)
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.name != "self"]
    assert all(one.annotation is not one.empty for one in own) and signature.return_annotation is not signature.empty
    bare = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"
    if name != "Run.load":  # which refers to load
        described = re.findall(r"^    (\w+):", inspect.getdoc(function), re.M)
        assert [one.name for one in own] == [one for one in described if one != "UserError" and one != "RunFailed"]


def test_every_name_is_on_the_page():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^::: atari_dqn\.(\w+)$", page, re.M)} == {*atari_dqn.__all__} - {"__version__"}


def shortened(code):
    """Code of the documentation, with less to play and runs so short that they learn nothing."""
    small = " ".join(one for one in CARTPOLE[1:])
    for long, short in {
        '"env=cartpole': f'"env=cartpole {small}',
        "evaluation.every_steps=10k": "",
        "episodes=10": "episodes=2",
        "num_envs=8": "num_envs=2",
    }.items():
        code = code.replace(long, short)
    return code


def test_the_pages_examples_run(pong, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    shutil.copytree(pong, tmp_path / "runs" / "pong")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) > 8
    exec(shortened("".join(blocks)), namespace := {})
    assert len(namespace["q_values"]) == 6 and namespace["result"].returns and namespace["wrapped"]
    assert "no Atari game is called 'Pnog' (did you mean Pong?)" in capsys.readouterr().out
    assert len(atari_dqn.runs()) == 3


def test_the_notebook_runs(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "notebooks" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs")]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    namespace = {"__name__": "a_notebook"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        exec(shortened(code), namespace)
    assert namespace["run"].config.network.name == "a_notebook:Residual" and namespace["score"] > 0
    assert len(matplotlib.pyplot.get_fignums()) == 3
    matplotlib.pyplot.close("all")


# --- train --------------------------------------------------------------------------------------------------------


class Stopper(atari_dqn.Callback):
    """Stops a run after so many agent steps."""

    def __init__(self, after: int, how=lambda run: run.stop()) -> None:
        self.after, self.how, self.returns = after, how, []

    def start(self, run):
        self.run = run

    def step(self, info):
        if info.agent_steps == self.after:
            self.how(self.run)

    def episode(self, row):
        self.returns.append(row["return"])


def test_a_run_is_trained_stopped_resumed_and_finished(tmp_path, capsys):
    words = " ".join([*CARTPOLE, f"'run_dir={tmp_path / 'a b'}'"])
    threads, callback = torch.get_num_threads(), Stopper(200)
    run = atari_dqn.train(words, callbacks=[callback])
    assert run.folder == tmp_path / "a b" and run.state == "stopped" and "stopped on request" in capsys.readouterr().out
    assert run.episodes()["return"] == callback.returns and len(callback.returns) > 5
    assert atari_dqn.train(f"'resume={run.folder}'").state == "finished"
    assert run.agent_steps == run.frames == 300 and run.config.total_steps == 300
    again = atari_dqn.train(["resume=" + str(run.folder)])
    assert again.folder == run.folder and again.state == "finished" and "is finished" in capsys.readouterr().out
    assert torch.get_num_threads() == threads


def test_ctrl_c_stops_and_saves_and_the_process_goes_on(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    press = Stopper(200, lambda run: signal.raise_signal(signal.SIGINT))
    run = atari_dqn.train([*CARTPOLE, f"run_dir={tmp_path / 'run'}"], callbacks=[press])
    assert run.state == "stopped" and run.load().agent_steps == 200 and signal.getsignal(signal.SIGINT) is before


def test_two_threads_train_at_once_beside_another_programs_hydra(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("mine: 1\n")
    found = {}

    def work(seed):
        words = [*CARTPOLE, f"seed={seed}", "total_steps=150", f"run_dir={tmp_path / str(seed)}"]
        found[seed] = atari_dqn.train(words)

    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert hydra.compose("train") == {"mine": 1}
    assert {seed: (run.state, run.config.seed) for seed, run in found.items()} == {
        1: ("finished", 1), 2: ("finished", 2)
    }  # fmt: skip


def test_a_failed_run_says_why(tmp_path):
    def fail(run):
        raise ValueError("my mistake")

    with pytest.raises(atari_dqn.RunFailed, match="my mistake"):
        atari_dqn.train([*CARTPOLE, f"run_dir={tmp_path / 'run'}"], callbacks=[Stopper(200, fail)])
    (run,) = atari_dqn.runs(tmp_path)
    assert run.state == "failed" and "my mistake" in run.detail


# --- load and act -------------------------------------------------------------------------------------------------


def test_an_agent_is_found_by_a_run_a_folder_a_file_or_latest(cartpole, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(cartpole)
    monkeypatch.chdir(tmp_path)
    best = cartpole / "checkpoints" / "best.pt"
    for where in (cartpole, str(cartpole), cartpole / "checkpoints", best, "latest"):
        agent = atari_dqn.load(where)
        assert agent.path.samefile(best) and agent.agent_steps == 300
        assert agent.config.env.game == "CartPole-v1" and agent.actions == ("ACTION0", "ACTION1")


def test_actions_are_those_of_the_largest_q_values(pong):
    agent = atari_dqn.load(pong, device="cpu")
    states = np.random.default_rng(1).integers(256, size=(600, 4, 84, 84), dtype=np.uint8)
    with torch.no_grad():
        wanted = agent.network.q_values(torch.from_numpy(states)).numpy()
    values = agent.q_values(states)
    assert values.dtype == np.float32 and values.shape == (600, 6) and np.allclose(values, wanted, atol=1e-6)
    assert (agent.act(states) == values.argmax(1)).all() and agent.act(states).dtype == np.int64
    for one in (states[3], torch.from_numpy(states[3]), states[3].tolist(), states[3].astype(np.int32)):
        assert np.allclose(agent.q_values(one), values[3], atol=1e-6)
        assert agent.act(one) == values[3].argmax() and type(agent.act(one)) is int
    assert agent.q_values(states[:0]).shape == (0, 6) and agent.act(states[:0]).shape == (0,)


def test_random_actions_follow_from_the_seed(pong):
    states = np.zeros((500, 4, 84, 84), np.uint8)
    first, same, other = (atari_dqn.load(pong, seed=seed).act(states, epsilon=0.5) for seed in (1, 1, 2))
    assert (first == same).all() and (first != other).any()
    best = atari_dqn.load(pong).act(states)
    assert 0.3 < (first != best).mean() < 0.55  # half of them random, a sixth of those the best


# --- environments -------------------------------------------------------------------------------------------------


def replayed(config, steps, seed):
    """What training sees: emulators, and stacks from the replay; actions from a fixed generator."""
    envs, rng = factory.make_emulators(config.env, 1), np.random.default_rng(0)
    history = Replay(config.env.frame_stack + 1, 1, envs.frame_shape, torch.uint8, config.env.frame_stack)
    history.begin(torch.from_numpy(envs.reset([seed])))
    yield None, history.newest_stack()[0].numpy(), 0.0, 0
    for _ in range(steps):
        action = rng.integers(len(envs.actions), size=1)
        envs.send(action)
        turn = envs.recv()
        history.write(
            torch.from_numpy(action), torch.zeros(1), torch.from_numpy(turn.frames), torch.from_numpy(turn.flags)
        )
        yield int(action[0]), history.newest_stack()[0].numpy(), float(turn.rewards[0]), int(turn.flags[0])
    envs.close()


def test_an_environment_shows_what_training_sees(pong):
    """Equal stacks, rewards and ends for 500 agent steps, over a truncation; and from raw frames, gray or in RGB."""
    settings = ["env.game=Breakout", "protocol.noop_max=0", "protocol.max_frames=800"]
    env = atari_dqn.make_env(settings)
    config = env.unwrapped  # the ALE's own
    assert config.ale.getFloat("repeat_action_probability") == 0
    from atari_dqn.api.envs import trained_as

    trained = trained_as([*settings, "env.noop_max=0", "env.max_frames=800", "env.terminal_on_life_loss=false"])
    raw = gymnasium.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0, obs_type="rgb")
    preprocess = Preprocess(env.made_of, env.actions, (84, 84), "uint8")
    wrapped = preprocess.wrap(raw)
    seen, _ = env.reset(seed=7)
    assert (wrapped.reset(seed=7)[0] == seen).all()
    over, ends = False, 0
    for action, stack, reward, flag in replayed(trained, 500, 7):
        if action is not None and over:
            (seen, _), over = env.reset(), False
            assert (wrapped.reset()[0] == seen).all()
        elif action is not None:
            seen, got, terminated, truncated, _ = env.step(action)
            assert (got, terminated, truncated) == (reward, flag == TERMINAL, flag == CUT)
            also, *rest = wrapped.step(action)
            assert (also == seen).all() and rest[:3] == [got, terminated, truncated]
            over = terminated or truncated
            ends += over
        if flag != TERMINAL:
            assert (seen == stack).all()
    assert ends >= 2
    assert env.observation_space.contains(seen)


def test_raw_frames_become_observations(pong):
    """Of RGB as of the ALE's gray, after the maximum of two frames."""
    agent = atari_dqn.load(pong)
    env = atari_dqn.make_env(agent, protocol={"noop_max": 0})
    ale = env.unwrapped.ale
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    kept = {"gray": [], "rgb": []}
    for _ in range(60):
        before = None
        action = [*ale.getMinimalActionSet()][rng.integers(6)]
        for _ in range(4):
            before = {"gray": ale.getScreenGrayscale(), "rgb": ale.getScreenRGB()}
            ale.act(action)
        kept["gray"].append(np.maximum(before["gray"], ale.getScreenGrayscale()))
        kept["rgb"].append(np.maximum(before["rgb"], ale.getScreenRGB()))
    wanted = np.stack([cv2.resize(frame, (84, 84), interpolation=cv2.INTER_AREA) for frame in kept["gray"][-4:]])
    assert (agent.preprocess(kept["gray"][-4:]) == wanted).all() and len({*wanted.flatten().tolist()}) > 10
    assert (agent.preprocess(kept["gray"][-1:])[:3] == 0).all()
    assert (agent.preprocess(kept["rgb"][-4:]) == wanted).mean() > 0.99
    assert agent.preprocess.frame_skip == 4 and agent.preprocess.shape == (4, 84, 84)
    assert repr(agent.preprocess) == "Preprocess(Pong: frame_skip=4, frame_stack=4, screen_size=84, uint8 (4, 84, 84))"


@pytest.mark.filterwarnings("ignore:.*(is different from the unwrapped|value is -?infinity)")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("which", ["pong", "cartpole"])
def test_an_environment_is_a_sound_gymnasium(which, request):
    agent = atari_dqn.load(request.getfixturevalue(which))
    env = atari_dqn.make_env(agent, render_mode="rgb_array")
    check_env(env)
    env = gymnasium.make(env.spec)
    seen, _ = env.reset(seed=1)
    assert env.action_space.n == len(agent.actions) and agent.act(seen) in env.action_space
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape == {"pong": (210, 160, 3), "cartpole": (400, 600, 3)}[which]
    assert env.metadata["render_fps"] == {"pong": 15, "cartpole": 50}[which]


@pytest.mark.parametrize("which", ["pong", "cartpole"])
def test_games_side_by_side_equal_a_game_alone(which, request):
    agent, protocol = atari_dqn.load(request.getfixturevalue(which)), {"max_frames": 120, "noop_max": 0}
    protocol = protocol if which == "pong" else {"max_frames": 120}
    many = atari_dqn.make_vec_env(agent, 3, protocol=protocol)
    many = gymnasium.wrappers.vector.RecordEpisodeStatistics(many)
    assert many.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP
    alone = [atari_dqn.make_env(agent, protocol=protocol) for _ in range(3)]
    seen, _ = many.reset(seed=[1, 2, 3])
    assert (seen == np.stack([env.reset(seed=i)[0] for i, env in enumerate(alone, 1)])).all()
    rng, over, returns = np.random.default_rng(0), np.zeros(3, bool), np.zeros(3)
    for _ in range(70):
        actions = rng.integers(len(agent.actions), size=3)
        seen, rewards, terminated, truncated, info = many.step(actions)
        assert many.observation_space.contains(seen) and rewards.dtype == np.float64
        for i, env in enumerate(alone):
            if over[i]:
                assert rewards[i] == 0 and not terminated[i] and not truncated[i]
                if which == "pong":  # without no-ops or stickiness, any seed is the same game
                    assert (seen[i] == env.reset()[0]).all()
                else:
                    env.reset()
                    env.unwrapped.state = seen[i, 0]
                returns[i] = 0
                continue
            one, reward, *ends, _ = env.step(int(actions[i]))
            returns[i] += reward
            assert reward == rewards[i] and ends == [terminated[i], truncated[i]]
            assert terminated[i] or np.allclose(one, seen[i], atol=1e-6)
        over = terminated | truncated
        if over.any():
            assert info["episode"]["r"][over].tolist() == returns[over].tolist()
    assert info is not None and many.unwrapped.num_envs == 3
    many.close()


def test_an_agents_actions_mean_the_same_in_any_game(pong):
    """Pong's agent knows 6, also where the protocol asks for all 18, or the game has 4."""
    agent = atari_dqn.load(pong)
    for more in ({"game": "Breakout"}, {"protocol": {"full_action_space": True}}):
        asked = more | {"protocol": more.get("protocol", {}) | {"noop_max": 0, "max_frames": 1000}}
        many, one = atari_dqn.make_vec_env(agent, 2, **asked), atari_dqn.make_env(agent, **asked)
        assert one.actions == many.actions == agent.actions and one.action_space.n == many.single_action_space.n == 6
        many.reset(seed=[0, 0])
        one.reset(seed=0)
        for i in np.random.default_rng(0).integers(6, size=30).tolist():
            assert (many.step(np.array([i, i]))[0] == one.step(i)[0]).all()


# --- evaluate and runs --------------------------------------------------------------------------------------------


def test_evaluate_is_the_command(cartpole, inside, tmp_path):
    words = ["checkpoint=" + str(cartpole), "evaluation.episodes=5", "protocol.epsilon=0.3", "seed=4"]
    done = inside("evaluate", *words, f"output={tmp_path / 'e.json'}")
    assert done.returncode == 0, done.stderr
    wanted = json.loads((tmp_path / "e.json").read_text())
    result = atari_dqn.evaluate(atari_dqn.load(cartpole), protocol={"epsilon": 0.3}, episodes=5, seed=4)
    told = result.to_dict()
    for one in (wanted, told):
        del one["seconds"]
    assert told == wanted
    assert result.returns == wanted["returns"] and result.mean == wanted["summary"]["mean"]
    assert result.human_normalized is None and result.protocol["name"] == "greedy-changed"
    default = atari_dqn.evaluate(cartpole).to_dict()
    assert (len(default["returns"]), default["protocol"]["num_envs"], default["protocol"]["seed"]) == (30, 10, 1)


def test_runs_are_read_as_numbers(cartpole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert atari_dqn.runs() == []
    (run,) = atari_dqn.runs(cartpole)
    assert run.folder == cartpole and run.state == "finished" and run.config.seed == 1
    metrics, evaluations = run.metrics(), run.evaluations()
    assert metrics["agent_steps"] == [100, 200, 300] and metrics["epsilon"][0] <= 1
    assert all(type(value) is float for value in metrics["loss"])
    assert evaluations["network"] == ["current", "best"] and evaluations["best"] == [True, False]
    assert evaluations["human_normalised"][0] != evaluations["human_normalised"][0]  # nan
    assert len(run.episodes()["return"]) > 5 and {*map(type, run.episodes()["return"])} == {float}
    pandas = pytest.importorskip("pandas")
    frame = metrics.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame["agent_steps"].tolist() == [100, 200, 300]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        metrics.to_pandas()


def test_a_damaged_row_costs_no_other(cartpole, tmp_path):
    (tmp_path / "config.yaml").write_text((cartpole / "config.yaml").read_text())
    header, first, *rest = (cartpole / "episodes.csv").read_text().splitlines()
    (tmp_path / "episodes.csv").write_text("\n".join([header, first, "x,y", *rest, ""]))
    (run,) = atari_dqn.runs(tmp_path)
    assert len(run.episodes()["return"]) == 1 + len(rest) and run.metrics() == {} and run.agent_steps == 0


# --- wrong input --------------------------------------------------------------------------------------------------

STRANGE = [
    None, -1, 1.5, "", " ", "\0", "x" * 200, b"env", b"\xff", object(), [1], "a=b", "${x}", "'", "-m", float("nan"),
    np.array([1]), ROOT / "README.md", "~nobody/x", "latest",
]  # fmt: skip


def problem(call, *args, **kwargs):
    """What is wrong with the answer to wrong input: it must be a UserError of one short line."""
    told = f"{getattr(call, '__qualname__', call)} {[repr(one)[:40] for one in args]} {str(kwargs)[:80]}"
    try:
        call(*args, **kwargs)
    except UserError as error:
        text = str(error)
        return f"{told}: {text[:500]}" if not text or "\n" in text or len(text) > 600 else ""
    except BaseException as error:
        return f"{told}: {error!r:.300}"
    return f"{told}: accepted"


def test_wrong_input_is_one_sentence(cartpole, pong, tmp_path, monkeypatch):
    """Whatever is given, nothing but UserError comes out."""
    monkeypatch.chdir(tmp_path)
    agent, vector = atari_dqn.load(pong), atari_dqn.load(cartpole)
    state, found = np.zeros((4, 84, 84), np.uint8), []
    for i, wrong in enumerate([*STRANGE, tmp_path]):
        is_something = not isinstance(wrong, str) or bool(wrong.strip())  # else all settings keep their defaults
        calls = [(call, wrong) for call in (atari_dqn.load, atari_dqn.evaluate, atari_dqn.runs)]
        calls += [(one.act, wrong) for one in (agent, vector)]
        calls += [(agent.preprocess, wrong), (agent.preprocess.wrap, wrong), (vector.preprocess, wrong)]
        calls += [(atari_dqn.make_vec_env, agent, wrong)]
        calls += [(call, wrong) for call in (atari_dqn.train, atari_dqn.make_env)] * is_something
        found += [problem(*one) for one in calls]
        keys = [(atari_dqn.load, pong, "device"), (atari_dqn.load, pong, "seed"), (agent.act, state, "epsilon")]
        keys += [(atari_dqn.train, CARTPOLE, "callbacks")]
        if wrong is not None:  # for each value another key: to compose settings takes 0.2 s
            keys += [(atari_dqn.make_env, agent, ("game", "protocol", "render_mode")[i % 3])]
            keys += [(atari_dqn.evaluate, agent, ("episodes", "protocol", "seed", "game", "num_envs")[i % 5])]
        found += [problem(call, one, **{key: wrong}) for call, one, key in keys]
    assert not list(filter(None, found)), "\n".join(filter(None, found))
    assert not (tmp_path / "runs").exists()
