"""Play a game by hand with the keyboard, optionally with a network's advice."""

import contextlib
import csv
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atari_dqn.checkpoint import outputs
from atari_dqn.config.schema import Env
from atari_dqn.envs.base import Game
from atari_dqn.evaluation.player import Player
from atari_dqn.utils import console, extras
from atari_dqn.utils.files import appending
from atari_dqn.utils.hints import hint
from atari_dqn.viewing import inspector, video
from atari_dqn.viewing.screens import Around, Screen, Window, enlarge

KEYS = "arrows or WASD: move    space: fire    P: pause    Esc: end"
UNNAMED = tuple(f"ACTION{i}" for i in range(10))  # actions without names, played with the number keys
COLUMNS = ("when", "game", "score", "length_frames", "cut", "checkpoint")


def remedy() -> str:
    """The remedy when there is no display."""
    return f"playing by hand needs one; to record a network instead: {hint('video', CKPT='...')}"


def action(pressed: set[str], names: Sequence[str]) -> int:
    """The index, among a game's actions, of the one that the pressed directions and FIRE select.

    If the game lacks the combination, parts are dropped, directions first: UP and RIGHT become UP if there is no
    UPRIGHT. If a game has neither UP nor DOWN, they mean RIGHT and LEFT, as for Pong's paddle.
    """
    has = set(names)
    if unnamed := sorted(pressed & has & {*UNNAMED}):
        return names.index(unnamed[0])
    if not has & {"UP", "DOWN"}:
        pressed = {{"UP": "RIGHT", "DOWN": "LEFT"}.get(way, way) for way in pressed}
    vertical = "UP" * ("UP" in pressed) + "DOWN" * ("DOWN" in pressed)
    horizontal = "RIGHT" * ("RIGHT" in pressed) + "LEFT" * ("LEFT" in pressed)
    vertical, horizontal = vertical * (vertical != "UPDOWN"), horizontal * (horizontal != "RIGHTLEFT")
    fire = "FIRE" * ("FIRE" in pressed)
    meant = (vertical + horizontal + fire, vertical + fire, horizontal + fire, vertical + horizontal, fire, vertical)
    return names.index(next((name for name in (*meant, horizontal, "NOOP") if name in has), names[0]))


class Keyboard:
    """Directions and FIRE from the keys that are down or were pressed since the last call."""

    def __init__(self) -> None:
        self._pygame = pygame = extras.load("pygame", "playing by hand")
        self._ways = {
            pygame.K_UP: "UP", pygame.K_w: "UP", pygame.K_DOWN: "DOWN", pygame.K_s: "DOWN", pygame.K_LEFT: "LEFT",
            pygame.K_a: "LEFT", pygame.K_RIGHT: "RIGHT", pygame.K_d: "RIGHT", pygame.K_SPACE: "FIRE",
        } | {getattr(pygame, f"K_{i}"): name for i, name in enumerate(UNNAMED)}  # fmt: skip
        self._down: set[int] = set()
        self._tapped: set[int] = set()

    def hear(self, event: Any) -> None:
        if event.type == self._pygame.KEYDOWN:
            self._down.add(event.key)
            self._tapped.add(event.key)
        elif event.type == self._pygame.KEYUP:
            self._down.discard(event.key)
        elif event.type == self._pygame.WINDOWFOCUSLOST:  # key releases go to another window
            self._down.clear()

    def pressed(self) -> set[str]:
        keys, self._tapped = self._down | self._tapped, set()
        return {self._ways[key] for key in keys if key in self._ways}


class Strip(Around):
    """A screen wrapper that shows the score and the keys below the picture."""

    HEIGHT = 52

    def __init__(self, screen: Screen, best: float | None, keys: str = KEYS) -> None:
        super().__init__(screen)
        self._keys = keys
        self._best = "" if best is None else f"    best {best:.10g}"
        self._text = ""
        self._drawn: tuple[tuple[int, str], np.ndarray] | None = None

    def stand(self, score: float, agent_steps: int) -> None:
        self._text = f"score {score:.10g}{self._best}"
        super().stand(score, agent_steps)

    def show(self, picture: np.ndarray) -> bool:
        picture = enlarge(picture)
        wanted = (picture.shape[1], self._text)
        if self._drawn is None or self._drawn[0] != wanted:
            image = inspector.Image.new("RGB", (picture.shape[1], self.HEIGHT), inspector.BACK)
            draw = inspector.ImageDraw.Draw(image)
            for top, text, ink in ((5, self._text, inspector.INK), (28, self._keys, inspector.SOFT)):
                size = next(
                    (s for s in range(14, 7, -1) if draw.textlength(text, inspector.font(s)) < wanted[0] - 16), 7
                )
                draw.text((8, top), text, ink, inspector.font(size))
            self._drawn = wanted, np.asarray(image)
        return self._screen.show(np.concatenate([picture, self._drawn[1]]))


def keep(path: Path, env: Env, game: Game, checkpoint: str) -> None:
    """Append a finished game to a CSV file as one whole line."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    row = (now, env.game, f"{game.score:.10g}", game.length_frames, int(game.cut), checkpoint)
    new = not path.exists()
    with appending(path) as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, row] if new else [row])


def play(player: Player | None, env: Env, names: Sequence[str], seed: int, output: Path, checkpoint: str) -> None:
    """Play games by hand until the window is closed. Raises UserError if there is no display.

    Args:
        player: the network whose advice is shown.
        names: the game's action names.
    """
    keyboard = Keyboard()
    window = Window(env.game, remedy(), keyboard.hear)
    meant = inspector.KNOWN.get(env.game, (names,))[0]
    keys = KEYS.replace("arrows or WASD: move    space: fire", f"number keys: actions 0 to {min(len(meant), 10) - 1}")
    best: Game | None = None

    def hand() -> int:
        return action(keyboard.pressed(), meant)

    with contextlib.closing(video.Stage(env)) as stage:
        while not window.closed:
            strip = Strip(window, best.score if best else None, keys if meant[0] in UNNAMED else KEYS)
            screen = inspector.Inspected(strip, player, env.game) if player else strip
            game = stage.play(player, 0.0, seed, screen, hand)
            console.say(f"{env.game}: {video.score(env, game)}")
            if not game.stopped:
                best = game if best is None or game.score > best.score else best
                with outputs.writing(output):
                    keep(output, env, game, checkpoint)
            seed += 1
    if best is not None:
        console.say(f"best game: {video.score(env, best)}; all games are in {os.fspath(output)}")
