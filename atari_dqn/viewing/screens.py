"""Screens that show a game: a video file, a window. Pictures are uint8 [height, width, 3]."""

import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from atari_dqn.utils import extras, files
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint


class Thought(NamedTuple):
    """What an action was based on."""

    state: Tensor  # [stack, *frame], the network's input
    q_values: Tensor  # [A] of the learned actions; -inf if the game does not have the action
    best: int  # index of the largest
    played: int | None  # index of the played action; None if a human played one that the network did not learn
    by_hand: bool = False  # played by a human; else a move other than the best was random


class Screen:
    """The base class of screens, which shows nothing. `fps` is set before the first picture."""

    fps = 60

    def stand(self, score: float, agent_steps: int) -> None:
        """Receive the score before an action; `agent_steps` counts this game's steps."""

    def think(self, thought: Thought) -> None:
        """Receive what the action is based on, before the pictures that follow it."""

    def show(self, picture: np.ndarray) -> bool:
        """Show a picture; returns False to stop."""
        return True


class Around(Screen):
    """A wrapper around another screen; subclasses add to its pictures."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    @property
    def fps(self) -> int:
        return self._screen.fps

    @fps.setter
    def fps(self, fps: int) -> None:
        self._screen.fps = fps

    def stand(self, score: float, agent_steps: int) -> None:
        self._screen.stand(score, agent_steps)

    def think(self, thought: Thought) -> None:
        self._screen.think(thought)


FILMS = (".mp4", ".gif")
GIF_FRAMES = 25  # maximum frames per second: browsers slow down faster GIFs


class Film(Screen):
    """Record to a video file, H.264 or GIF by its extension. Frames are encoded one by one, in constant memory.

    The file has a temporary name until the `with` block ends. Raises UserError if PyAV is not installed.
    """

    def __init__(self, path: Path, max_seconds: int = 0, stop: Callable[[], bool] = lambda: False) -> None:
        extras.need("a video", "av")
        self.path, self.max_seconds, self.stop, self.frames = path, max_seconds, stop, 0
        self._is_gif = path.suffix.lower() == ".gif"
        self._temporary = files.temporary_name(path).with_suffix(".gif" if self._is_gif else ".mp4")
        self._container: Any = None
        self._every = 1  # record every n-th frame

    def _open(self, height: int, width: int) -> None:
        av = extras.load("av", "a video")  # 35 MB
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._picture = av.VideoFrame.from_ndarray
        os.close(files.create(self._temporary))
        if self._is_gif:
            self._every = -(-self.fps // GIF_FRAMES)
            self._container = av.open(f"file:{self._temporary}", "w", format="gif")
            self._stream = self._container.add_stream("gif", rate=Fraction(self.fps, self._every))
            self._stream.pix_fmt = "rgb8"
        else:
            self._container = av.open(f"file:{self._temporary}", "w", format="mp4", options={"movflags": "faststart"})
            h264 = {"preset": "veryfast", "crf": "20"}
            self._stream = self._container.add_stream("libx264", rate=self.fps, options=h264)
            self._stream.pix_fmt = "yuv420p"  # required by browsers
        self._stream.height, self._stream.width = height, width

    def show(self, picture: np.ndarray) -> bool:
        picture = enlarge(picture)
        if self._container is None:
            self._open(*picture.shape[:2])
        if self.frames % self._every == 0:
            self._container.mux(self._stream.encode(self._picture(picture, format="rgb24")))
        self.frames += 1
        return not self.stop() and (not self.max_seconds or self.frames < self.max_seconds * self.fps)

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            if kind is None:
                files.check_replaceable(self.path)
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def has_display() -> bool:
    """Whether a window can be opened; always true except on Linux."""
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def check_display(remedy: str) -> None:
    """Raise UserError if no window can be opened."""
    if not has_display():
        raise UserError(f"no display to open a window on; {remedy}")


def enlarge(picture: np.ndarray) -> np.ndarray:
    """Double small pictures, and crop to even sizes, which H.264 requires."""
    if picture.shape[0] < 300:
        picture = picture.repeat(2, 0).repeat(2, 1)
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


class Window(Screen):
    """A desktop window: P pauses, Esc quits. Raises UserError if there is no display.

    Some environments quit pygame, which closes all windows; then this window is reopened.

    Args:
        hear: called with every pygame event.
    """

    def __init__(self, title: str, remedy: str = "", hear: Callable[[Any], None] = lambda event: None) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        self._pygame = pygame = extras.load("pygame", "a window")
        self._title, self._hear = title, hear
        self.closed = self._paused = False
        self._surface: Any = None
        self._remedy = remedy or f"to write an mp4 instead: {hint('video', CKPT='...')}"
        check_display(self._remedy)
        self._start()
        self._clock = pygame.time.Clock()

    def _start(self) -> None:
        try:
            self._pygame.display.init()
        except self._pygame.error as error:
            raise UserError(f"cannot open a window ({error}); {self._remedy}") from None

    def show(self, picture: np.ndarray) -> bool:
        pygame, picture = self._pygame, enlarge(picture)
        if not pygame.display.get_init() or pygame.display.get_surface() is not self._surface or not self._surface:
            self._start()
            self._surface = pygame.display.set_mode((picture.shape[1], picture.shape[0]))
            pygame.display.set_caption(f"{self._title} (P pauses, Esc ends)")
        self._surface.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        self._listen()
        while self._paused and not self.closed:
            self._listen()
        return not self.closed

    def _listen(self) -> None:
        pygame = self._pygame
        self._clock.tick(self.fps)
        for event in pygame.event.get():
            self._hear(event)
            key = event.key if event.type == pygame.KEYDOWN else None
            self._paused ^= key == pygame.K_p
            self.closed = self.closed or event.type == pygame.QUIT or key == pygame.K_ESCAPE
