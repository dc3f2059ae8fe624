"""`atari100k`: what is trained, which scores count, and the table beside the published runs."""

import csv

import numpy as np
import pytest
from scipy.stats import trim_mean

from atari_dqn import __main__
from atari_dqn.analysis import atari100k
from atari_dqn.config import compose
from atari_dqn.data import scores
from atari_dqn.data.games import ATARI_26
from atari_dqn.sweep import sweep
from atari_dqn.utils.errors import RunFailed

COLUMNS = "frames,agent_steps,updates,seconds,protocol,network,best,held_out_q,episodes,mean"


def run_of(folder, game: str, score: object, seed: int = 1, steps: int = 100_000, preset="drq_eps", changed=(), **more):
    """What of a finished run counts."""
    row = {
        "frames": 4 * steps, "agent_steps": steps, "updates": steps, "seconds": 1, "protocol": "atari100k",
        "network": "current", "best": 1, "held_out_q": 0, "episodes": 100, "mean": score,
    } | more  # fmt: skip
    path = folder / f"{game}-seed{seed}" / "evaluations.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [
        f"preset={preset}",
        f"env.game={game}",
        f"seed={seed}",
        f"total_steps={steps if steps < 50_000 else 100_000}",
    ]
    config = compose.to_train_config(compose.compose("train", [*words, *changed]))
    (path.parent / "config.yaml").write_text(compose.to_yaml(config))
    new = not path.exists()
    with open(path, "a") as file:
        file.write(f"{COLUMNS}\n" * new + ",".join(map(str, row.values())) + "\n")


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    """Statistics that take no time."""
    monkeypatch.setattr(atari100k.statistics, "__defaults__", (100, 50))


def told(capsys, *words: str) -> str:
    code = __main__.main(["atari100k", "table.only=true", *words])
    out, err = capsys.readouterr()
    return f"{code} {out}{err}"


def test_published_iqms_are_those_of_the_paper():
    """Agarwal et al. 2021, figure 7: DrQ(eps) 0.280, SPR 0.337; and DER's figure says a mean of 0.350."""
    for agent, iqm in (("DrQ(eps)", 0.280), ("SPR", 0.337)):
        runs = scores.atari100k(agent)
        matrix = np.array([[scores.human_normalised(game, score) for score in runs[game]] for game in ATARI_26])
        assert [*runs] == [*ATARI_26] and matrix.shape == (26, 100)
        assert trim_mean(matrix.ravel(), 0.25) == pytest.approx(iqm, abs=5e-4)
    der = scores.atari100k("DER")
    means = [scores.human_normalised(game, float(np.mean(runs))) for game, runs in der.items()]
    assert np.mean(means) == pytest.approx(0.350, abs=0.01) and {len(runs) for runs in der.values()} == {100}
    assert np.median(means) == pytest.approx(0.189, abs=0.005)


def test_statistics_over_the_games_that_are_done_equal_plain_ones():
    found = {"Pong": {1: -5.0, 2: 3.0}, "Breakout": {1: 20.0, 2: 10.0}, "Freeway": {1: 28.0, 2: 0.0, 3: 30.0},
             "Krull": {1: 4400.0, 2: 4000.0}, "Hero": {1: 3000.0}}  # fmt: skip
    rows = atari100k.games(found, "DrQ(eps)")
    assert [row.name for row in rows] == [*ATARI_26] and sum(bool(row.own) for row in rows) == 5
    counted, seeds = atari100k.counted(rows)
    assert [row.name for row in counted] == ["Breakout", "Freeway", "Krull", "Pong"] and seeds == 2
    found = {row.name: row.own for row in counted}
    own = np.array([[scores.human_normalised(game, s) for s in [*found[game].values()][:2]] for game in found])
    runs = np.array([[scores.human_normalised(game, s) for s in scores.atari100k("DrQ(eps)")[game]] for game in found])
    iqm, median, mean = atari100k.statistics(counted, seeds, resamples=300, draws=20_000)
    assert (iqm.name, median.name, mean.name) == ("iqm", "median", "mean")
    assert iqm.own == pytest.approx(trim_mean(own.ravel(), 0.25)) and mean.own == pytest.approx(own.mean())
    assert iqm.published == pytest.approx(trim_mean(runs.ravel(), 0.25))
    assert median.own == pytest.approx(np.median(own.mean(1)))
    rng = np.random.default_rng(5)
    drawn = [trim_mean(np.array([rng.choice(game, 2) for game in runs]).ravel(), 0.25) for _ in range(20_000)]
    assert iqm.drawn == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.04)
    assert iqm.own_interval[0] < iqm.own < iqm.own_interval[1]
    assert iqm.published_interval[0] < iqm.published < iqm.published_interval[1]
    assert iqm.drawn[0] < iqm.published_interval[0]  # two seeds say less than a hundred


