"""Several games side by side on one screen, a picture of each at a time, until the last one is over."""

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from atari_dqn.viewing.inspector import BACK, INK, SOFT, Image, ImageDraw, font
from atari_dqn.viewing.screens import Screen, enlarge

LINE, GAP = 44, 8  # pixels above a picture, and between two


class Wall:
    """Combines the pictures of several games, each played in a thread of its own.

    Args:
        names: of the games' players.
    """

    def __init__(self, screen: Screen, names: Sequence[str]) -> None:
        self.parts = [Part(self, name) for name in names]
        self._screen = screen
        self._together = threading.Barrier(len(names), action=self._show)
        self.going = True

    def play(self, games: Sequence[Callable[[Screen], object]]) -> None:
        """Play each game on its part. If one fails, all end, and its error is raised."""

        def one(part: "Part", game: Callable[[Screen], object]) -> None:
            try:
                game(part)
                part.over = True
                while self.going:
                    self.wait()
            except BaseException:
                self._together.abort()
                raise

        with ThreadPoolExecutor(len(games)) as pool:
            playing = [pool.submit(one, part, game) for part, game in zip(self.parts, games, strict=True)]
        errors = [error for error in (each.exception() for each in playing) if error is not None]
        errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))  # which are of the others
        if errors:
            raise errors[0]

    def wait(self) -> None:
        """Wait until each part has its next picture, or is over."""
        self._together.wait()

    def _show(self) -> None:
        if all(part.over for part in self.parts):
            self.going = False
            return
        self._screen.fps = self.parts[0].fps
        self.going = self._screen.show(self._tiled([part.framed() for part in self.parts]))

    @staticmethod
    def _tiled(pictures: Sequence[np.ndarray]) -> np.ndarray:
        columns = math.ceil(math.sqrt(len(pictures) * 1.3))
        height, width = (max(picture.shape[axis] for picture in pictures) + GAP for axis in (0, 1))
        rows = math.ceil(len(pictures) / columns)
        canvas = np.full((rows * height + GAP, min(columns, len(pictures)) * width + GAP, 3), BACK, np.uint8)
        for number, picture in enumerate(pictures):
            top, left = GAP + number // columns * height, GAP + number % columns * width
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return canvas


class Part(Screen):
    """One game on a Wall.

    Attributes:
        over: whether it has ended; its last picture stays.
    """

    def __init__(self, wall: Wall, name: str) -> None:
        self._wall, self._name = wall, name
        self._picture = np.zeros((210, 160, 3), np.uint8)
        self._score = 0.0
        self.over = False

    def stand(self, score: float, agent_steps: int) -> None:
        self._score = score

    def end(self, score: float) -> None:
        """Receive the final score."""
        self._score, self.over = score, True

    def show(self, picture: np.ndarray) -> bool:
        self._picture = picture
        with contextlib.suppress(threading.BrokenBarrierError):
            self._wall.wait()
            return self._wall.going
        return False  # another game failed

    def framed(self) -> np.ndarray:
        """The picture below the player's name and score."""
        picture = enlarge(self._picture)
        line = Image.new("RGB", (picture.shape[1], LINE), BACK)
        draw = ImageDraw.Draw(line)
        name = self._name
        while len(name) > 4 and draw.textlength(name, font(15, bold=True)) > line.width:
            name = f"...{name[4:]}"
        draw.text((0, 1), name, INK, font(15, bold=True))
        draw.text((0, 22), f"score {self._score:.10g}{'   over' * self.over}", SOFT, font(15))
        return np.concatenate([np.asarray(line), picture])
