"""Environments of one's own: a module's, with arguments, with pictures of any layout, and with mistakes in them."""

import contextlib
import dataclasses
import functools
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from conftest import QUIET, sealed, small_run

from atari_dqn.checkpoint import checkpoints
from atari_dqn.cli import make
from atari_dqn.config import compose, schema
from atari_dqn.envs import factory, remote
from atari_dqn.registry import environments, own_modules
from atari_dqn.training import launch
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.viewing import video

GAME = "env.game=own_walk:Walk-v0"
TINY = [
    *QUIET, "total_steps=60", "replay.warmup_steps=20", "replay.capacity=200", "num_envs=2", "evaluation.episodes=2",
    "checkpoint.every_steps=1000",
]  # fmt: skip
WALK = """
import pathlib
import gymnasium, numpy as np

pathlib.Path("imported").touch()

class Walk(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    action_space = gymnasium.spaces.Discrete(2, start=3)
    observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)

    def __init__(self, size=9, level="", render_mode=None):
        self.size, self.level = size, level

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x += 1
        return np.array([self.x], np.float32), 1.0, self.x >= self.size, False, {}

    def render(self):
        return np.full((40, 60, 3), self.x, np.uint8)
"""


@pytest.fixture
def forget(tmp_path, monkeypatch):
    """Forget what was imported and typed, as a new process has."""

    def forget_all() -> None:
        own_modules._specs.clear()
        own_modules._typed.clear()
        environments._tried.clear()
        environments._own_of.cache_clear()
        for name in [name for name in sys.modules if name.startswith("own_")]:
            del sys.modules[name]
        for name in [name for name in gymnasium.registry if name not in registered]:
            del gymnasium.registry[name]
        (tmp_path / "imported").unlink(missing_ok=True)

    registered = {*gymnasium.registry}
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_walk.py").write_text(f"{WALK}\ngymnasium.register('Walk-v0', entry_point=Walk)\n")
    yield forget_all
    forget_all()


def test_a_trip_with_an_environment_of_ones_own(inside, forget, tmp_path):
    """Trained, resumed, evaluated, filmed; imported where its name was typed, and only there."""
    done = inside("train", *TINY, GAME, "env.arguments={size: 3, level: maps/a.txt}", "run_dir=run")
    assert done.returncode == 0, done.stderr
    run, typed = tmp_path / "run", [GAME, "env.arguments.level=maps/a.txt"]
    text = (run / "config.yaml").read_text()
    assert "game: own_walk:Walk-v0" in text and "size: 3" in text
    for words in (
        ["train", "resume=run", "total_steps=80"],
        ["evaluate", "checkpoint=run"],
        ["watch", "checkpoint=run"],
    ):
        forget()
        done = inside(*words)
        assert done.returncode == 2 and f"add {GAME} (with make: GAME=own_walk:Walk-v0)" in done.stderr
        assert not (tmp_path / "imported").exists()
    done = inside("evaluate", "checkpoint=run", GAME)
    assert done.returncode == 2 and "'maps/a.txt', which could name a file" in done.stderr
    forget()
    done = inside("train", "resume=run", "total_steps=80", GAME, "env.arguments={size: 3, level: maps/b.txt}")
    assert done.returncode == 2 and "env.arguments cannot be changed" in done.stderr
    done = inside("train", "resume=run", "total_steps=80", GAME, "env.arguments={size: 3, level: maps/a.txt}")
    assert done.returncode == 0 and "resuming run after 60 agent steps" in done.stdout, done.stderr
    assert {row.split(",")[4] for row in (run / "episodes.csv").read_text().splitlines()[1:]} == {"3"}
    for size, mean, name in (("3", '"mean": 3.0', "greedy"), ("5", '"mean": 5.0', "greedy-2")):
        done = inside("evaluate", "checkpoint=run", *typed, f"env.arguments.size={size}", "evaluation.episodes=2")
        assert done.returncode == 0 and mean in (run / "checkpoints" / f"best-Walk-v0-{name}.json").read_text()
    done = inside("video", "checkpoint=run", *typed)
    assert done.returncode == 0 and (run / "videos" / "best-Walk-v0-seed1.mp4").stat().st_size > 500
    old = "\n".join(
        line for line in text.splitlines() if not line.startswith(("  arguments:", "    size", "    level"))
    )
    assert launch.parsed_config(run, old).env.arguments == {}


