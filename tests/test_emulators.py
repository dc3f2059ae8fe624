"""The ALE's C++ path against the readable wrappers; lives, cuts, ends and scores."""

import dataclasses

import gymnasium
import numpy as np
import pytest

from atari_dqn.config import compose, schema, validate
from atari_dqn.data.games import atari_games, atari_name
from atari_dqn.envs import factory, wrappers
from atari_dqn.envs.atari import atari_actions
from atari_dqn.envs.base import CUT, ORDINARY, TERMINAL, Game, VectorStep
from atari_dqn.envs.gym import make_single
from atari_dqn.registry import environments
from atari_dqn.utils.errors import UserError
from atari_dqn.viewing import video


def atari(*overrides: str) -> schema.Env:
    return compose.to_train_config(compose.compose("train", list(overrides))).env


class Gymnasium:
    """Gymnasium's own AtariPreprocessing, one frame at a time."""

    def __init__(self, game: str) -> None:
        plain = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0)
        self.env = gymnasium.wrappers.AtariPreprocessing(plain, noop_max=0)

    def reset(self, seed: int | None = None) -> np.ndarray:
        return self.env.reset(seed=seed)[0]

    def step(self, action: int) -> np.ndarray:
        return self.env.step(action)[0]


@pytest.mark.parametrize("game", ["Pong", "Breakout", "Seaquest", "MsPacman", "Qbert"])
@pytest.mark.parametrize("fire_reset", [False, True])
def test_cpp_frames_equal_the_wrappers_and_gymnasiums(game, fire_reset):
    """Same seeds, same actions, 700 agent steps: equal frames, rewards, ends and stacks."""
    env = atari(
        f"env.game={game}", "env.noop_max=0", f"env.terminal_on_life_loss={str(fire_reset).lower()}",
        f"env.fire_reset={str(fire_reset).lower()}", "env.max_frames=1200",
    )  # fmt: skip
    envs = factory.make_emulators(env, 1)
    oracle = wrappers.atari(game, noop_max=0, fire_reset=fire_reset, max_frames=1200)
    third = None if fire_reset else Gymnasium(game)  # which knows no FIRE
    rng = np.random.default_rng(5)
    frames = envs.reset([7])
    stack, _ = oracle.reset(seed=7)
    assert (frames[0] == stack[-1]).all() and (stack[:-1] == 0).all()
    assert third is None or (third.reset(seed=7) == frames[0]).all()
    rewards, over, ends, lost = 0.0, False, 0, 0
    for _ in range(700):
        action = int(rng.integers(len(envs.actions)))
        envs.send(np.array([action]))
        turn = envs.recv()
        if over:  # the step after an end only shows the next game
            stack, _ = oracle.reset()
            gymnasiums = third and third.reset()
            over = False
            assert turn.rewards[0] == 0 and turn.flags[0] == ORDINARY
        else:
            stack, reward, terminated, truncated, _ = oracle.step(action)
            gymnasiums = third and third.step(action)
            over = terminated or truncated
            assert turn.rewards[0] == reward
            life = fire_reset and not over and turn.flags[0] == TERMINAL
            assert life or turn.flags[0] == (TERMINAL if terminated else CUT if truncated else ORDINARY)
            rewards += abs(reward)
            ends, lost = ends + over, lost + life
        if not over or turn.flags[0] == CUT:  # (at game over the C++ path repeats the frame before; nothing reads it)
            assert (turn.frames[0] == stack[-1]).all()
            assert third is None or (turn.frames[0] == gymnasiums).all()
    assert ends >= 2 and rewards > 0 and (lost > 0) == (fire_reset and game != "Pong")
    envs.close()
    oracle.close()


def test_a_breakout_game_has_five_lives_and_one_score():
    envs = factory.make_emulators(atari("env.game=Breakout"), 2)
    envs.reset([1, 2])
    rng = np.random.default_rng(0)
    lives_lost, rewards, games = np.zeros(2, int), np.zeros(2), []
    while len(games) < 4:
        envs.send(rng.integers(4, size=2))
        turn = envs.recv()
        rewards += turn.rewards
        lives_lost += turn.flags == TERMINAL
        for game in turn.games:
            assert game.score == rewards[game.env] and lives_lost[game.env] == 5
            assert game.length_frames > 400
            rewards[game.env], lives_lost[game.env] = 0, 0
            games.append(game)
    assert any(game.score > 0 for game in games)
    envs.close()


