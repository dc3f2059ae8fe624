"""Whole commands, as a person types them: what they leave behind, and what they say when something is wrong."""

import csv
import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import wandb_reader
from conftest import ROOT, small_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atari_dqn import __main__
from atari_dqn.checkpoint import checkpoints
from atari_dqn.cli import usage
from atari_dqn.cli.commands import COMMANDS
from atari_dqn.config import compose, messages, presets, unread, validate
from atari_dqn.config.schema import PlayProtocol, Protocol
from atari_dqn.utils.errors import RunFailed, UserError

TINY = [
    "env.game=Breakout", "total_steps=600", "replay.warmup_steps=200", "logger.every_steps=100",
    "evaluation.every_steps=400", "evaluation.episodes=2", "evaluation.video_seconds=2", "checkpoint.every_steps=200",
    "protocol.max_frames=400", "num_envs=2",
]  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def breakout(shared) -> Path:
    """The folder of a short Breakout run with everything on, W&B offline."""
    return shared("breakout", train_breakout) / "run"


def train_breakout(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "atari_dqn", "train", *TINY, "run_dir=run"],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "WANDB_API_KEY"}
        | {"PYTHONPATH": str(ROOT), "NETRC": str(folder / "none")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (folder / "output.txt").write_text(done.stdout + done.stderr)


def test_a_run_leaves_all_its_files(breakout):
    names = {str(p.relative_to(breakout)) for p in breakout.rglob("*") if p.is_file()}
    assert {
        "config.yaml", "metrics.csv", "episodes.csv", "evaluations.csv", "checkpoints/latest.pt",
        "checkpoints/best.pt", "videos/step400.mp4", "videos/step600.mp4",
    } <= names  # fmt: skip
    assert not [name for name in names if "tmp" in name.split("/")[-1]]
    metrics = rows(breakout / "metrics.csv")
    assert [row["agent_steps"] for row in metrics] == ["100", "200", "300", "400", "500", "600"]
    assert [row["frames"] for row in metrics] == ["400", "800", "1200", "1600", "2000", "2400"]
    assert metrics[1]["updates"] == "0" and metrics[-1]["updates"] == "100"
    assert np.isnan(float(metrics[0]["loss"])) and all(float(metrics[-1][k]) for k in ("loss", "grad_norm"))
    games = rows(breakout / "episodes.csv")
    assert games and {"return", "length_frames", "env", "frames", "agent_steps", "updates", "seconds"} <= set(games[0])
    evaluations = rows(breakout / "evaluations.csv")
    assert [(row["agent_steps"], row["network"]) for row in evaluations] == [
        ("400", "current"), ("600", "current"), ("600", "best"),
    ]  # fmt: skip
    assert evaluations[0]["episodes"] == "2" and float(evaluations[0]["held_out_q"]) != 0
    said = (breakout.parent / "output.txt").read_text()
    assert "W&B: not logged in" in said and "wandb sync" in said and "done: 600 agent steps" in said
    assert "replay: 612 agent steps take" in said and "Traceback" not in said


def test_wandb_wrote_metrics_config_and_videos(breakout):
    history, settings, videos = wandb_reader.read(breakout)
    measured = [row for row in history if "train/loss" in row]
    assert [row["frames"] for row in measured] == [400, 800, 1200, 1600, 2000, 2400]
    assert measured[-1]["train/updates"] == 100
    assert [row["frames"] for row in history if "evaluation/mean" in row] == [1600, 2400]
    assert len([row for row in history if "episode/return" in row]) == len(rows(breakout / "episodes.csv"))
    assert settings["env"]["game"] == "Breakout" and settings["replay"]["capacity"] == 1_000_000
    assert len(videos) == 2 and videos[0].stat().st_size > 1000
    final, best = (
        wandb_reader.summary(breakout),
        max(float(row["mean"]) for row in rows(breakout / "evaluations.csv")[:2]),
    )
    assert (final["final/agent_steps"], final["final/frames"]) == (600, 2400)
    assert final["final/best_return"] == best
    assert "final/best_human_normalised" not in final  # its games were cut off after 20 seconds


def test_tensorboard_wrote_the_same(breakout):
    events = EventAccumulator(str(breakout / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/epsilon")] == [400, 800, 1200, 1600, 2000, 2400]
    shown = sorted(events.Tags()["scalars"])  # as it sorts its panels
    last = [tag for tag in shown if tag.split("/")[1].startswith(("time_", "agent_", "updates", "seconds", "length_"))]
    assert last and {tag.split("/")[0] for tag in last} == {"z_bookkeeping"} and shown[-1] in last
    assert shown[0] == "episode/return" and shown[1].startswith("evaluation/")
    (config,) = events.Tensors("config/text_summary")
    assert b"    game: Breakout" in config.tensor_proto.string_val[0]


def test_videos_are_h264_at_native_speed(breakout):
    with av.open(str(breakout / "videos" / "step600.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 60 and (stream.width, stream.height) == (320, 420)
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert len(pictures) == 2 * 60
    colours = pictures[60].reshape(-1, 3).astype(int)
    assert (np.ptp(colours, axis=1) > 60).mean() > 0.05  # Breakout's wall is red, orange, green, blue
    assert any((a != b).any() for a, b in itertools.pairwise(pictures))


def test_evaluate_prints_a_table_and_writes_json(breakout, inside, tmp_path):
    done = inside("evaluate", f"checkpoint={breakout}", "evaluation.episodes=3", "protocol=nature", "output=out/e.json")
    assert done.returncode == 0, done.stderr
    for column in ("mean", "sd", "median", "min", "max", "human"):
        assert column in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if "written" not in line) <= 80
    result = json.loads((tmp_path / "out/e.json").read_text())
    assert result["game"] == "Breakout" and len(result["returns"]) == 3 == len(result["lengths_frames"])
    assert result["summary"]["mean"] == pytest.approx(np.mean(result["returns"]))
    assert result["summary"]["human_normalised"] == pytest.approx((result["summary"]["mean"] - 1.7) / (30.5 - 1.7))
    assert result["protocol"]["epsilon"] == 0.05 and result["protocol"]["max_frames"] == 18_000
    assert result["protocol"]["noop_max"] == 30 and result["protocol"]["repeat_action_probability"] == 0


def test_another_game_is_played_by_the_actions_meanings(breakout, inside, tmp_path):
    done = inside(
        "evaluate", f"checkpoint={breakout}", "env.game=freeway", "evaluation.episodes=1",
        "protocol.epsilon=0", "protocol.max_frames=400", "output=e.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "unavailable in this game (never selected): FIRE, RIGHT, LEFT" in done.stdout  # Freeway: NOOP, UP, DOWN
    assert "unknown to the network (never played): UP, DOWN" in done.stdout
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["game"] == "Freeway" and result["trained_on"] == "Breakout"
    assert result["lengths_frames"] == [400] and result["cut_off"] == 1 and result["returns"] == [0.0]
    assert result["summary"]["human_normalised"] is None and "1 game was cut off at 400 frames" in done.stdout
    assert "not human-normalized: games were truncated at 400 frames, and a human's lasted up to 18,000" in done.stdout
    assert result["protocol"]["name"] == "nature-changed" and result["protocol"]["epsilon"] == 0


def test_preprocessing_comes_from_the_checkpoint(inside, tmp_path):
    """A network trained on 2-frame skips of 60x60 pictures can only be played like that."""
    run = small_run(
        tmp_path / "run", "env.game=Pong", "env.frame_skip=2", "env.screen_size=60", "env.frame_stack=3", "num_envs=2",
        "total_steps=200", "replay.warmup_steps=100", "evaluation.episodes=1", "protocol.max_frames=100",
    )  # fmt: skip
    run.go()
    for name, words in (("evaluate", ["evaluation.episodes=1", "output=e.json"]), ("video", ["output=v.mp4"])):
        done = inside(name, f"checkpoint={tmp_path}/run", *words)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "e.json").read_text())
    assert (result["protocol"]["frame_skip"], result["protocol"]["screen_size"]) == (2, 60)
    assert result["lengths_frames"] == [100] and result["trained_frames"] == 400
    with av.open(str(tmp_path / "v.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 100


def test_video_of_a_checkpoint_and_of_another_game(breakout, inside, tmp_path):
    for game in ("Breakout", "Pong"):
        name = f"{game}.mp4"
        done = inside(
            "video",
            f"checkpoint={breakout}/checkpoints/latest.pt",
            f"env.game={game}",
            f"output={name}",
            "max_seconds=3",
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r"score -?\d+ \(stopped\) in 3\.0 seconds", done.stdout)  # no human plays for 3 seconds
        with av.open(str(tmp_path / name)) as film:
            assert sum(1 for _ in film.decode(video=0)) == 180


def test_watch_without_a_display_says_so(breakout, inside):
    done = inside("watch", f"checkpoint={breakout}")
    assert done.returncode == 2
    assert (
        "no display" in done.stderr
        and "`atari-dqn video checkpoint=...`" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_watch_shows_the_game_in_a_window(breakout, monkeypatch):
    """SDL's own dummy screen: a real pygame window that nobody sees. Esc is pressed after 20 pictures."""
    import pygame

    from atari_dqn.viewing import video

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown = []
    original = video.Window.show

    def show(window, picture):
        shown.append(picture)
        if len(shown) == 20:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE))
        return original(window, picture)

    monkeypatch.setattr(video.Window, "show", show)
    assert __main__.main(["watch", f"checkpoint={breakout}"]) == 0
    assert len(shown) == 20 and shown[0].shape == (210, 160, 3)


def test_a_checkpoint_plays_as_it_did_in_training(breakout):
    """Network and preprocessing come from the file: the same actions on the same states as the saved weights give."""
    checkpoint = checkpoints.Checkpoint(breakout / "checkpoints" / "latest.pt")
    content = torch.load(breakout / "checkpoints" / "latest.pt", weights_only=True)
    assert content["config"] == dataclasses.asdict(checkpoint.config)
    assert checkpoint.actions == ("NOOP", "FIRE", "RIGHT", "LEFT") and checkpoint.agent_steps == 600
    states = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    x = states.float() / 255
    weights = content["online"]
    for i, stride in ((0, 4), (2, 2), (4, 1)):
        x = torch.nn.functional.conv2d(
            x, weights[f"features.convolutions.{i}.weight"], weights[f"features.convolutions.{i}.bias"], stride
        ).relu()
    x = (x.permute(0, 2, 3, 1).flatten(1) @ weights["head.0.weight"].T + weights["head.0.bias"]).relu()
    torch.testing.assert_close(
        checkpoint.network.q_values(states), x @ weights["head.2.weight"].T + weights["head.2.bias"]
    )


def test_resume_goes_on_where_it_stopped(breakout, command, inside, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(breakout, run)
    with open(run / "metrics.csv", "a") as file:  # as a run that was killed after its last checkpoint leaves it
        file.write("9999,9999,9,9,0,0,0,0,0,0,0\n")
    done = command("train", f"resume={run}", "total_steps=800", "logger.wandb=off")
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout and "after 600 agent steps" in done.stdout
    steps = [int(row["agent_steps"]) for row in rows(run / "metrics.csv")]
    assert steps == [100, 200, 300, 400, 500, 600, 700, 800]
    seconds = [float(row["seconds"]) for row in rows(run / "metrics.csv")]
    assert seconds == sorted(seconds)
    before = torch.load(breakout / "checkpoints" / "latest.pt", weights_only=True)
    after = torch.load(run / "checkpoints" / "latest.pt", weights_only=True)
    assert (before["updates"], after["updates"], after["agent_steps"]) == (100, 150, 800)
    step = lambda content: next(iter(content["optimizer"]["state"].values()))["step"].item()  # noqa: E731
    assert (step(before), step(after)) == (100, 150)
    again = inside("train", f"resume={run}", "logger.wandb=off")
    assert again.returncode == 0 and "is finished" in again.stdout
    same = inside("train", f"resume={run}", "agent.discount=0.99", "logger.wandb=off")
    assert same.returncode == 0 and "is finished" in same.stdout
    same = inside("train", "resume=auto", f"run_dir={run}", "env.game=breakout", "seed=1", "logger.wandb=off")
    assert same.returncode == 0 and "is finished" in same.stdout
    other = inside("train", "resume=auto", f"run_dir={run}", "preset=nature")
    assert other.returncode == 2 and "is a run of preset=default, not nature" in other.stderr
    refused = inside("train", f"resume={run}", "agent.discount=0.5")
    assert refused.returncode == 2 and "cannot be changed" in refused.stderr


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "atari_dqn",
            "train",
            "env=cartpole",
            "total_steps=10M",
            "run_dir=run",
            "logger.wandb=off",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.time() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert re.search(r"stopped on request after [\d,]+ agent steps.*`atari-dqn train resume=run`", output)
    assert checkpoints.Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt").agent_steps > 2000


def test_sigterm_in_the_last_evaluation_loses_nothing(tmp_path, monkeypatch):
    from atari_dqn.evaluation import rollout

    run = small_run(tmp_path / "run", "env=cartpole", "total_steps=2_000", "evaluation.episodes=50")
    original = rollout.play
    monkeypatch.setattr(rollout, "play", lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM) or original(*a, **k))
    run.go()
    assert checkpoints.Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt").agent_steps == 2000
    assert rows(tmp_path / "run" / "evaluations.csv") == []  # half an evaluation would favour short games


def test_a_failing_film_does_not_stop_a_run(tmp_path, monkeypatch):
    from atari_dqn.viewing import video

    def fail(*_, **__):
        raise OSError("no encoder")

    monkeypatch.setattr(video, "film", fail)
    run = small_run(tmp_path / "run", "env=cartpole", "total_steps=1_500", "evaluation.episodes=1")
    run.evaluator._films = True
    run.go()
    assert [row["network"] for row in rows(tmp_path / "run" / "evaluations.csv")] == ["current", "best"]


@pytest.mark.parametrize(("share", "films"), [(0.001, ["step504", "step2000"]), (1, 4)], ids=str)
def test_films_take_no_more_than_their_share_but_the_last(share, films, tmp_path, monkeypatch):
    from atari_dqn.viewing import video

    filmed = []

    def film(player, env, epsilon, seed, path, seconds, stop):
        time.sleep(0.02)
        filmed.append(path.stem)

    monkeypatch.setattr(video, "film", film)
    words = [
        "total_steps=2_000",
        "evaluation.every_steps=500",
        "evaluation.episodes=1",
        f"evaluation.video_share={share}",
    ]
    run = small_run(tmp_path / "run", "env=cartpole", *words)
    run.evaluator._films = True
    run.go()
    assert films in (filmed, len(filmed))


def test_divergence_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    run = small_run(
        tmp_path / "run", "env=cartpole", "total_steps=4_000", "optimizer.name=SGD", "optimizer.learning_rate=10",
        "checkpoint.every_steps=500", "agent.loss=squared",
    )  # fmt: skip
    with pytest.raises(RunFailed, match=r"learning diverged.*resume"):
        run.go()
    assert checkpoints.Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt").agent_steps == 1000


def test_large_scores_keep_their_digits_and_torn_rows_go(tmp_path):
    from atari_dqn.tracking.csv_files import EPISODES, CsvFile

    path = tmp_path / "episodes.csv"
    row = dict.fromkeys(EPISODES, 1) | {"agent_steps": 100, "return": 1234567.0}
    CsvFile(path, EPISODES, 0).write(row)
    with open(path, "a") as file:
        file.write("200,5")  # what a kill leaves
    CsvFile(path, EPISODES, 1000).write(row | {"agent_steps": 300})
    assert [(r["agent_steps"], r["return"]) for r in rows(path)] == [("100", "1234567"), ("300", "1234567")]


# ----------------------------------------------------------------------------------------------------- every config

PRESETS = sorted(path.stem for path in (ROOT / "conf" / "preset").glob("*.yaml"))
ENVS = sorted(path.stem for path in (ROOT / "conf" / "env").glob("*.yaml"))


# A vector by any other name learns as CartPole's does.
@pytest.mark.parametrize(
    ("env", "preset"), [(e, p) for e in ENVS for p in PRESETS if e != "gymnasium" or p == "default"]
)
def test_every_config_composes_and_learns_a_few_steps(env, preset, tmp_path):
    words = [
        f"env={env}", f"preset={preset}", "num_envs=4", "total_steps=96", "replay.warmup_steps=64",
        "evaluation.episodes=1", "protocol.max_frames=100", "env.max_frames=100",
    ]  # fmt: skip
    pictures = {
        "laptop": ("use network=mlp network.standardize=false", ["network=mlp", "network.standardize=false"]),
        "drq_eps": ("set it to none", ["agent.augmentation=none"]),
    }
    if preset in pictures and env != "atari":  # it is for pictures; what it says then is a remedy
        remedy, more = pictures[preset]
        with pytest.raises(UserError, match=re.escape(remedy)):
            small_run(tmp_path / "run", *words)
        words += more
    run = small_run(tmp_path / "run", *words)
    run.go()
    assert run.agent_steps == 96 and run.updates > 0
    assert checkpoints.Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt").config.preset == preset


def notes(*words: str) -> str:
    return "\n".join(validate.notes(compose.to_train_config(compose.compose("train", list(words)))))


def test_a_note_names_what_nothing_reads():
    dopamine = (
        "env.repeat_action_probability=0.25 (needs env=atari); network.padding=same (needs a network with convolutions)"
    )
    per = "replay.priority_exponent=0.5, replay.importance_steps=50,000,000 (needs replay.prioritized=true)"
    for words, said in (
        (["env=cartpole", "preset=dopamine"], dopamine),
        (["env=gymnasium", "env.game=Acrobot-v1", "preset=dopamine"], dopamine),
        (["preset=keras_rl_cartpole"], "network.hidden=[16] (needs network=mlp)"),
        (["preset=rainbow", "replay.prioritized=false"], per),
        (
            ["preset=dueling", "agent.dueling=false"],
            "agent.dueling_gradient_scale=0.70710678 (needs agent.dueling=true)",
        ),
        (["env=cartpole", "protocol=nature"], "protocol.noop_max=30 (needs env=atari)"),
        (["env=cartpole", "protocol=machado"], "protocol.repeat_action_probability=0.25"),
        (["env=cartpole", "head.v_max=7"], "head.v_max=7.0 (needs head=c51)"),
        (["agent.noisy=true", "exploration.start=0", "exploration.end=0", "exploration.persistence=2"], "persistence"),
        (
            ["exploration.end=1", "exploration.decay_steps=5"],
            "exploration.decay_steps=5 (needs exploration.start different",
        ),
    ):
        assert said in notes(*words), notes(*words)


def test_what_a_run_reads_or_leaves_as_it_is_by_default_is_not_noted():
    own = [["env=cartpole", "preset=keras_rl_cartpole"], ["env=gymnasium", "env.game=CartPole-v1"]]
    own += [[f"preset={preset}"] for preset in PRESETS if preset != "keras_rl_cartpole"]
    own += [[f"env={env}"] for env in ENVS]
    own += [["env=cartpole", "env.noop_max=0", "protocol=dopamine", "protocol.repeat_action_probability=0"]]
    own += [["env=cartpole", "head=c51", "agent.reward_clip=1"], ["env=cartpole", "preset=laptop", "network=mlp"]]
    own[-1] += ["network.standardize=false"]
    for words in own:
        assert "without effect" not in notes(*words), notes(*words)


def test_every_setting_that_may_be_unread_is_one():
    keys = [key for reader in unread.READERS for key in reader.keys.split()]
    assert len({*keys}) == len(keys) and {*keys} <= compose.known_keys("train")[0]


def test_cartpole_chooses_its_preset_unless_another_is_typed():
    def chosen(*words: str) -> tuple[str, int, int]:
        c = compose.to_train_config(compose.compose("train", list(words)))
        return c.preset, c.num_envs, c.total_steps

    own = ("cartpole", 8, 150_000)
    assert chosen("env=cartpole") == own == chosen("preset=cartpole", "env=cartpole", "resume=auto")
    assert chosen("env=cartpole", "num_envs=3") == ("cartpole", 3, 150_000)
    assert chosen("env=cartpole", "preset=nature") == ("nature", 16, 50_000_000)
    assert chosen("env=cartpole", "preset=default")[0] == "default" == chosen("env=cartpole", "resume=runs/x")[0]
    assert compose.with_groups("train", ["env.game=mine:Env-v0"]) == ["env.game=mine:Env-v0", "env=gymnasium"]
    old = compose.to_train_config(compose.compose("train", ["env=cartpole", "num_envs=3"]))
    old.preset = "default"  # as it was called
    assert [departure.key for departure in presets.departures(old)] == ["num_envs"]


def test_each_run_of_a_multirun_has_its_own_environment_s_preset(command, tmp_path):
    words = ["num_envs=2", "total_steps=80", "replay.warmup_steps=40", "evaluation.episodes=1", "logger.wandb=off"]
    done = command("train", "-m", "env=cartpole,gymnasium", *words)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.partition("-seed")[0] for path in (tmp_path / "runs").glob("*-v1-*"))
    assert names == ["Acrobot-v1-default", "CartPole-v1-cartpole"]


def test_in_a_multirun_words_are_for_all_runs(command, tmp_path):
    short = ["env=cartpole", "total_steps=80", "num_envs=2", "evaluation.episodes=1", "logger.wandb=off"]
    done = command("train", "-m", "head=scalar,c51", "head.v_max=50", "evaluation.video_seconds=0", *short)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no effect in this run: head.v_max=50.0 (needs head=c51)") == 1


def test_an_evaluation_says_what_its_environment_does_not_read(tmp_path, capsys):
    small_run(tmp_path / "run", "env=cartpole", "num_envs=2", "total_steps=40", "evaluation.episodes=1").go()
    words = [f"checkpoint={tmp_path}/run", "evaluation.episodes=2", f"output={tmp_path}/e.json"]
    assert __main__.main(["evaluate", *words, "protocol=dopamine"]) == 0
    said, result = capsys.readouterr().out, json.loads((tmp_path / "e.json").read_text())
    assert "note: no effect in this run: protocol.repeat_action_probability=0.25 (needs env=atari)" in said
    played = result["protocol"]
    assert (played["repeat_action_probability"], played["own_frame_skip"], played["noop_max"]) == (0, [1, 1], None)
    assert __main__.main(["evaluate", *words]) == 0 and "note" not in capsys.readouterr().out


def test_a_protocol_by_name_is_played_whole_and_a_changed_one_is_renamed():
    run = Protocol(name="nature", epsilon=0.05, repeat_action_probability=0.0, noop_max=30, max_frames=18_000)
    greedy = compose.merge_protocol(PlayProtocol(name="greedy", epsilon=0.0), run)
    assert greedy == Protocol(name="greedy", epsilon=0.0)  # nothing left of nature's
    changed = compose.merge_protocol(PlayProtocol(max_frames=400), run)
    assert changed == dataclasses.replace(run, name="nature-changed", max_frames=400)
    assert compose.merge_protocol(PlayProtocol(), run) == run


def test_numbers_as_people_write_them():
    assert compose.as_hydra_reads("replay.capacity=200k") == "replay.capacity=200000"
    assert compose.as_hydra_reads("total_steps=1.5M") == "total_steps=1500000"
    assert compose.as_hydra_reads("total_steps=1e6") == "total_steps=1000000"
    assert compose.as_hydra_reads("total_steps=20,000") == "total_steps=20000"
    assert compose.as_hydra_reads("env.game=2k") == "env.game=2k"
    assert compose.as_hydra_reads("env.game=Pong,Breakout") == "env.game=Pong,Breakout"
    assert compose.as_hydra_reads("checkpoint=runs/a (1)=2/b.pt") == "checkpoint='runs/a (1)=2/b.pt'"
    assert compose.as_hydra_reads("total_steps=0.5") == "total_steps=0.5"


def test_every_module_imports():
    import importlib
    import pkgutil

    import atari_dqn

    names = [module.name for module in pkgutil.walk_packages(atari_dqn.__path__, "atari_dqn.")]
    assert len(names) > 80
    for name in names:
        importlib.import_module(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_every_setting_of_a_command(name, inside):
    done = inside(name, "--help")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr
    assert max(map(len, lines)) <= 80 and "Hydra" not in done.stdout and "???" not in done.stdout
    assert lines[0].endswith(f"{name} key=value ...") and "--cfg job" in done.stdout
    assert all(line.split()[1] == name for line in lines[-2:])  # atari-dqn NAME ..., two examples
    shown = {match[1]: match[2] for match in re.finditer(r"^  ([a-z_.0-9]+)=(.+)\n?", done.stdout, re.MULTILINE)}
    keys = {key for key in compose.known_keys(name)[0] if key not in messages.sections(compose.known_keys(name)[0])}
    own = {"sweep": "sweep.games", "profile": "total_steps", "demo": "env.goals", "atari100k": "table.only"}
    assert own[name] in shown if name in own else keys <= shown.keys()
    own_files = usage._sources(f"{name}.yaml")
    described = usage._described(compose.compose(name, []), own_files, name)
    assert described.keys() == keys and not [key for key, (_, text) in described.items() if len(text) < 4]


def test_help_shows_defaults_choices_and_ranges(inside):
    said = re.sub(r"\s+", " ", inside("train", "-h").stdout)
    for text in (
        "preset=default c51 | cartpole | cleanrl | default", "replay.capacity=1_000_000 agent steps; 7.06 GB of frames",
        "num_envs=16 games played side by side (from 1 to 4096)", "replay.device=auto auto | cpu | cuda:",
        "agent.munchausen=false targets of a softmax policy", "head.v_max=10.0 of c51",
    ):  # fmt: skip
        assert text in said
    nature = inside("train", "preset=nature", "--help").stdout
    assert "preset=nature " in nature and re.search(r"optimizer.learning_rate=0.00025\n", nature)
    assert "checkpoint=... " in inside("evaluate", "-h").stdout
    wrong = inside("train", "preset=natur", "--help")
    assert wrong.returncode == 2 and "did you mean nature?" in wrong.stderr


def test_help_lists_the_commands(inside):
    for words, code in ((["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2)):
        done = inside(*words)
        assert done.returncode == code and max(map(len, done.stdout.splitlines())) <= 80
        listed = re.findall(r"^  (\w+) +\w", done.stdout, re.MULTILINE)
        assert listed == [*usage.SUMMARIES] and {*listed} == {*COMMANDS, "games", "doctor"}
    assert "It takes no settings" in inside("games", "--help").stdout


@pytest.mark.parametrize("typed", ["--version", "--help", "train --help", "train lr=1", "trian", "runs --help"])
def test_what_needs_no_network_does_not_load_torch(typed, tmp_path):
    program = "import sys; from atari_dqn.__main__ import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, *typed.split()], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_tab_key_completes_in_bash(tmp_path):
    lines = {
        "tr": ["train "],
        "train preset=na": ["nature "],  # bash takes = for the end of a word
        "train env.game=Po": ["Pong ", "Pooyan "],
        "train seed=2 agent.do": ["agent.double="],
        "train agent.double=": ["false ", "true "],
        "evaluate --cf": ["--cfg "],
        "evaluate checkpoint=ru": [],  # a file's name
        "runs ru": ["runs="],
        "bogus x": [],
    }
    program = f"{sys.executable} -m atari_dqn"
    script = f'''eval "$({program} -sc install=bash)"
        try() {{ COMP_LINE="$1"; COMP_POINT=${{#1}}; COMP_WORDS=($1)
        _atari_dqn "{sys.executable}"; printf "%s\\n" "${{COMPREPLY[*]}}"; }}
        complete -p atari-dqn >&2\n'''
    script += "\n".join(f'try "{program} {line}"' for line in lines)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert "-F _atari_dqn atari-dqn" in done.stderr, done.stderr
    assert done.stdout.splitlines() == [" ".join(words) for words in lines.values()]


def test_completion_is_for_bash(inside):
    for words in (["-sc"], ["-sc", "install=fish"]):
        assert "completion is for bash" in inside(*words).stderr
    assert "complete -r atari-dqn" in inside("-sc", "uninstall=bash").stdout


def test_presets_of_one_s_own_are_found_in_a_folder(command, inside, tmp_path):
    own = tmp_path / "my conf" / "preset" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndefaults:\n  - nature\n  - _self_\npreset: mine\nagent:\n  n_step: 3\n")
    short = ["num_envs=2", "total_steps=64", "replay.warmup_steps=32", "evaluation.episodes=1", "logger.wandb=off"]
    short += ["protocol.max_frames=40", "evaluation.video_seconds=0", "env=cartpole", "run_dir=run"]
    done = command("train", "--config-dir", "my conf", "preset=mine", *short)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "run/config.yaml").read_text()
    assert "preset: mine\n" in written and "n_step: 3\n" in written and "learning_rate: 0.00025\n" in written
    again = inside("train", "resume=run", "total_steps=96", "logger.wandb=off")  # which needs no folder
    assert again.returncode == 0 and "done: 96 agent steps" in again.stdout, again.stderr
    assert "preset=mine " in inside("train", "--config-dir=my conf", "preset=mine", "--help").stdout

    def refused(*words: str) -> str:
        done = inside("train", *words)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        return str(done.stderr)

    assert "preset=mine: no such preset" in refused("preset=mine")
    assert "did you mean mine?" in refused("--config-dir", "my conf", "preset=min")
    assert "no such folder" in refused("--config-dir", "nowhere") and "needs a folder" in refused("--config-dir")
    own.with_name("nameless.yaml").write_text("# @package _global_\nseed: 2\n")
    assert "preset: NAME" in refused("--config-dir", "my conf", "preset=nameless")
    own.with_name("nature.yaml").touch()
    assert "preset/nature.yaml has the name of one in conf/" in refused("--config-dir", "my conf")


def test_doctor_finds_this_machine_fit(command):
    done = command("doctor")
    assert done.returncode == 0, done.stdout
    assert "The main job can run here" in done.stdout and "Breakout" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_profile_says_where_the_time_goes_and_leaves_nothing(inside, tmp_path):
    result = inside("profile", "env=cartpole", "total_steps=2_500")
    assert result.returncode == 0, result.stderr
    shares = [float(share) for share in re.findall(r"│ +([\d.]+)% │", result.stdout)]
    assert len(shares) == 7 and sum(shares) == pytest.approx(100, abs=1)
    assert re.search(r"[\d,]+ agent steps/s, [\d,]+ frames/s, [\d,.]+ updates/s", result.stdout)
    assert "torch operator" in result.stdout and max(map(len, result.stdout.splitlines())) <= 80
    assert not list(tmp_path.glob("runs*"))
    short = inside("profile", "env=cartpole", "total_steps=1_010")
    assert short.returncode == 2 and "too short to profile" in short.stderr and len(short.stderr.splitlines()) == 1


def test_the_demo_stops_when_it_is_solved_and_says_where_all_is(command, tmp_path):
    goal = "env.goals=[{score: -21, games: 30, note: it is solved, stop: true}]"  # which random play reaches
    short = ["total_steps=100_000", "replay.warmup_steps=100_000", "evaluation.episodes=1", "protocol.max_frames=400"]
    result = command("demo", goal, *short, "evaluation.video_seconds=1", "run_dir=runs/it", "logger.wandb=off")
    assert result.returncode == 0, result.stderr
    assert "it is solved: mean return" in result.stdout and "on track or not, from 100k frames on" in result.stdout
    steps = int(list(csv.DictReader((tmp_path / "runs/it/metrics.csv").open()))[-1]["agent_steps"])
    assert steps < 60_000
    there, last = result.stdout.strip().splitlines()[-2:]
    assert there.startswith("all of it is in runs/it: ")
    files = re.findall(r"(\S+) \(", there)
    assert files == [f"videos/step{steps}.mp4", "compare.png", "episodes.csv", "checkpoints/best.pt"]
    assert all((tmp_path / "runs/it" / name).stat().st_size > 100 for name in files)
    assert re.match(r"Pong: -2\d\.\d over the last 20 training games, -\d+\.\d in evaluation \(random", last)
    assert f"its film: runs/it/videos/step{steps}.mp4; try next: " in last and "max_minutes" not in last


def test_the_demo_takes_other_games_for_as_long_as_it_is_given_and_goes_on(command, tmp_path):
    short = ["replay.warmup_steps=100k", "evaluation.episodes=1", "evaluation.video_seconds=0", "logger.wandb=off"]
    words = ["demo", "env.game=Breakout", "max_minutes=0.05", *short, "env.max_frames=400", "protocol.max_frames=200"]
    result = command(*words, "run_dir=runs/it")
    assert result.returncode == 0, result.stderr
    last = result.stdout.strip().splitlines()[-1]
    assert re.match(
        r"Breakout: .* in evaluation \(random play 1.7, a human 30.5\) after [\d,]+ agent steps in 0:", last
    )
    assert "max_minutes=0.2 total_steps=10M" in last and "film" not in last
    told = json.loads((tmp_path / "runs/it/process.json").read_text())
    assert told["ended"] == "finished"
    steps = int(list(csv.DictReader((tmp_path / "runs/it/metrics.csv").open()))[-1]["agent_steps"])
    again = command("train", "resume=runs/it", "logger.wandb=off")
    assert again.returncode == 0 and "finished" in again.stdout and "max_minutes=... or total_steps=..." in again.stdout
    longer = command("train", "resume=runs/it", "max_minutes=5", f"total_steps={steps + 400}", "logger.wandb=off")
    assert longer.returncode == 0, longer.stderr
    rows = list(csv.DictReader((tmp_path / "runs/it/metrics.csv").open()))
    assert int(rows[-1]["agent_steps"]) == steps + 400
    refused = command("demo", "env=cartpole", "env.game=CartPole-v1")
    assert refused.returncode == 2 and "the demo is of Atari games" in refused.stderr