def test_no_file_alone_imports_a_module_or_names_a_path(inside, forget, tmp_path):
    (tmp_path / "own_evil.py").write_text((tmp_path / "own_walk.py").read_text())
    small_run(tmp_path / "run", *TINY, "total_steps=20", "env=cartpole").go()
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    content = checkpoints.Checkpoint(path).content
    for changes, line in (
        ({"game": "own_evil:Walk-v0"}, "only imported if you name it"),
        ({"game": "GymV26Environment-v0", "arguments": {"env_id": "own_evil:Walk-v0"}}, "only used if you type it"),
        ({"arguments": {"xml": ["/etc/passwd"]}}, "only used if you type it"),
        ({"arguments": {"render_mode": "human"}}, "set by the program"),
    ):
        hostile = content["config"] | {"env": content["config"]["env"] | changes}
        sealed(content | {"config": hostile}, path)
        for command in ("evaluate", "play"):
            done = inside(command, f"checkpoint={path}")
            assert done.returncode == 2 and line in done.stderr, done.stderr
    assert not (tmp_path / "imported").exists()


def test_actors_of_ray_import_what_the_run_has_imported(forget, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = dataclasses.replace(cartpole(), game="own_walk:Walk", arguments={"size": 2})
    (tmp_path / "own_walk.py").write_text(WALK)  # a class alone
    player = remote.Player(env, 2)
    assert player.reset([1, 2]).tolist() == [[0], [0]] and player.step(np.zeros(2, np.int64)).rewards.tolist() == [1, 1]


def body(space: gymnasium.Space, picture: np.ndarray | None = None, **methods: object) -> type:
    """An environment that shows `picture`."""
    plain = {
        "observation_space": space,
        "action_space": gymnasium.spaces.Discrete(2),
        "reset": lambda env, *, seed=None, options=None: (space.sample() if picture is None else picture, {}),
        "step": lambda env, action: (space.sample() if picture is None else picture, 0.0, False, False, {}),
    }
    return type("Own", (gymnasium.Env,), plain | methods)


@functools.cache
def cartpole() -> schema.Env:
    return compose.environment("CartPole", {})


@contextlib.contextmanager
def made(own: type, monkeypatch: pytest.MonkeyPatch):
    """Its emulators."""
    monkeypatch.setitem(sys.modules, "own_body", SimpleNamespace(Own=own, __name__="own_body"))
    own_modules.allow("own_body:Own")
    env = dataclasses.replace(cartpole(), game="own_body:Own")
    with contextlib.closing(factory.make_emulators(env, 1)) as envs:
        yield envs


RGB = np.random.default_rng(0).integers(0, 256, (90, 100, 3)).astype(np.uint8)
GRAY = RGB[..., :1].repeat(3, -1)


@pytest.mark.parametrize(
    ("picture", "same", "high"),
    [
        (RGB.transpose(2, 0, 1), RGB, 255),
        (np.concatenate([RGB, RGB[..., :1]], -1), RGB, 255),
        (GRAY[..., :1], GRAY, 255),
        (GRAY[None, ..., 0], GRAY, 255),
        ((RGB / 255).astype(np.float32), RGB, 1),
        (RGB.astype(np.float64), RGB, 255),
    ],
    ids=["channels first", "RGBA", "gray", "gray first", "up to 1", "floats"],
)
def test_pictures_of_any_layout_are_seen_alike(picture, same, high, forget, monkeypatch):
    seen = []
    for one in (picture, same):
        space = gymnasium.spaces.Box(0, high if one is picture else 255, one.shape, one.dtype.type)
        with made(body(space, one), monkeypatch) as envs:
            seen.append(envs.reset([1]))
        forget()
    assert seen[0].shape == (1, 84, 84) and seen[0].dtype == np.uint8
    assert np.abs(seen[0].astype(int) - seen[1]).max() <= 1


UNIT = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
FINE = np.zeros(2, np.float32)


def answers(*answer: object) -> dict[str, object]:
    return {"step": lambda env, action: answer}


def raises(error: BaseException):
    def method(*args: object, **kwargs: object) -> None:
        raise error

    return method


@pytest.mark.parametrize(
    ("own", "line"),
    [
        (body(gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)), "set env.frame_stack"),
        (body(gymnasium.spaces.Box(0, 255, (9, 9, 7), np.uint8)), r"\(9, 9, 7\), which is no picture"),
        (body(gymnasium.spaces.Box(-np.inf, np.inf, (64, 64, 3), np.float32)), "-inf to inf"),
        (body(gymnasium.spaces.Box(0, 1, (9, 9, 4), bool)), "pictures of bool"),
        (body(gymnasium.spaces.Dict(a=UNIT)), "only vectors and pictures"),
        (body(gymnasium.spaces.Discrete(5)), "only vectors and pictures"),
        (body(UNIT, FINE, action_space=UNIT), "DQN needs discrete ones"),
        (body(UNIT, FINE, action_space=None), "has no action_space"),
        (body(UNIT, FINE, reset=lambda env: FINE), r"reset\(self, \*, seed=None, options=None\) must return"),
        (body(UNIT, FINE, reset=lambda env, *, seed=None, options=None: FINE), r"reset.* must return"),
        (body(UNIT, FINE, **answers(FINE, 0.0, False, {})), r"step\(self, action\) must return"),
        (body(UNIT, FINE, **answers(FINE[:1], 0.0, False, False, {})), r"the observation is float32 \(1,\)"),
        (body(UNIT, FINE, **answers(FINE * np.nan, 0.0, False, False, {})), "the observation has NaN"),
        (body(UNIT, np.full(2, 1e200)), "the observation has NaN, infinity or a number beyond float32"),
        (body(UNIT, FINE, **answers(FINE, None, False, False, {})), "the reward is None"),
        (body(UNIT, FINE, **answers(FINE, 1e39, False, False, {})), "the reward is 1e.39"),
        (body(UNIT, FINE, **answers(FINE, 10**400, False, False, {})), "the reward is 1000"),
        (body(UNIT, FINE, **answers(FINE, 0.0, np.zeros(2, bool), False, {})), r"terminated is array\(\[False, False"),
        (body(UNIT, FINE, step=raises(type("Panic", (BaseException,), {})("in Rust"))), "Panic: in Rust"),
        (body(UNIT, FINE, step=lambda env, action: {}["key"]), r"failed in step.*KeyError: 'key' \(test_own_env.*line"),
        (body(UNIT, FINE, __init__=lambda env, size: None), "missing 1 required.*'size'; set it with env.arguments="),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_mistakes_in_it_are_told_before_a_run_begins(own, line, forget, monkeypatch):
    with pytest.raises(UserError, match=rf"^own_body:Own .*{line}"), made(own, monkeypatch):
        pass


@pytest.mark.parametrize("infos", [[None, None], [{"a": 1}, {"a": 2**80}], [{1: {}}, {"_a": 3}]], ids=str)
def test_what_nobody_reads_does_no_harm(infos, forget, monkeypatch):
    told = iter([{}, infos[0], *infos])
    own = body(UNIT, FINE, step=lambda env, action: (FINE, 0.0, False, False, next(told)), close=raises(SystemExit()))
    with made(own, monkeypatch) as envs:
        envs.reset([1])
        for _ in infos:
            envs.send(np.zeros(1, np.int64))
            envs.recv()


def test_a_mistake_while_it_is_played(forget, monkeypatch):
    shown = iter([0.0, 0.0, 0.0, np.nan])
    own = body(UNIT, FINE, step=lambda env, action: (FINE + next(shown), 0.0, False, False, {}))
    with made(own, monkeypatch) as envs:
        envs.reset([1])
        for _ in range(2):
            envs.send(np.zeros(1, np.int64))
            envs.recv()
        envs.send(np.zeros(1, np.int64))
        with pytest.raises(RunFailed, match=r"^own_body:Own failed in step\(\): the observation has NaN"):
            envs.recv()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["env.game=own_walk:Wlk-v0"], "no environment 'Wlk-v0' (did you mean Walk-v0?); it registers Walk-v0"),
        (["env.game=own_broken:X-v0"], "importing own_broken failed: ValueError: broken (own_broken.py, line 1)"),
        (["env.game=own_absent:X-v0"], "there is no module own_absent"),
        (["env.game=own_panic:X-v0"], "importing own_panic failed: Panic: in Rust (own_panic.py, line 2)"),
        (["env.game=own_hole:Hole-v0"], "own_hole:Hole-v0 cannot be created: AttributeError: module 'own_hole' has no"),
        (["env.game=own-walk:X-v0"], "a module's name stands before the colon"),
        ([GAME, "env.arguments={sise: 3}"], "takes no env.arguments.sise (did you mean size?); it takes size, level"),
        (["env=cartpole", "env.arguments={gravity: 3}"], "takes no env.arguments.gravity"),
        (["env.game=Pong", "env.arguments={mode: 1}"], "env=gymnasium env.game=ALE/Pong-v5 'env.arguments={mode: 1}'"),
    ],
    ids=lambda value: value[-1],
)
def test_wrong_words(words, line, inside, forget, tmp_path):
    (tmp_path / "own_broken.py").write_text("raise ValueError('broken')\n")
    (tmp_path / "own_panic.py").write_text("class Panic(BaseException): ...\nraise Panic('in Rust')\n")
    hole = "import gymnasium\ngymnasium.register('Hole-v0', entry_point='own_hole:Hole')\n"
    (tmp_path / "own_hole.py").write_text(hole)
    done = inside("train", *words, "run_dir=run")
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_make_hands_on_a_module_of_ones_own():
    said = {
        target: make.command(target, ("GAME", "RUN", "CKPT"), {"GAME": "own_walk:Walk-v0", name: "runs/x"})
        for target, name in (("train", ""), ("resume", "RUN"), ("watch", "CKPT"))
    }
    assert all("env.game=own_walk:Walk-v0" in words for words in said.values())
    assert ["env=gymnasium" in words for words in said.values()] == [True, False, False]


