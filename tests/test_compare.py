"""Published scores, and a run's curve beside them."""

import csv
import statistics
from pathlib import Path

import pytest
from conftest import small_run
from PIL import Image

from atari_dqn.config import compose
from atari_dqn.config.schema import Protocol
from atari_dqn.data import scores
from atari_dqn.data.scores import MILLION
from atari_dqn.tracking import curves, display
from atari_dqn.utils.console import Console


def test_published_numbers_are_as_published():
    breakout = scores.curve("dopamine_jax_2024", "Breakout")
    assert [breakout.at(million) for million in (1, 2, 3)] == [(1.809, 0.1049), (7.11, 0.9342), (14.19, 0.487)]
    assert breakout.at(1.5)[0] == pytest.approx((1.809 + 7.11) / 2) and breakout.at(0.2) == breakout.at(1)
    assert breakout.at(5000)[0] == breakout.means[-1] and len(breakout.means) == 200
    assert breakout.allowed(1) == pytest.approx((1.809 * 0.8, 1.809 * 1.2))
    assert breakout.allowed(2) == pytest.approx((7.11 - 3 * 0.9342, 7.11 + 3 * 0.9342))
    assert scores.curve("nnabla", "Breakout").at(1)[0] == pytest.approx(1.271)
    assert scores.curve("nnabla", "Skiing") is None and scores.curve("nnabla", "Pong").by.measure == "evaluation"
    by = {score.by.agent: score.mean for score in scores.published("Breakout")}
    assert (by["nature_2015"], by["nature_2015_human"], by["cleanrl"], by["sb3_zoo"]) == (401.2, 31.8, 366.928, 358.327)
    assert scores.human_normalised("Breakout", 30.5) == 1 and scores.human_normalised("Pong", -20.7) == 0
    assert scores.human_normalised("AirRaid", 5) is None and len(scores.random_and_human()) == 57
    assert all(agent.source and agent.protocol for agent in scores.agents().values())
    assert {*scores.LEARNING_CURVES} <= {*scores.agents()}


def median(pairs: list[tuple[str, float]]) -> float:
    return statistics.median(scores.human_normalised(game, mean) for game, mean in pairs)


def test_published_medians_come_out_of_the_data():
    """Median human-normalized scores that were computed from the sources apart; 57 games' baselines."""
    games = [*scores.random_and_human()]
    nature = [(s.by.agent, game, s.mean) for game in games for s in scores.published(game)]
    assert median([(g, m) for agent, g, m in nature if agent == "nature_2015"]) == pytest.approx(0.79, abs=0.005)
    assert median([(g, m) for agent, g, m in nature if agent == "pfrl"]) == pytest.approx(0.70, abs=0.005)
    for agent, expected in (
        ("dopamine_jax_2024", {10: 0.30, 40: 0.64, 50: 0.69, 100: 1.04, 200: 1.10}),
        ("dopamine_tf", {10: 0.12, 40: 0.42, 50: 0.49, 100: 0.64, 199: 0.65}),
        ("nnabla", {40: 0.32, 50: 0.40, 100: 0.47, 200: 0.46}),
    ):
        known = {game: curve for game in games if (curve := scores.curve(agent, game))}
        for million, value in expected.items():
            found = median([(game, curve.means[million - 1]) for game, curve in known.items()])
            assert found == pytest.approx(value, abs=0.006), (agent, million)
    zoo = scores.dqn_zoo_medians()
    assert len(zoo) == 7 and min(zoo["dqn"], key=lambda p: abs(p[0] - 200))[1] == pytest.approx(0.427, abs=0.01)