@pytest.mark.parametrize("life_loss", ["true", "false"])
def test_pong_and_adventure_end_where_the_emulator_starts_anew(life_loss):
    """Pong counts no lives; Adventure can end without losing one."""
    for game, steps in (("Pong", 1300), ("Adventure", 1500)):
        envs = factory.make_emulators(atari(f"env.game={game}", f"env.terminal_on_life_loss={life_loss}"), 4)
        envs.reset([1, 2, 3, 4])
        rng = np.random.default_rng(0)
        ended, restarts, frame = 0, 0, np.zeros(4)
        for _ in range(steps):
            envs.send(rng.integers(len(envs.actions), size=4))
            frames, _, terminated, truncated, info = envs._envs.recv()
            envs._envs.recv = lambda answer=(frames, _, terminated, truncated, info): answer
            ended += len(envs.recv().games)
            del envs._envs.recv
            restarts += int((info["episode_frame_number"] < frame).sum())
            frame = info["episode_frame_number"].copy()
        assert ended >= restarts > (game == "Pong") * 2 and ended - restarts <= 4
        envs.close()


def test_cut_games_are_flagged_as_cut_and_counted():
    envs = factory.make_emulators(atari("env.game=Pong", "env.max_frames=400"), 3)
    envs.reset([1, 2, 3])
    for step in range(1, 202):
        envs.send(np.zeros(3, np.int64))
        turn = envs.recv()
        assert (turn.flags == (CUT if step % 101 == 100 else ORDINARY)).all()  # step 101 shows the next game
        assert [g.length_frames for g in turn.games] == ([400] * 3 if step % 101 == 100 else [])
    envs.close()


def test_games_cut_at_different_times_do_not_disturb_each_other():
    """Four games side by side are what each is alone: ends, cuts and restarts of one leave the others untouched."""
    env = atari("env.game=Breakout", "env.max_frames=600", "env.repeat_action_probability=0.25")

    def play(seeds: list[int], columns: list[int]) -> list[VectorStep]:
        envs, rng = factory.make_emulators(env, len(seeds)), np.random.default_rng(1)
        envs.reset(seeds)
        turns = []
        for _ in range(500):
            envs.send(rng.integers(4, size=4)[columns])
            turns.append(envs.recv())
        envs.close()
        return turns

    together = play([11, 12, 13, 14], [0, 1, 2, 3])
    partial = [turn for turn in together if 0 < len(turn.games) < 4]
    assert any(g.cut for turn in partial for g in turn.games) and any(not g.cut for t in partial for g in t.games)
    for i in range(4):
        for turn, alone in zip(together, play([11 + i], [i]), strict=True):
            assert (turn.frames[i] == alone.frames[0]).all()
            assert (turn.rewards[i], turn.flags[i]) == (alone.rewards[0], alone.flags[0])
            assert [g[1:] for g in turn.games if g.env == i] == [g[1:] for g in alone.games]


def test_no_stickiness_unless_asked():
    """Two games with equal seeds stay equal; with stickiness, other seeds diverge from them."""

    def play(probability: float, seed: int) -> np.ndarray:
        envs = factory.make_emulators(
            atari("env.game=Breakout", f"env.repeat_action_probability={probability}", "env.noop_max=0"), 1
        )
        frames, rng = [envs.reset([seed])], np.random.default_rng(0)
        for _ in range(150):
            envs.send(rng.integers(4, size=1))
            frames.append(envs.recv().frames)
        envs.close()
        return np.array(frames)

    assert (play(0, 1) == play(0, 2)).all()
    assert (play(0.25, 1) == play(0.25, 1)).all()
    assert (play(0.25, 1) != play(0.25, 2)).any()


def test_noop_starts_are_any_number_from_0_to_30_frames():
    def starts(count: int, *overrides: str) -> set[int]:
        envs, found = factory.make_emulators(atari("env.game=Breakout", *overrides), count), set()
        envs.reset(list(range(count)))
        for _ in range(20):  # without seeds, as after a game's end; a seed takes the ALE 0.1 s
            found |= set(
                envs._envs.reset(options={"reset_mask": np.ones(count, bool)})[1]["episode_frame_number"].tolist()
            )
        envs.close()
        return found

    assert starts(12) == set(range(31))
    assert starts(1, "env.noop_max=0") == {0}


