"""What a person sees of a network's mind, against the network itself; and playing by hand, at a real X server."""

import csv
import dataclasses
import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import ROOT, small_run

from atari_dqn import __main__
from atari_dqn.config import compose
from atari_dqn.config.schema import Env
from atari_dqn.envs import factory
from atari_dqn.envs.atari import atari_actions
from atari_dqn.evaluation.player import Player
from atari_dqn.training.agents import make_agent
from atari_dqn.utils import seeding
from atari_dqn.viewing import inspector, play, screens, video
from atari_dqn.viewing.screens import Screen, Thought

SEED = 5


class Album(Screen):
    """Keeps what is shown, and what was thought before."""

    def __init__(self, frames: int) -> None:
        self.frames, self.pictures, self.thoughts, self.at = frames, [], [], []

    def think(self, thought: Thought) -> None:
        self.thoughts.append(thought)

    def show(self, picture: np.ndarray) -> bool:
        self.pictures.append(picture)
        self.at.append(len(self.thoughts) - 1)
        return len(self.pictures) < self.frames


def seated(*words: str) -> tuple[Player, Env]:
    """An untrained network at the controls of a game."""
    config = compose.to_train_config(compose.compose("train", list(words)))
    games = factory.make_emulators(config.env, 1)
    games.close()
    made = make_agent(config, games.frame_shape, len(games.actions), torch.device("cpu"))
    return Player(made.online, games.actions, games.actions), config.env