def write(path: Path, columns: tuple[str, ...], rows: list[dict[str, object]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval=0)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def breakout(tmp_path) -> Path:
    """The folder of a run that never was: its files are of a real one, its numbers are made up."""
    from atari_dqn.tracking.csv_files import EPISODES, EVALUATIONS, METRICS

    run = small_run(
        tmp_path / "run", "env.game=Breakout", "preset=dopamine", "protocol=nature", "total_steps=750k", "num_envs=4"
    )
    run.emulators.close()
    returns = {400_000: 1.0, 1_000_000: 2.6, 1_000_004: 3.0, 1_900_000: 5.0, 2_200_000: 60.0, 2_990_000: 80.0,
               3_000_004: 5.0}  # fmt: skip
    write(run.folder / "episodes.csv", EPISODES, [{"frames": f, "return": r} for f, r in returns.items()])
    write(run.folder / "metrics.csv", METRICS, [{"frames": 4 * s, "agent_steps": s} for s in (250, 750_002)])
    evaluations = [(1_000_192, 1.5, "current"), (2_000_000, 30, "current"), (2_000_000, 25, "best")]
    write(
        run.folder / "evaluations.csv",
        EVALUATIONS,
        [{"frames": f, "mean": m, "sd": 1, "episodes": 10, "network": n} for f, m, n in evaluations],
    )
    return run.folder


def test_compare_prints_draws_and_writes(breakout, command, tmp_path):
    done = command("compare", f"run={breakout}")
    assert done.returncode == 0, done.stderr
    with open(breakout / "compare.csv") as file:
        found = list(csv.DictReader(file))
    assert [(r["million_frames"], float(r["ours"]), r["games"], r["verdict"]) for r in found] == [
        ("1", 1.8, "2", "inside"), ("2", 4.0, "2", "below"), ("3", 70.0, "2", "above"),
    ]  # fmt: skip
    assert float(found[2]["human_normalised"]) == pytest.approx((70 - 1.7) / (30.5 - 1.7), rel=1e-4)
    assert float(found[0]["published"]) == 1.809 and float(found[0]["published_sd"]) == 0.1049
    assert "DQN (Mnih et al. 2015): at 200M frames: 401.2 (1387% of a human)" in done.stdout
    assert "against Dopamine's DQN (JAX, 2024)" in done.stdout and "google/dopamine" in done.stdout
    assert 'Overrides of preset "dopamine"' in done.stdout and "num_envs" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if line.startswith(("│", "┃"))) <= 80
    with Image.open(breakout / "compare.png") as picture:
        assert picture.size == (960, 540) and len({*picture.convert("RGB").getdata()}) > 50
    other = command("compare", f"run={breakout}", "published=nnabla", "output=new/other.png")
    assert other.returncode == 0, other.stderr
    with open(
        tmp_path / "new" / "other.csv"
    ) as file:  # evaluations of the network as it was, not of the best one again
        assert [(float(r["ours"]), r["verdict"]) for r in csv.DictReader(file)] == [(1.5, "inside"), (30.0, "above")]
    (breakout / "episodes.csv").write_text((breakout / "episodes.csv").read_text() + "many,0,0,0,0,0,0\n")
    spoilt = command("compare", f"run={breakout}")
    assert spoilt.returncode == 2 and "damaged CSV files in" in spoilt.stderr
    assert 'Overrides of preset "nature"' in other.stdout and (tmp_path / "new" / "other.png").stat().st_size > 10_000


def test_a_millions_games_are_those_that_end_in_it():
    rows = [{"frames": str(f), "return": str(r)} for f, r in ((1, 1), (MILLION, 3), (MILLION + 1, 7), (5 * MILLION, 9))]
    points = curves.training(rows)
    assert [(p.frames, p.mean, p.games) for p in points] == [
        (MILLION, 2, 2), (2 * MILLION, 7, 1), (5 * MILLION, 9, 1),
    ]  # fmt: skip
    assert [*curves.by_value(points, 2 * MILLION)] == [1, 2]  # the fifth is not over
    last = Protocol(name="machado", epsilon=0.0, source="training", window_games=2)
    assert [row["return"] for row in curves.window(rows, last, 2 * MILLION)] == ["3", "7"]
    # Evaluations come with the first turn at or after they are due; with 64 games that is a little later.
    late = [curves.Point(frames, 1.0, 0.0, 10) for frames in (500_224, 1_000_192, 1_800_000, 2_000_128)]
    assert {m: p.frames for m, p in curves.by_value(late, 2_000_128).items()} == {1: 1_000_192, 2: 2_000_128}
    million = Protocol(name="training", epsilon=0.0, source="training", window_frames=MILLION)
    assert [row["return"] for row in curves.window(rows, million, MILLION + 1)] == ["3", "7"]


