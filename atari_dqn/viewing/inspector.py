"""The inspector: a game with the network's input, Q-values and saliency in one picture."""

import collections
import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from atari_dqn.dqn.networks import QNetwork
from atari_dqn.evaluation.player import Player
from atari_dqn.utils import extras
from atari_dqn.viewing.screens import Around, Screen, Thought

Image, ImageDraw, ImageFont = (
    extras.load(f"PIL.{part}", "text in a picture") for part in ("Image", "ImageDraw", "ImageFont")
)

WIDTH, HEIGHT, MARGIN = 960, 696, 16
GAME = (16, 60, 320, 420)  # left, top, width, height
SALIENCY = (352, 60, 320, 420)
BOTH = (16, 60, 656, 420)  # for the game, if observations are not images
BARS = (688, 60, 256, 420)
INPUTS = (16, 512, 656, 152)
VALUE = (688, 512, 256, 152)
NAMES, NUMBERS = 118, 60  # widths of the labels left and right of the bars
HISTORY, RECENT = 150, 30  # agent steps covered by the value curve and by the bars' scale: 10 and 2 seconds of Atari

BACK, PANEL, INK, SOFT = (18, 22, 29), (29, 35, 45), (231, 235, 242), (150, 160, 176)
BEST, RANDOM, BAR, GLOW = (124, 192, 255), (255, 167, 94), (62, 90, 120), (255, 190, 40)
WON, LOST = (70, 110, 80), (120, 70, 70)

# Gymnasium environments do not name their actions and observations.
KNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "CartPole-v1": (("LEFT", "RIGHT"), ("position", "velocity", "angle", "angular velocity"))
}


@functools.cache
def font(size: int, bold: bool = False) -> Any:
    if not extras.there("matplotlib"):
        return ImageFont.load_default(size)
    import matplotlib  # for its fonts

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def saliency(network: QNetwork, state: Tensor, action: int) -> Tensor:
    """Saliency of each input for an action's value: |dQ(s, a) / dx|, where x is the prepared state.

    (The "vanilla" gradient of Simonyan et al. 2014, used by Wang et al. 2016 for dueling networks.)

    Args:
        state: [stack, *frame].
    Returns: the same shape.
    """
    x = network.prepare(state.unsqueeze(0)).detach().requires_grad_()
    q_value = network.q_values(x)[0, action]
    return torch.autograd.grad(q_value, x)[0].abs().reshape(state.shape)


def number(value: float) -> str:
    """Format a value to fit beside a bar: 0.123, 1234.5, 12.3k, 1.2M."""
    for least, unit, name in ((0.999e6, 1e6, "M"), (0.999e4, 1e3, "k"), (99.9, 1, "")):  # as rounded
        if abs(value) >= least:
            return f"{value / unit:.1f}{name}" if abs(value) < 0.999e8 else f"{value:.0e}"
    return f"{value:.3f}"


def fit(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale a picture to fit; pixels stay sharp for integer factors."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = int(picture.shape[1] * scale), int(picture.shape[0] * scale)
    how = cv2.INTER_NEAREST if scale == int(scale) else cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, size, interpolation=how)