def bar_length(picture: np.ndarray, inspected: inspector.Inspected, i: int) -> int:
    """Pixels of an action's bar, read from the picture."""
    left, above, below, _ = inspected.bar(i)
    row = picture[(above + below) // 2, left : inspector.BARS[0] + inspector.BARS[2]]
    colours = [inspector.BAR, inspector.BEST, inspector.RANDOM]
    return sum(1 for _ in itertools.takewhile(lambda pixel: any((pixel == c).all() for c in colours), row))


@pytest.mark.parametrize("game", ["Breakout", "Boxing"])  # 4 and 18 actions
def test_the_q_values_shown_are_the_networks_on_that_stack(game):
    player, env = seated(f"env.game={game}", "network=small_cnn")
    album = Album(60)
    inspected = inspector.Inspected(album, player, env.game)
    bars = []
    show = inspected.show

    def look(picture: np.ndarray) -> bool:
        going = show(picture)
        bars.append([bar_length(album.pictures[-1], inspected, i) for i in range(len(player.learned))])
        low, high = inspected.scale
        room = inspector.BARS[2] - inspector.NAMES - inspector.NUMBERS
        wanted = [max(1.0, room * (q - low) / (high - low)) for q in inspected.shown]
        np.testing.assert_allclose(bars[-1], wanted, atol=1.01)
        assert inspected.shown == album.thoughts[-1].q_values.tolist()
        return going

    inspected.show = look
    video.play_one(player, env, 0.3, SEED, inspected)
    # Another game, played by the same actions, one after another.
    twin = video.single_game(env, None)
    state, _ = twin.reset(seed=seeding.derive(SEED, "video game")[0])
    for thought in album.thoughts:
        assert np.array_equal(thought.state.numpy(), state)
        own = player.network.q_values(torch.from_numpy(np.array(state))[None])[0]
        torch.testing.assert_close(thought.q_values, own.detach(), rtol=0, atol=0)
        assert thought.best == int(own.argmax())
        state, *_ = twin.step(thought.played)
    assert len(album.thoughts) > 10 and any(thought.played != thought.best for thought in album.thoughts)
    assert all(picture.shape == (inspector.HEIGHT, inspector.WIDTH, 3) for picture in album.pictures)


def test_a_bright_screen_is_lit_without_overflow():
    """White, where it matters most: the light's own colour and a rest of the white, never more than a byte holds."""
    white, glow = np.full((420, 320, 3), 255, np.uint8), np.linspace(0, 1, 84, dtype=np.float32)[:, None].repeat(84, 1)
    seen = inspector.lit(white, glow).astype(int)
    assert np.abs(np.diff(seen, axis=0)).max() < 8  # the light grows gently
    np.testing.assert_allclose(seen[-1, 0], np.minimum(0.2 * 255 + np.array(inspector.GLOW), 255), atol=1)


def test_numbers_find_room_beside_their_bars():
    values = [sign * x * 10.0**k for sign in (1, -1) for x in (1, 9.9949, 9.9996, 9.99996) for k in range(-3, 12)]
    room = inspector.NUMBERS - 8
    assert all(inspector.font(13).getlength(inspector.number(value)) <= room for value in values)
    assert [inspector.number(v) for v in (0.0314, -99.5, 12_345.6, -2.5e6)] == ["0.031", "-99.500", "12.3k", "-2.5M"]


def test_the_frames_shown_are_those_that_the_network_saw():
    player, env = seated("env.game=Pong", "network=small_cnn")
    album = Album(200)
    video.play_one(player, env, 1.0, SEED, inspector.Inspected(album, player, env.game))
    left, top, width, height = inspector.INPUTS
    size, step = min(height, (width - 3 * inspector.MARGIN) // 4), inspector.MARGIN
    for i, frame in enumerate(album.thoughts[album.at[-1]].state.numpy()):
        x = left + i * (size + step)
        seen = album.pictures[-1][top : top + size, x : x + size, 0]
        rows = np.clip(((np.arange(84) + 0.5) * size / 84).astype(int), 0, size - 1)
        assert np.corrcoef(seen[np.ix_(rows, rows)].ravel(), frame.ravel())[0, 1] > 0.97


STANDARDIZED = ["env.game=Pong", "network=nips_cnn", "network.standardize=true"]


@pytest.mark.parametrize("words", [["env=cartpole"], STANDARDIZED], ids=str)
def test_saliency_is_the_slope_of_the_best_q_value(words):
    player, env = seated(*words)
    album, network = Album(40), player.network
    video.play_one(player, env, 1.0, SEED, album)
    if words is STANDARDIZED:
        network.features.standardize(torch.stack([thought.state[-1] for thought in album.thoughts]))
    thought = album.thoughts[-1]
    found = inspector.saliency(network, thought.state, thought.best)
    assert found.shape == thought.state.shape
    x = network.prepare(thought.state[None]).detach()
    for place in found.flatten().argsort(descending=True)[:5].tolist():
        nudge = torch.zeros(x.numel())
        nudge[place] = 0.02
        up, down = (network.q_values(x + sign * nudge.view(x.shape))[0, thought.best] for sign in (1, -1))
        assert abs((up - down).item()) / 0.04 == pytest.approx(float(found.flatten()[place]), rel=0.05)


def test_an_inspected_film_has_every_frame_at_native_speed(tmp_path):
    for words, fps in ((["env.game=Pong", "network=small_cnn"], 60), (["env=cartpole"], 50)):
        player, env = seated(*words)
        counts = []
        inspected = functools.partial(inspector.Inspected, player=player, game=env.game)
        for dress in (video.plain, inspected):
            path = tmp_path / f"{env.game}{len(counts)}.mp4"
            score, seconds = video.film(player, env, 0.2, SEED, path, 2, dress=dress)
            with av.open(str(path)) as film:
                stream = film.streams.video[0]
                assert (stream.codec_context.name, stream.average_rate) == ("h264", fps)
                counts.append((score, seconds, sum(1 for _ in film.decode(stream))))
        assert counts[0] == counts[1] and (stream.width, stream.height) == (inspector.WIDTH, inspector.HEIGHT)


def test_keys_mean_the_actions_of_their_names():
    every = atari_actions("Boxing", True)
    for name in every:
        pressed = {way for way in ("UP", "DOWN", "LEFT", "RIGHT", "FIRE") if way in name}
        assert every[play.action(pressed, every)] == name
    pong = atari_actions("Pong", False)
    for pressed, meant in (
        ({"UP"}, "RIGHT"), ({"DOWN", "FIRE"}, "LEFTFIRE"), (set(), "NOOP"), ({"LEFT", "RIGHT"}, "NOOP"),
        ({"FIRE"}, "FIRE"),
    ):  # fmt: skip
        assert pong[play.action(pressed, pong)] == meant
    freeway = atari_actions("Freeway", False)  # NOOP, UP, DOWN
    assert freeway[play.action({"UP", "RIGHT", "FIRE"}, freeway)] == "UP"
    assert play.action({"RIGHT"}, ("LEFT", "RIGHT")) == 1 and play.action(set(), ("LEFT", "RIGHT")) == 0


def test_no_key_means_no_action(monkeypatch, tmp_path):
    """In Backgammon, too, whose own actions are FIRE, RIGHT and LEFT; with a network's advice and without."""
    played = []
    monkeypatch.setattr(play, "play", lambda *words: played.append(words))
    monkeypatch.setattr(screens, "check_display", lambda remedy: None)
    small_run(tmp_path / "run", "env.game=Backgammon", "num_envs=2", "total_steps=20", "evaluation.episodes=1",
              "network=small_cnn", "protocol.max_frames=40").go()  # fmt: skip
    for words in (["env.game=Backgammon"], ["env.game=Breakout"], [f"checkpoint={tmp_path}/run"]):
        assert __main__.main(["play", *words]) == 0
        player, env, names, *_ = played.pop()
        assert names[play.action(set(), names)] == "NOOP" and env.full_action_space == ("Breakout" not in words[0])
        assert player is None or (player.unmatched == () and "NOOP" in player.unknown)


def test_a_tap_within_a_step_counts_once():
    import pygame

    def press(down: bool, key: int) -> None:
        keyboard.hear(pygame.event.Event(pygame.KEYDOWN if down else pygame.KEYUP, key=key))

    keyboard = play.Keyboard()
    press(True, pygame.K_w)
    press(False, pygame.K_w)
    press(True, pygame.K_SPACE)
    assert keyboard.pressed() == {"UP", "FIRE"} and keyboard.pressed() == {"FIRE"}
    keyboard.hear(pygame.event.Event(pygame.WINDOWFOCUSLOST))
    assert keyboard.pressed() == set()


def test_advice_beside_a_person_who_does_what_it_never_learnt():
    """A network of Pong's at Freeway, which knows NOOP, UP and DOWN: it learned the first of them only."""
    config = compose.to_train_config(compose.compose("train", ["env.game=Pong", "network=small_cnn"]))
    pong, freeway = (atari_actions(game, False) for game in ("Pong", "Freeway"))
    player = Player(make_agent(config, (84, 84), len(pong), torch.device("cpu")).online, pong, freeway)
    album = Album(9)
    hands = itertools.cycle([freeway.index("UP"), freeway.index("NOOP")])
    env = dataclasses.replace(config.env, game="Freeway")
    inspected = inspector.Inspected(album, player, "Freeway")
    video.play_one(player, env, 1.0, SEED, inspected, lambda: next(hands))
    assert [thought.played for thought in album.thoughts] == [None, 0, None]
    assert all(thought.by_hand and thought.best == 0 for thought in album.thoughts)
    assert inspected.shown[1:] == [-np.inf] * 5


@pytest.fixture
def display(tmp_path):
    """A real X server, and its name."""
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        pytest.skip("no Xvfb or xdotool on this machine: `apt install xvfb xdotool`")
    read, write = os.pipe()
    words = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x800x24"]
    server = subprocess.Popen(words, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as told:
        yield f":{told.readline().strip()}"
    server.terminate()
    server.wait()


def screenshot(display: str) -> np.ndarray:
    with av.open(display, format="x11grab", options={"video_size": "1024x800"}) as screen:
        return next(screen.decode(video=0)).to_ndarray(format="rgb24")


GREEN = (92, 186, 92)  # the right player's


def green(picture: np.ndarray) -> np.ndarray:
    return (np.abs(picture.astype(int) - GREEN) < 6).all(-1)


def paddle(picture: np.ndarray) -> float:
    """How low the right paddle is in a window of Pong; below all where it is not to be seen."""
    rows, _ = np.nonzero(green(picture)[230:])
    return float(rows.mean()) if len(rows) else 600.0


def test_a_person_plays_with_the_keyboard(display, tmp_path):
    """Up and Down move the paddle; an ended game is counted; Escape ends."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SDL_")}  # of other tests
    environment |= {"PYTHONPATH": str(ROOT), "DISPLAY": display}
    game = subprocess.Popen(
        [sys.executable, "-m", "atari_dqn", "play", "env.game=Pong", "output=plays.csv"], cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def key(*words: str) -> None:
        subprocess.run(["xdotool", *words], env=environment, check=True, timeout=20)

    try:
        deadline = time.monotonic() + 60
        while not green(screenshot(display)).any():  # its score
            assert time.monotonic() < deadline and game.poll() is None
            time.sleep(0.3)
        heights = []
        for word in ("Up", "Down", "w"):
            key("keydown", word)
            time.sleep(1.5)
            heights.append(paddle(screenshot(display)))
            key("keyup", word)
        assert heights[0] < heights[1] - 100 and heights[2] < heights[1] - 100
        key("key", "p")  # a pause: the picture stands still
        time.sleep(0.4)
        still = screenshot(display)
        time.sleep(0.6)
        assert np.array_equal(screenshot(display), still)
        key("key", "p")
        key("key", "Escape")
        said, wrong = game.communicate(timeout=30)
    finally:
        game.kill()
        game.wait()
    assert game.returncode == 0, wrong
    assert re.fullmatch(r"Pong: -?\d+ \(stopped\)\n", said), said  # 0 on a slow machine
    assert not (tmp_path / "plays.csv").exists()  # no game was played to its end


def test_games_played_by_hand_are_kept(monkeypatch, tmp_path, capsys):
    """CartPole without a touch: it falls in a moment, game after game."""
    player, env = seated("env=cartpole")
    shown = []

    class Quick(play.Window):
        def __init__(self, title: str, remedy: str, hear: object) -> None:
            self.closed = False

        def show(self, picture: np.ndarray) -> bool:
            shown.append(picture.shape)
            self.closed = len(shown) > 25
            return not self.closed

    monkeypatch.setattr(play, "Window", Quick)
    path = tmp_path / "plays.csv"
    play.play(player, env, player.learned, 1, path, "some.pt")
    with open(path) as file:
        kept = list(csv.DictReader(file))
    assert kept and kept[0]["game"] == "CartPole-v1" and kept[0]["checkpoint"] == "some.pt"
    assert 7 < float(kept[0]["score"]) == int(kept[0]["length_frames"]) < 12  # always to the left
    assert shown[0] == (inspector.HEIGHT + play.Strip.HEIGHT, inspector.WIDTH, 3)
    said = capsys.readouterr().out
    assert "CartPole-v1: " in said and f"best game: {max(float(row['score']) for row in kept):g}" in said
    play.keep(path, env, play.Game(0, 3.0, 12, False), "")
    assert len(path.read_text().splitlines()) == len(kept) + 2 and Path(path).read_text().count("when") == 1
