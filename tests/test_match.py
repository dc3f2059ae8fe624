"""A match: who is ahead, by how much, and a film of all of them."""

import csv
import json
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import small_run

from atari_dqn.analysis import match
from atari_dqn.viewing.screens import Screen
from atari_dqn.viewing.wall import GAP, LINE, Wall

TRAINED = ["env=cartpole", "num_envs=4", "replay.warmup_steps=100", "evaluation.episodes=2"]


@pytest.fixture(scope="module")
def two(shared):
    """Two runs of CartPole: one that has learned, one that has not begun."""

    def train(folder):
        small_run(folder / "long", *TRAINED, "total_steps=8_000").go()
        small_run(folder / "short", *TRAINED, "total_steps=120").go()
        small_run(folder / "other", *TRAINED, "total_steps=120", "+env.arguments.sutton_barto_reward=true").go()
        (folder / "a b").symlink_to(folder / "short")
        (folder / "old").mkdir()
        (folder / "old" / "match.csv").touch()

    return shared("match", train)


def test_a_match_ranks_by_the_games_that_evaluate_would_play(two, inside):
    words = [f"checkpoint={two}/short {two}/long", "evaluation.episodes=12", "output=out", "max_seconds=1"]
    done = inside("match", *words)
    assert done.returncode == 0, done.stderr
    with open("out/match.csv", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert [row["checkpoint"].split("/")[-3] for row in (first, second)] == ["long", "short"]
    assert "long leads short by" in done.stdout and "beyond chance" in done.stdout
    alone = ["evaluate", f"checkpoint={two}/long", "protocol=nature", "evaluation.episodes=12", "output=e.json"]
    assert inside(*alone).returncode == 0
    returns = json.loads(Path("e.json").read_text(encoding="utf-8"))["returns"]
    assert float(first["mean"]) == pytest.approx(np.mean(returns)) and first["games"] == "12"
    assert float(first["low"]) <= float(first["mean"]) <= float(first["high"])
    assert float(first["ahead_of_next"]) > 0.9 and not second["ahead_of_next"]
    with av.open("out/match.mp4") as film:
        frames = list(film.decode(video=0))
    assert 20 <= len(frames) <= 50  # CartPole shows 50 pictures a second
    assert Path("out/match.png").read_bytes()[:4] == b"\x89PNG"


def test_a_path_with_a_space_and_too_few_games(two, inside):
    words = [f"checkpoint='{two}/a b' {two}/long", "evaluation.episodes=2", "output=out", "max_seconds=1"]
    done = inside("match", *words)
    assert done.returncode == 0, done.stderr
    assert "too few games to tell" in done.stdout
    with open("out/match.csv", encoding="utf-8") as file:
        assert not any(row[key] for row in csv.DictReader(file) for key in ("low", "high", "ahead_of_next"))


def test_intervals_are_the_bootstraps():
    draw = np.random.default_rng(0)
    ahead = match.ahead(
        *(match.Contestant("", None, None, {}, 0, 0, draw.normal(shift, 1, 10_000)) for shift in (1.0, 0.0))
    )
    assert ahead == pytest.approx(0.76, abs=0.02)  # P(N(1, 2) > 0)
    same = match.Contestant("one", None, None, {"summary": {"mean": 3.0}}, 0, 0, np.ones(10))
    assert match.ahead(same, same) == 0.5 and match.verdict([same, same]) == "one is level with one"
    few = same._replace(low=np.nan, result={"summary": {"mean": 2.0}})
    assert np.isnan(match.ahead(same, few)) and "too few games to tell" in match.verdict([same, few])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["checkpoint={two}/long"], "a match needs at least two checkpoints"),
        (["checkpoint={two}/long {two}/none"], "there is no checkpoint"),
        (["checkpoint={two}/long {two}/short", "env.game=Pong"], "Pong"),
        (["checkpoint={two}/long {two}/short", "output={two}/long/config.yaml"], "cannot"),
        (["checkpoint={two}/long {two}/short", "output={two}/old"], "match.csv is there already; set output=PATH"),
        (["checkpoint={two}/long {two}/long"], "best.pt is there twice"),
        (["checkpoint={two}/long '{two}/short"], "no closing quotation"),
        (["checkpoint={two}/long {two}/short", "protocol=training"], "scores games of training"),
        (["checkpoint={two}/long {two}/other"], "their scores cannot be compared; set env.arguments"),
    ],
)
def test_a_wrong_match_is_refused(two, inside, words, line):
    done = inside("match", *(word.format(two=two) for word in words))
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_names_are_as_short_as_they_can_be():
    paths = ["zoo/Pong/best.pt", "runs/a/checkpoints/best.pt", "runs/b/checkpoints/latest.pt", "x/step5.pt"]
    assert match.names([Path(path) for path in paths]) == ["Pong", "a", "b", "step5.pt"]
    assert match.names([Path("x/a/best.pt"), Path("y/a/best.pt")]) == ["x/a", "y/a"]


class Shown(Screen):
    def __init__(self) -> None:
        self.pictures = []

    def show(self, picture):
        self.pictures.append(picture)
        return True


def game(frames: int, color: int, fails: bool = False):
    def play(part):
        part.fps = 30
        for frame in range(frames):
            part.stand(frame, frame)
            if fails and frame == 3:
                raise ValueError("it broke")
            if not part.show(np.full((300, 160, 3), color, np.uint8)):
                return
        part.end(frames)

    return play


def test_a_wall_shows_all_games_until_the_last_is_over():
    shown = Shown()
    wall = Wall(shown, ["one", "two", "three"])
    wall.play([game(5, 100), game(9, 150), game(2, 200)])
    assert len(shown.pictures) == 9 and shown.fps == 30
    last = shown.pictures[-1]
    assert last.shape[:2] == (2 * (300 + LINE + GAP) + GAP, 2 * (160 + GAP) + GAP)
    for (row, column), color in {(0, 0): 100, (0, 1): 150, (1, 0): 200}.items():  # those that ended stay
        top, left = GAP + row * (300 + LINE + GAP) + LINE, GAP + column * (160 + GAP)
        assert (last[top : top + 300, left : left + 160] == color).all()


def test_a_game_that_fails_ends_the_others():
    with pytest.raises(ValueError, match="it broke"):
        Wall(Shown(), ["one", "two"]).play([game(10_000, 1), game(9, 2, fails=True)])
    assert threading.active_count() < 10