def test_lives_go_5_4_3_2_1_0_in_one_game_whose_return_counts_them_all():
    envs = factory.make_emulators(atari("env.game=Breakout"), 1)
    envs.reset([3])
    rng = np.random.default_rng(0)
    lives, rewards, flags, games = [int(envs._lives[0])], [], [], []
    while not games:
        envs.send(rng.integers(4, size=1))
        turn = envs.recv()
        games += turn.games
        rewards.append(float(turn.rewards[0]))
        flags.append(int(turn.flags[0]))
        if envs._lives[0] != lives[-1]:
            lives.append(int(envs._lives[0]))
            assert flags[-1] == TERMINAL
            assert len(lives) == 6 or not games  # the game goes on
    envs.close()
    assert lives == [5, 4, 3, 2, 1, 0] and flags.count(TERMINAL) == 5
    assert games[0].score == sum(rewards) > 0 and games[0].length_frames == 4 * len(rewards)


def test_fire_is_pressed_at_the_start_and_after_each_lost_life():
    """In Breakout no ball is served without it: a player who never presses FIRE loses all lives all the same."""
    overrides = ["env.game=Breakout", "env.fire_reset=true", "env.noop_max=3", "env.max_frames=8000"]
    for fire, lost in (("true", 5), ("false", 0)):
        envs = factory.make_emulators(atari(*overrides, f"env.fire_reset={fire}"), 1)
        envs.reset([1])
        lives = [int(envs._lives[0])]
        for _ in range(1000):
            envs.send(np.zeros(1, np.int64))
            turn = envs.recv()
            lives.append(int(envs._lives[0]))
            if turn.games:
                break
        envs.close()
        assert lives[0] - lives[-1] == lost


def test_cartpole_counts_whole_games_and_bootstraps_from_the_time_limit():
    env = compose.to_train_config(compose.compose("train", ["env=cartpole"])).env
    envs = factory.make_emulators(env, 2)
    frames = envs.reset([1, 2])
    assert frames.shape == (2, 4) and frames.dtype == np.float32
    games, cuts = [], 0
    for _ in range(1100):  # pushing against the pole's fall balances it for the whole 500 steps
        angle, speed = frames[:, 2], frames[:, 3]
        envs.send((angle + 0.5 * speed > 0).astype(np.int64))
        turn = envs.recv()
        frames, cuts = turn.frames, cuts + int((turn.flags == CUT).sum())
        games += turn.games
    assert [(g.score, g.length_frames) for g in games] == [(500, 500)] * 4 and cuts == 4
    envs.close()


def test_any_case_of_any_game_is_understood():
    assert len(atari_games()) > 100
    for typed in ("Breakout", "breakout", "BREAKOUT", "ALE/Breakout-v5", "BreakoutNoFrameskip-v4"):
        assert atari_name(typed) == "Breakout"
    assert atari_name("ms_pacman") == atari_name("mspacman") == "MsPacman"
    with pytest.raises(UserError, match=r"did you mean Breakout\?"):
        atari_name("Breakot")
    with pytest.raises(UserError, match="no Atari game"):
        atari_name("Doom")


def test_action_meanings():
    assert atari_actions("Breakout", False) == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert len(atari_actions("Breakout", True)) == 18


# ------------------------------------------------------------------------------------- environments of Gymnasium's own


@pytest.mark.parametrize(
    ("probe", "left"), [("Vector", 252), ("Ram", 252), ("Counts", 97), ("Screen", 253)], ids=lambda word: str(word)
)
def test_only_screens_are_pooled_over_skipped_frames(probe, left):
    """After three steps: of a vector the state as it is, bytes or not; of a screen the brightest of the last two."""
    env = atari("env=gymnasium", f"env.game=Probe/{probe}-v0", "env.frame_skip=3", "env.max_frames=9")
    envs = factory.make_emulators(env, 2)
    envs.reset([1, 2])
    envs.send(np.zeros(2, np.int64))
    seen = envs.recv().frames[0].reshape(2, -1)[:, 0].tolist()
    filmed = video.single_game(env, lambda: None)
    filmed.reset()
    assert seen == [3, left] == np.asarray(filmed.step(0)[0])[-1].reshape(2, -1)[:, 0].tolist()
    assert envs.frame_dtype == (np.uint8 if probe in ("Ram", "Screen") else np.float32) == filmed.step(0)[0].dtype
    envs.close()


