"""Play single games on a screen: record them to a video file or show them in a window."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from atari_dqn.config.schema import Env
from atari_dqn.data import scores
from atari_dqn.dqn.exploration import epsilon_greedy
from atari_dqn.envs import wrappers
from atari_dqn.envs.base import Game
from atari_dqn.envs.gym import cut_after, make_single
from atari_dqn.evaluation.player import Player
from atari_dqn.utils import console, seeding
from atari_dqn.viewing.screens import Film, Screen, Thought, Window, has_display

Dress = Callable[[Screen], Screen]


def plain(screen: Screen) -> Screen:
    """The game without panels."""
    return screen


def single_game(
    env: Env,
    on_frame: Callable[[], None] | None = None,
    render_mode: str | None = "rgb_array",
    actions: Sequence[str] = (),
) -> gymnasium.Env:
    """A single environment that can render; observations are frame stacks, as the network receives them.

    Args:
        actions: of an Atari game, see wrappers.atari.
    """
    if env.kind == "atari":
        return wrappers.atari(
            env.game,
            frame_skip=env.frame_skip,
            frame_stack=env.frame_stack,
            screen_size=env.screen_size,
            repeat_action_probability=env.repeat_action_probability,
            noop_max=env.noop_max,
            fire_reset=env.fire_reset,
            max_frames=env.max_frames,
            full_action_space=env.full_action_space,
            actions=actions,
            render_mode=render_mode,
            on_frame=on_frame,
        )
    if not has_display():  # otherwise SDL warns about the missing display
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    game = make_single(env, on_frame, render_mode=render_mode)
    return gymnasium.wrappers.FrameStackObservation(game, env.frame_stack, padding_type="zero")


def told_fps(told: Any) -> int:
    """Frames per second from an environment's metadata; 30 if that is missing or invalid."""
    return int(min(max(told, 1), 1000)) if isinstance(told, int | float) and told > 0 else 30


class Stage:
    """An environment for showing several games in a row. Close it only after the last one: closing a Gymnasium
    environment closes all pygame windows.
    """

    def __init__(self, env: Env) -> None:
        self._env, self._frames, self._going = env, 0, True
        self._screen: Screen | None = None
        self._game = single_game(env, self._on_frame)

    def _on_frame(self) -> None:
        picture: Any = self._game.render()
        self._frames += 1
        self._going = self._going and self._screen is not None and self._screen.show(picture)

    def rehearse(self, seed: int) -> None:
        """Draw a picture before games are shown in threads: pygame loads parts of itself at the first one."""
        self._game.reset(seed=seed)
        self._game.render()

    def play(
        self, player: Player | None, epsilon: float, seed: int, screen: Screen, hand: Callable[[], int] | None = None
    ) -> Game:
        """Play one game and show every frame, in color, until the game ends or the screen is closed.

        Args:
            player: the network that plays, or, with a `hand`, only supplies its values.
            hand: returns a human player's action index, which replaces the network's.
        """
        env, game, self._screen, self._going = self._env, self._game, screen, True
        screen.fps = 60 if env.kind == "atari" else told_fps(game.metadata.get("render_fps"))
        first_action = int(getattr(game.action_space, "start", 0))
        generator = seeding.generator(player.device, seed, "video actions") if player else None
        state, _ = game.reset(seed=seeding.derive(seed, "video game")[0])
        self._frames = 0  # do not count the initial no-ops
        score, agent_steps, over, cut = 0.0, 0, False, False
        while self._going and not over:
            screen.stand(score, agent_steps)
            action = hand() if hand else 0
            if player and generator is not None:
                states = torch.from_numpy(np.asarray(state)).unsqueeze(0).to(player.device)
                q_values = player.q_values(states)
                chosen = epsilon_greedy(q_values, epsilon, generator)
                if hand is None:
                    action = int(player.in_game(chosen))
                played = player.learned_as(action)
                screen.think(Thought(states[0], q_values[0], int(q_values.argmax()), played, hand is not None))
            state, reward, terminated, cut, _ = game.step(action + first_action)
            score += float(reward)
            agent_steps += 1
            over = terminated or cut
        cut = cut and not terminated and self._frames >= cut_after(env, game)
        return Game(0, score, self._frames, cut, stopped=not over)

    def close(self) -> None:
        self._game.close()


def play_one(
    player: Player | None, env: Env, epsilon: float, seed: int, screen: Screen, hand: Callable[[], int] | None = None
) -> Game:
    """Play one game in a new environment; see Stage.play."""
    with contextlib.closing(Stage(env)) as stage:
        return stage.play(player, epsilon, seed, screen, hand)


def film(
    player: Player,
    env: Env,
    epsilon: float,
    seed: int,
    path: Path,
    max_seconds: int = 0,
    stop: Callable[[], bool] = lambda: False,
    dress: Dress = plain,
) -> tuple[Game, float]:
    """Record one game to `path` at its native speed, up to max_seconds (0: all). Returns it and the video's seconds.

    Args:
        dress: adds panels around the picture; see inspector.Inspected.
    """
    with Film(path, max_seconds, stop) as mp4:
        game = play_one(player, env, epsilon, seed, dress(mp4))
    return game, mp4.frames / mp4.fps


def watch(player: Player, env: Env, epsilon: float, seed: int, dress: Dress = plain) -> None:
    """Show games in a window until it is closed."""
    window = Window(env.game)
    with contextlib.closing(Stage(env)) as stage:
        while not window.closed:
            console.say(f"{env.game}: {score(env, stage.play(player, epsilon, seed, dress(window)))}")
            seed += 1


def score(env: Env, game: Game) -> str:
    """A game's score as text: `12 (27% of a human)`, `12 (stopped)`, `12 (truncated at 1,200 frames)`."""
    why = " (stopped)" if game.stopped else f" (truncated at {game.length_frames:,} frames)" if game.cut else ""
    return f"{game.score:.10g}{scores.human(env.game, game.score, game.whole)}{why}"
