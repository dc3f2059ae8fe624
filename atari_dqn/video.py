"""A single game, seen: filmed to an mp4 as it is played, or shown in a window."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import torch

from atari_dqn import emulators, scores, seeding, wrappers
from atari_dqn.config import Env
from atari_dqn.errors import UserError
from atari_dqn.evaluation import Player


class Screen:
    """Something that pictures are shown on. `fps` is set before the first."""

    fps = 60

    def show(self, picture: np.ndarray) -> bool:
        """Show a picture, uint8 [height, width, 3]; False where no more are wanted."""
        raise NotImplementedError  # pragma: no cover


class Mp4(Screen):
    """An H.264 file that grows frame by frame; memory does not. It has a temporary name until the `with` block ends."""

    def __init__(self, path: Path, max_seconds: int = 0, stop: Callable[[], bool] = lambda: False) -> None:
        self.path, self.max_seconds, self.stop, self.frames = path, max_seconds, stop, 0
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
        self._container: Any = None

    def _open(self, height: int, width: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._temporary), "w", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=self.fps, options={"preset": "veryfast", "crf": "20"})
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"  # what browsers play

    def show(self, picture: np.ndarray) -> bool:
        picture = enlarge(picture)
        if self._container is None:
            self._open(*picture.shape[:2])
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        self.frames += 1
        return not self.stop() and (not self.max_seconds or self.frames < self.max_seconds * self.fps)

    def __enter__(self) -> "Mp4":
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            if kind is None:
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def has_display() -> bool:
    """Whether a window could be opened; only on Linux is the answer sometimes no."""
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def enlarge(picture: np.ndarray) -> np.ndarray:
    """Small screens twice as large, and even sizes, which H.264 needs."""
    if picture.shape[0] < 300:
        picture = picture.repeat(2, 0).repeat(2, 1)
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


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
    game = emulators.make_single(env, on_frame, render_mode="rgb_array")
    return gymnasium.wrappers.FrameStackObservation(game, env.frame_stack, padding_type="zero")


def play_one(player: Player, env: Env, epsilon: float, seed: int, screen: Screen) -> float:
    """Play one game and show every single frame, in colour, until the screen wants no more. Returns the score."""
    going = True

    def on_frame() -> None:
        nonlocal going
        picture: Any = game.render()
        going = going and screen.show(picture)

    game = single_game(env, on_frame)
    try:
        screen.fps = 60 if env.kind == "atari" else int(game.metadata.get("render_fps") or 30)
        device = next(player.network.parameters()).device
        generator = seeding.generator(device, seed, "video actions")
        first_action = int(getattr(game.action_space, "start", 0))
        state, _ = game.reset(seed=seeding.derive(seed, "video game")[0])
        score, over = 0.0, False
        while going and not over:
            states = torch.from_numpy(np.asarray(state)).unsqueeze(0).to(device)
            action = int(player.act(states, epsilon, generator)) + first_action
            state, reward, terminated, truncated, _ = game.step(action)
            score += float(reward)
            over = terminated or truncated
        return score
    finally:
        game.close()


def film(
    player: Player,
    env: Env,
    epsilon: float,
    seed: int,
    path: Path,
    max_seconds: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[float, float]:
    """Film one game to `path` at its native speed, at most max_seconds of it (0: all). Returns (score, seconds)."""
    with Mp4(path, max_seconds, stop) as mp4:
        score = play_one(player, env, epsilon, seed, mp4)
    return score, mp4.frames / mp4.fps


class Window(Screen):
    """A window on the desktop. Raises UserError where there is no display."""

    def __init__(self, title: str) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame  # slow to load, and wanted here only

        self._pygame, self._title, self.closed = pygame, title, False
        self._surface: Any = None
        remedy = "`make video CKPT=...` writes an mp4 instead"
        if not has_display():
            raise UserError(f"there is no display to open a window on; {remedy}")
        try:
            pygame.display.init()
        except pygame.error as error:
            raise UserError(f"cannot open a window ({error}); {remedy}") from None
        self._clock = pygame.time.Clock()

    def show(self, picture: np.ndarray) -> bool:
        pygame, picture = self._pygame, enlarge(picture)
        if self._surface is None:
            self._surface = pygame.display.set_mode((picture.shape[1], picture.shape[0]))
            pygame.display.set_caption(f"{self._title} (Esc stops)")
        self._surface.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        self._clock.tick(self.fps)
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                self.closed = True
        return not self.closed


def watch(player: Player, env: Env, epsilon: float, seed: int) -> None:
    """Show games in a window, one after another, until it is closed."""
    window = Window(env.game)
    while not window.closed:
        score = play_one(player, env, epsilon, seed, window)
        print(
            f"{env.game}: {score:.10g}{scores.human(env.game, score)}{' (stopped)' if window.closed else ''}",
            flush=True,
        )
        seed += 1