def test_the_progress_line_says_how_a_run_stands():
    curve = scores.curve("dopamine_jax_2024", "Breakout")
    pace = curves.Pace(curve)
    for frames, score in ((300_000, 50.0), (900_000, 1.5), (1_200_000, 2.5)):
        pace.game(frames, score)
    assert pace.word(900_000) == ""  # no curve yet
    pace.game(1_350_000, 2.0)  # the first game is more than a million frames past
    assert pace.word(1_350_000) == "behind (2, expected 3.664)"
    assert pace.word(9_000_000) == ""  # no game has ended for a million frames
    pace.game(1_360_000, 100.0)
    assert pace.word(1_360_000).startswith("ahead")
    evaluated = curves.Pace(scores.curve("nnabla", "Breakout"))
    evaluated.game(2_000_000, 500.0)  # training games say nothing of this curve
    assert evaluated.word(2_000_000) == ""
    evaluated.evaluation(2_000_000, 4.0)
    assert evaluated.word(2_500_000) == "on track (4, expected 3.734)"


def test_a_resumed_run_knows_how_it_stood(breakout):
    config = compose.to_train_config(compose.compose("train", ["env.game=Breakout", "preset=dopamine"]))
    pace = curves.pace(config, breakout, 500_000)
    assert pace.word(2_000_000) == "behind (4, expected 7.11)"
    config.published = "nnabla"  # a curve of evaluations, of which a run that its training games score has none
    assert curves.pace(config, breakout, 500_000) is None
    config.published, config.env.game = "dopamine_jax_2024", "Tetris"
    assert curves.pace(config, breakout, 500_000) is None


def test_a_curve_of_evaluations_is_not_for_runs_that_their_training_games_score(breakout, command):
    config = compose.to_train_config(compose.compose("train", ["env.game=Breakout", "preset=dopamine"]))
    (breakout / "config.yaml").write_text(compose.to_yaml(config))
    refused = command("compare", f"run={breakout}", "published=nnabla")
    assert refused.returncode == 2 and "choose a curve of training returns" in refused.stderr


def test_the_display_fits_80_columns_and_names_the_pace(breakout, monkeypatch):
    console = Console(width=80, record=True, force_terminal=False)
    pace = curves.Pace(scores.curve("dopamine_jax_2024", "Breakout"))
    shown = display.Display(console, "Breakout", 750_000, 4, 500_000, pace)
    shown.episode({"frames": 1_990_000, "return": 7.3})
    shown.evaluation({"frames": 1_990_000, "mean": 9.0, "best": 1, "network": "current"})
    shown.metrics({"agent_steps": 500_000, "return_mean": 7.3, "frames_per_second": 400.0, "time_update": 0.9})
    console.print(shown._render())
    assert "CPUs" not in console.export_text(clear=False)
    monkeypatch.setattr(shown._share, "word", lambda: "busy machine: this run gets 1.0 of 2 CPUs")
    shown.metrics(shown._row)
    console.print(shown._render())
    text = console.export_text()
    assert text.splitlines()[-1] == "busy machine: this run gets 1.0 of 2 CPUs"
    assert "return 7.3 (19% of a human)  on track (7.3, expected 7.11)\nbest 9.0 (25% of a human)" in text
    assert max(map(len, text.splitlines())) <= 80
