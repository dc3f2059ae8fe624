"""One game, seen from its first picture to its last: filmed to an mp4, or shown in a window."""

import contextlib
import os
from collections.abc import Callable
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
    """The game alone."""
    return screen


def single_game(env: Env, on_frame: Callable[[], None] | None) -> gymnasium.Env:
    """One game that can render; observations are stacks as the network sees them."""
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
            render_mode="rgb_array",
            on_frame=on_frame,
        )
    if not has_display():  # SDL would look for one, and complain
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    game = make_single(env, on_frame, render_mode="rgb_array")
    return gymnasium.wrappers.FrameStackObservation(game, env.frame_stack, padding_type="zero")


def told_fps(told: Any) -> int:
    """Frames a second, as an environment's metadata tells them; 30 where it tells nothing that makes sense."""
    return int(min(max(told, 1), 1000)) if isinstance(told, int | float) and told > 0 else 30


class Stage:
    """An environment on which games are shown one after another. Close it when all are over: Gymnasium's environments
    close all of pygame's windows with them.
    """

    def __init__(self, env: Env) -> None:
        self._env, self._frames, self._going = env, 0, True
        self._screen: Screen | None = None
        self._game = single_game(env, self._on_frame)

    def _on_frame(self) -> None:
        picture: Any = self._game.render()
        self._frames += 1
        self._going = self._going and self._screen is not None and self._screen.show(picture)

    def play(
        self, player: Player | None, epsilon: float, seed: int, screen: Screen, hand: Callable[[], int] | None = None
    ) -> Game:
        """Play one game and show every single frame, in color, until the screen wants no more.

        Args:
            player: the network that plays; or thinks beside, where there is a `hand`.
            hand: a person's action, as the game counts them, in place of the player's.
        """
        env, game, self._screen, self._going = self._env, self._game, screen, True
        screen.fps = 60 if env.kind == "atari" else told_fps(game.metadata.get("render_fps"))
        first_action = int(getattr(game.action_space, "start", 0))
        generator = seeding.generator(player.device, seed, "video actions") if player else None
        state, _ = game.reset(seed=seeding.derive(seed, "video game")[0])
        self._frames = 0  # those before were the no-ops of the start
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
                played = player.learnt_as(action)
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
    """Play one game on a stage of its own; see Stage.play."""
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
    """Film one game to `path` at its native speed, at most max_seconds of it (0: all). Returns it and its seconds.

    Args:
        dress: what is put around the pictures; see inspector.Inspected.
    """
    with Film(path, max_seconds, stop) as mp4:
        game = play_one(player, env, epsilon, seed, dress(mp4))
    return game, mp4.frames / mp4.fps


def watch(player: Player, env: Env, epsilon: float, seed: int, dress: Dress = plain) -> None:
    """Show games in a window, one after another, until it is closed."""
    window = Window(env.game)
    with contextlib.closing(Stage(env)) as stage:
        while not window.closed:
            console.say(f"{env.game}: {score(env, stage.play(player, epsilon, seed, dress(window)))}")
            seed += 1


def score(env: Env, game: Game) -> str:
    """A game's score for a person: `12 (27% of a human)`, `12 (stopped)`, `12 (cut off at 1,200 frames)`."""
    why = " (stopped)" if game.stopped else f" (cut off at {game.length_frames:,} frames)" if game.cut else ""
    return f"{game.score:.10g}{scores.human(env.game, game.score, game.whole)}{why}"