def test_the_table_says_which_runs_are_inside(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told(capsys) == "0 no run has finished yet, so there is no table\n"
    store = tmp_path / "runs" / "atari100k" / "drq_eps"
    run_of(store, "Pong", -10.0, network="best", best=0)
    run_of(store, "Breakout", 12.0, steps=50_000)
    run_of(store, "Freeway", 25.0, protocol="nature")
    assert "no run has finished" in told(capsys)  # none of these is what is asked for
    run_of(store, "Pong", -10.0)
    run_of(store, "Breakout", 99.0)
    text = told(capsys)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert text.startswith("0 ") and max(map(len, text.splitlines()[:36])) <= 80
    assert lines["Pong"] == ["Pong", "-10.0", "inside", "-9.1", "9.2", "-19.0", "to", "11.3"]
    assert lines["Breakout"][1:3] == ["99.0", "above"]
    assert lines["Freeway"] == ["Freeway", "20.3", "12.7", "0.0", "to", "30.0"]
    assert "human-normalized scores: 2 games, 1 seed each" in text and "IQM" in lines
    with open(store / "table" / "games.csv") as file:
        assert [(row["game"], row["seed"], row["score"], row["place"]) for row in csv.DictReader(file)] == [
            ("Breakout", "1", "99", "above"), ("Pong", "1", "-10", "inside")
        ]  # fmt: skip
    with open(store / "table" / "statistics.csv") as file:
        rows = {row["statistic"]: row for row in csv.DictReader(file)}
    assert [*rows] == ["iqm", "median", "mean"] and rows["iqm"]["own_low"] == ""
    assert (store / "table" / "atari100k.png").stat().st_size > 20_000

    run_of(store, "Pong", 15.0, seed=2)
    text = told(capsys, "sweep.seeds=2", f"table.output={tmp_path}/elsewhere")
    assert "1/2 inside" in text and "note: without Breakout, which has fewer seeds" in text
    assert (tmp_path / "elsewhere" / "atari100k.png").is_file()
    run_of(store.parent / "der", "Pong", -10.0, preset="der")
    assert "beside 100 published runs of DER" in told(capsys, "preset=der")
    assert "beside 5 published runs of SimPLe" in told(capsys, "table.against=SimPLe")
    run_of(store, "Alien", 800.0, steps=3_000)
    run_of(store, "Pong", 800.0, steps=3_000)
    assert "note: not the published setting: total_steps=3,000" in told(capsys, "total_steps=3000")


def test_tables_of_many_seeds_are_80_columns_wide(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "runs" / "atari100k" / "drq_eps"
    for seed in range(1, 11):
        for game, score in (("ChopperCommand", 812_345.6), ("CrazyClimber", -21_345.6), ("RoadRunner", 15_000.0)):
            run_of(store, game, score, seed=seed)
    text = told(capsys, "sweep.seeds=10")
    tables = [line.rstrip() for line in text.split("human-normalized by")[0].splitlines()]
    assert max(map(len, tables)) <= 80 and not any("…" in line for line in tables)
    assert any(line.split()[:4] == ["CrazyClimber", "-21,346", "0/10", "inside"] for line in tables)


def test_runs_that_do_not_count_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "runs" / "atari100k" / "drq_eps"
    run_of(store, "Pong", -10.0, changed=["agent.n_step=3", "agent.augmentation=none"])
    run_of(store, "Breakout", "abc")
    run_of(store, "Freeway", "nan")
    run_of(store, "Krull", "x" * 200_000)
    run_of(store, "Hero", 3000.0, steps=100_002)  # three games side by side end there
    text = told(capsys)
    assert "note: Pong-seed1 is left out: it was started with different agent.augmentation, agent.n_step\n" in text
    for game in ("Breakout", "Freeway", "Krull"):
        assert f"note: {game}-seed1 is left out: its evaluations.csv is damaged" in text
    assert "human-normalized scores: 1 game, 1 seed each" in text


def test_a_failed_run_is_told_after_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "runs" / "atari100k" / "drq_eps", "Pong", -10.0)

    def fail(*asked):
        raise RunFailed("1 of 2 runs failed")

    monkeypatch.setattr(sweep, "sweep", fail)
    assert __main__.main(["atari100k", "sweep.games=Pong,Alien"]) == 1
    out, err = capsys.readouterr()
    assert "beside 100 published" in out and "1 of 2 runs failed" in err


def test_what_cannot_be_meant_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, line in (
        (["sweep.games=Pong,Tennis"], "sweep.games: not in Atari-100k: Tennis; `sweep` trains on any games"),
        (
            ["sweep.games=atari57"],
            "sweep.games: not in Atari-100k: Asteroids, Atlantis, BeamRider, Berzerk, Bowling ",
        ),
        (["env.game=Pong"], "Atari-100k is 26 Atari games; leave out env=... and choose with sweep.games=..."),
        (["env=cartpole"], "Atari-100k is 26 Atari games; leave out env=... and choose with sweep.games=..."),
        (["table.output=s3://b/x"], "s3://b/x is not a folder here; set table.output=PATH for the table"),
        (["table.output=/dev/null/x"], "table.output=/dev/null/x: /dev/null is not a folder; choose another path"),
        (["run_dir=here"], "run_dir is set for each run in a sweep"),
        (["table.against=Rainbow"], "table.against=Rainbow: expected DrQ(eps), DER, SPR or SimPLe"),
        (["sweep.storage=memory://x"], "is not a folder here; set table.output=PATH for the table"),
    ):
        text = told(capsys, *words)
        assert text.startswith("2 atari_dqn: ") and text.count("\n") == 1 and line in text
        assert not [*tmp_path.iterdir()]


def test_a_game_is_trained_scored_and_set_beside_the_published(tmp_path, command):
    words = [
        "sweep.games=Freeway", "total_steps=60", "replay.warmup_steps=40", "replay.capacity=100",
        "exploration.decay_steps=10", "evaluation.episodes=2", "env.max_frames=200", "protocol.max_frames=200",
        "evaluation.every_steps=60", "evaluation.held_out_states=0", "logger.wandb=off", "logger.tensorboard=false",
        f"sweep.storage={tmp_path}/sweep",
    ]  # fmt: skip
    done = command("atari100k", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 run to train, 1 at a time, 0:00:" in done.stdout and "1 of 1 run done" in done.stdout
    assert "note: not the published setting: env.max_frames=200, " in done.stdout.replace("\n", " ")
    with open(tmp_path / "sweep" / "table" / "games.csv") as file:
        rows = [*csv.DictReader(file)]
    assert [row["game"] for row in rows] == ["Freeway"]
    again = command("atari100k", *words)
    assert "1 already done" in again.stdout and "to train" not in again.stdout and "Freeway" in again.stdout