def test_games_follow_each_other_in_one_window(monkeypatch, tmp_path):
    """CartPole's environments end pygame, with all its windows, when they are closed; a rude one while it is drawn."""
    import pygame

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("DISPLAY", "SDL's dummy")

    def rude(env: object) -> np.ndarray:
        pygame.quit()
        return np.zeros((40, 40, 3), np.uint8)

    monkeypatch.setitem(sys.modules, "own_body", SimpleNamespace(Own=None, __name__="own_body"))
    sys.modules["own_body"].Own = body(UNIT, FINE, render=rude, **answers(FINE, 0.0, True, False, {}))
    own_modules.allow("own_body:Own")
    shown, games, original = [], [], video.Window.show

    def show(window: video.Window, picture: np.ndarray) -> bool:
        shown.append(picture.shape)
        window.closed = len(shown) > 40
        return original(window, picture) and not window.closed

    monkeypatch.setattr(video.Window, "show", show)
    monkeypatch.setattr(video, "score", lambda env, game: games.append(game.stopped))
    for name in ("CartPole-v1", "own_body:Own"):
        shown.clear()
        games.clear()
        video.watch(
            None, dataclasses.replace(cartpole(), game=name), 0.0, 1
        )  # always to the left: a game of 10 steps or so
        assert len(games) > 3 and not any(games[:-1])
    own_modules._specs.clear()


def test_what_cannot_be_drawn_is_said(forget, monkeypatch):
    for render, line in (
        (gymnasium.Env.render, "it has no render()"),
        (lambda env: "text", r"not str"),
        (lambda env: {}["x"], "KeyError"),
        (lambda env: np.zeros((0, 0, 3), np.uint8), "at most 8192 pixels each way, not uint8 (0, 0, 3)"),
        (lambda env: np.zeros((9, 20_000, 3), np.uint8), "not uint8 (9, 20000, 3)"),
    ):
        own = body(UNIT, FINE, render=render)
        with made(own, monkeypatch), pytest.raises(UserError, match=r"^own_body:Own cannot be shown: ") as caught:
            video.play_one(None, dataclasses.replace(cartpole(), game="own_body:Own"), 0.0, 1, video.Screen())
        assert line in str(caught.value)
        forget()


@pytest.mark.parametrize(
    ("told", "fps"),
    [(60, 60), (59.94, 59), (0.5, 1), (0, 30), (None, 30), ("fast", 30), (-3, 30), (np.nan, 30), (np.inf, 1000)],
)
def test_speeds_that_films_can_have(told, fps):
    assert video.told_fps(told) == fps