def lit(picture: np.ndarray, glow: np.ndarray) -> np.ndarray:
    """Darken a picture and highlight it where `glow` (float32 [height, width] of any size, 0 to 1) is large."""
    light = cv2.resize(glow, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    return (picture * (0.55 - 0.35 * light) + np.array(GLOW, np.float32) * light).clip(max=255).astype(np.uint8)


def paste(canvas: np.ndarray, place: tuple[int, int, int, int], picture: np.ndarray) -> None:
    """Center a picture in a rectangle (left, top, width, height) of the canvas."""
    left, top, width, height = place
    y, x = top + (height - picture.shape[0]) // 2, left + (width - picture.shape[1]) // 2
    canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture


class Inspected(Around):
    """A screen wrapper that draws the panels of `player`'s network around the game.

    Panels are redrawn for each agent step, the game for each frame.

    Attributes:
        shown: the Q-values [A] currently drawn as bars; `scale`: the values at both ends of the axis.
    """

    def __init__(self, screen: Screen, player: Player, game: str) -> None:
        super().__init__(screen)
        self._player, self._game = player, game
        self._score, self._agent_steps = 0.0, 0
        names, self._inputs = KNOWN.get(game, (player.learned, ()))
        self._names = names if len(names) == len(player.learned) else player.learned
        self._canvas = np.full((HEIGHT, WIDTH, 3), BACK, np.uint8)
        self._glow: np.ndarray | None = None  # float32 [height, width], saliency
        self._peak = 0.0
        self._values: collections.deque[tuple[float, float, float]] = collections.deque(maxlen=HISTORY)
        self.shown: list[float] = []
        self.scale = (0.0, 1.0)

    def stand(self, score: float, agent_steps: int) -> None:
        if not agent_steps:
            self._values.clear()
        self._score, self._agent_steps = score, agent_steps
        super().stand(score, agent_steps)

    def think(self, thought: Thought) -> None:
        q_values = thought.q_values.tolist()
        known = [q for q in q_values if q > -np.inf]
        self._values.append((min(known), max(known), self._score))
        self.shown = q_values
        recent = list(self._values)[-RECENT:]
        low, high = min(one[0] for one in recent), max(one[1] for one in recent)
        self.scale = (low, high if high > low else low + 1e-6)
        pixels = saliency(self._player.network, thought.state, thought.best)
        self._canvas[:] = BACK
        self._title()
        if thought.state.dim() == 3:
            self._look(pixels)
            self._frames(thought.state)
        else:
            self._glow = None
            self._numbers(thought.state, pixels)
        self._bars(thought)
        self._value()
        super().think(thought)

    def show(self, picture: np.ndarray) -> bool:
        canvas = self._canvas.copy()
        if self._glow is None:
            paste(canvas, BOTH, fit(picture, *BOTH[2:]))
        else:
            seen = fit(picture, *GAME[2:])
            paste(canvas, GAME, seen)
            paste(canvas, SALIENCY, lit(seen, self._glow))
        return self._screen.show(canvas)

    # --- panels -------------------------------------------------------------------------------------------------------

    def _draw(self, place: tuple[int, int, int, int]) -> tuple[Any, Any]:
        _, _, width, height = place
        image = Image.new("RGB", (width, height), PANEL)
        return image, ImageDraw.Draw(image)

    def _put(self, image: Any, left: int, top: int) -> None:
        self._canvas[top : top + image.height, left : left + image.width] = np.asarray(image)

    def _line(self, left: int, top: int, width: int, text: str) -> None:
        image = Image.new("RGB", (width, 21), BACK)
        draw = ImageDraw.Draw(image)
        size = next((size for size in (13, 12, 11) if draw.textlength(text, font(size)) <= width), 10)
        draw.text((0, 1), text, SOFT, font(size))
        self._put(image, left, top)

    def _title(self) -> None:
        image = Image.new("RGB", (WIDTH - 2 * MARGIN, 36), BACK)
        draw = ImageDraw.Draw(image)
        draw.text((0, 4), self._game, INK, font(20, bold=True))
        right = f"score {self._score:.10g}    agent step {self._agent_steps:,}"
        draw.text((image.width, 6), right, INK, font(17), anchor="ra")
        self._put(image, MARGIN, 10)

    def _look(self, pixels: Tensor) -> None:
        """Saliency: maximum over the stack, slightly blurred, normalized by its recent maximum."""
        found = cv2.GaussianBlur(pixels.amax(0).cpu().numpy(), (0, 0), 1.0)
        self._peak = max(float(found.max()), 0.98 * self._peak, 1e-12)
        self._glow = found / self._peak
        self._line(GAME[0], GAME[1] + GAME[3] + 3, GAME[2], "the game")
        caption = "saliency: gradient of max Q (Simonyan et al. 2014)"
        self._line(SALIENCY[0], SALIENCY[1] + SALIENCY[3] + 3, SALIENCY[2], caption)

    def _frames(self, state: Tensor) -> None:
        left, top, width, height = INPUTS
        count = len(state)
        size = min(height, (width - MARGIN * (count - 1)) // count)
        for i, frame in enumerate(state.cpu().numpy()):
            seen = cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR)
            x = left + i * (size + MARGIN)
            self._canvas[top : top + size, x : x + size] = seen[..., None]
        shape = "x".join(map(str, state.shape[1:]))
        self._line(left, top + size + 3, width, f"network input: {count} frames of {shape}, newest on the right")

    def _numbers(self, state: Tensor, pixels: Tensor) -> None:
        """The newest observation's numbers and their saliency."""
        left, top, width, height = INPUTS
        image, draw = self._draw(INPUTS)
        values, weights = state[-1].flatten().tolist(), pixels[-1].flatten().tolist()
        names = self._inputs if len(self._inputs) == len(values) else [f"number {i + 1}" for i in range(len(values))]
        shown = min(len(values), 6)
        step, most = height / max(4, shown), max(max(weights), 1e-12)
        for i in range(shown):
            y = int(step * (i + 0.5))
            draw.text((12, y), names[i], INK, font(14), anchor="lm")
            draw.text((240, y), f"{values[i]:+.3f}", INK, font(14), anchor="rm")
            draw.rectangle((260, y - 7, 260 + int((width - 280) * weights[i] / most), y + 7), GLOW)
        self._put(image, left, top)
        more = f" (the first {shown} of {len(values)})" if shown < len(values) else ""
        self._line(left, top + height + 3, width, f"network input{more}; bars: saliency, the gradient of max Q")
        self._line(BOTH[0], BOTH[1] + BOTH[3] + 3, BOTH[2], "the game")

    def bar(self, i: int) -> tuple[int, int, int, float]:
        """Left, top, bottom and (with a fraction of a pixel) right edge of an action's bar."""
        left, top, width, height = BARS
        row = min(48.0, (height - 44) / len(self.shown))
        low, high = self.scale
        y, start, room = top + 36 + row * i, left + NAMES, width - NAMES - NUMBERS
        share = (self.shown[i] - low) / (high - low)
        return start, int(y + row * 0.2), int(y + row * 0.8), start + max(1.0, room * share)

    def _bars(self, thought: Thought) -> None:
        left, top, width, height = BARS
        image, draw = self._draw(BARS)
        row = min(48.0, (height - 44) / len(self.shown))
        size = min(13, max(9, int(row * 0.55)))
        strayed = thought.played != thought.best
        head = "arrow: " + ("your move" if thought.by_hand else "random move" if strayed else "played")
        if thought.played is None:  # then there is no arrow
            head = "your move: not learned"
        draw.text((10, 9), "Q-values", INK, font(14, bold=True))
        draw.text((width - 8, 11), head, RANDOM if strayed else SOFT, font(12), anchor="ra")
        for i, (name, q_value) in enumerate(zip(self._names, self.shown, strict=True)):
            is_best, is_played = i == thought.best, i == thought.played
            color = RANDOM if is_played and strayed else BEST if is_best else SOFT
            y = 36 + row * (i + 0.5)
            if is_played:
                draw.polygon([(5, y - 4), (5, y + 4), (11, y)], fill=color)
            draw.text((15, y), name, color if is_best or is_played else INK, font(size), anchor="lm")
            if q_value == -np.inf:
                draw.text((width - 10, y), "n/a", SOFT, font(size), anchor="rm")
                continue
            start, above, below, end = self.bar(i)
            fill = color if is_best or is_played else BAR
            draw.rectangle((start - left, above - top, round(end) - left - 1, below - top), fill)
            draw.text((width - 8, y), number(q_value), color if is_best else INK, font(size), anchor="rm")
        self._put(image, left, top)
        low, high = self.scale
        self._line(left, top + height + 3, width, f"bars from {number(low)} to {number(high)}")

    def _value(self) -> None:
        left, top, width, height = VALUE
        image, draw = self._draw(VALUE)
        values = [high for _, high, _ in self._values]
        low, high = min(values), max(values)
        span = max(high - low, 1e-6)
        points = [
            (8 + (width - 16) * i / (HISTORY - 1), height - 24 - (height - 48) * (value - low) / span)
            for i, value in enumerate(values)
        ]
        scores = [score for _, _, score in self._values]
        changed = [i for i in range(1, len(scores)) if scores[i] != scores[i - 1]]
        for i in changed if len(changed) < HISTORY / 10 else []:  # mark where points were won or lost
            color = WON if scores[i] > scores[i - 1] else LOST
            draw.line((points[i][0], 22, points[i][0], height - 22), color)
        draw.line(points if len(points) > 1 else points * 2, BEST, 2)
        draw.text((8, 4), number(high), SOFT, font(12))
        draw.text((8, height - 18), number(low), SOFT, font(12))
        draw.text((width - 8, 4), number(values[-1]), BEST, font(13, bold=True), anchor="ra")
        self._put(image, left, top)
        self._line(left, top + height + 3, width, f"V(s) = max Q, last {HISTORY} agent steps")