@pytest.mark.parametrize("game", ["Backgammon", "VideoCheckers", "Breakout"])
def test_a_film_starts_with_the_no_ops_of_the_emulators(game):
    """Where a game's own actions have no NOOP, too: equal pictures after equally many frames."""
    assert ("NOOP" in atari_actions(game, False)) == (game == "Breakout")
    envs, oracle = factory.make_emulators(atari(f"env.game={game}"), 8), wrappers.atari(game)
    pictures, compared = {}, set()
    envs.reset(list(range(8)))
    for _ in range(10):  # without seeds, each of which takes the ALE 0.1 s
        frames, info = envs._envs.reset(options={"reset_mask": np.ones(8, bool)})
        pictures |= {int(n): frame[0] for n, frame in zip(info["episode_frame_number"], frames, strict=True)}
    oracle.reset(seed=1)
    for _ in range(60):
        stack, info = oracle.reset()
        number = info["episode_frame_number"]
        if number in pictures:
            assert (stack[-1] == pictures[number]).all()
            compared.add(number)
    assert len(compared) > 15
    envs.close()
    oracle.close()


def test_no_frames_are_skipped_twice():
    """Frames that an environment skips by itself: as it was registered, by default, in a wrapper, under other names."""
    preprocessing = gymnasium.wrappers.AtariPreprocessing.wrapper_spec(frame_skip=4, noop_max=0)
    atari_env, pong = "ale_py.env:AtariEnv", {"game": "pong"}
    gymnasium.register("Probe/Default-v0", entry_point=atari_env, kwargs=pong)
    gymnasium.register(
        "Probe/Wrapped-v0", entry_point=atari_env, kwargs=pong | {"frameskip": 1, "repeat_action_probability": 0.0},
        additional_wrappers=(preprocessing,),
    )  # fmt: skip
    for game, frames, sticky in (
        ("ALE/Pong-v5", (4, 4), 0.25), ("Pong-v4", (2, 4), 0), ("Pong-v0", (2, 4), 0.25), ("CartPole-v1", (1, 1), 0),
        ("Probe/Default-v0", (4, 4), 0.25), ("Probe/Wrapped-v0", (4, 4), 0),
        ("PongNoFrameskip-v0", (1, 1), 0.25), ("PongNoFrameskip-v4", (1, 1), 0),
    ):  # fmt: skip
        own = environments.own_of(game)
        assert (own.frame_skip, own.stickiness) == (frames, sticky)
        once, again = (atari("env=gymnasium", f"env.game={game}", f"env.frame_skip={skip}") for skip in (1, 4))
        make_single(once).close()
        notes = validate.own_notes(once)
        assert len(notes) == (own.note != "") == (frames != (1, 1) or sticky > 0)
        for note in notes:
            assert ("0.25" in note) == (sticky > 0) and ("frames a step" in note) == (frames != (1, 1))
        if frames == (1, 1):
            make_single(again).close()
            continue
        for make in (make_single, video.single_game, lambda env: factory.make_emulators(env, 1)):
            with pytest.raises(UserError, match=r"frames a step by itself.* env\.frame_skip=1"):
                make(again, *[None] * (make is video.single_game))


@pytest.mark.parametrize(("limit", "cut"), [(12, False), (108_000, False), (9, True)], ids=str)
def test_a_games_own_limit_does_not_cut_it_off(limit, cut):
    """Its last state is bootstrapped from in either case; it is our limit only that ends a game too early."""
    env = atari("env=gymnasium", "env.game=Probe/Vector-v0", "env.frame_skip=3", f"env.max_frames={limit}")
    envs, found, flags = factory.make_emulators(env, 1), [], []
    envs.reset([1])
    while not found:
        envs.send(np.zeros(1, np.int64))
        turn = envs.recv()
        found, flags = turn.games, [*flags, int(turn.flags[0])]
    length = min(limit, 12)
    assert found == [Game(0, length, length, cut)] and flags == [*[ORDINARY] * (length // 3 - 1), CUT]
    film = video.play_one(None, env, 0.0, 1, Screens(100))
    assert film == found[0] and film.whole != cut and not film.stopped
    stopped = video.play_one(None, env, 0.0, 1, Screens(2))
    assert stopped.stopped and not stopped.whole
    envs.close()


class Screens(video.Screen):
    """Wants so many pictures."""

    def __init__(self, pictures: int) -> None:
        self.left = pictures

    def show(self, picture: np.ndarray) -> bool:
        self.left -= 1
        return self.left > 0


def test_a_human_is_compared_with_whole_games_only():
    game = Game(0, 20.0, 18_000, False)
    for one, said in (
        (game, "20 (64% of a human)"),
        (game._replace(cut=True), "20 (64% of a human) (truncated at 18,000 frames)"),
        (game._replace(cut=True, length_frames=17_996), "20 (truncated at 17,996 frames)"),
        (game._replace(length_frames=400), "20 (64% of a human)"),
        (game._replace(stopped=True), "20 (stopped)"),
    ):
        assert video.score(dataclasses.replace(atari(), game="Breakout"), one) == said
