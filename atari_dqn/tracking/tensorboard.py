"""Log to TensorBoard."""

import math
from pathlib import Path

from atari_dqn.dqn.loop import STAGES
from atari_dqn.tracking import wandb_tracker
from atari_dqn.tracking.callback import Callback, Row, group

# Shown last in TensorBoard, which sorts panels by name: progress and speed, not scores.
BOOKKEEPING = {
    "agent_steps", "updates", "seconds", "games", "frames_per_second", "length_frames", *(f"time_{s}" for s in STAGES),
}  # fmt: skip


class TensorBoard(Callback):
    """Write scalars against environment frames, and the config as text, to tensorboard/."""

    def __init__(self, folder: Path, frames: int = 0, config: str = "") -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to load

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=frames + 1 if frames else None)
        self._writer.add_text("config", "".join(f"    {line}\n" for line in config.splitlines()), frames)

    def _scalars(self, group: str, row: Row) -> None:
        beside = ("frames",) if group == "train" else wandb_tracker.BESIDE
        for key, value in row.items():
            if isinstance(value, int | float) and key not in beside and math.isfinite(value):
                tag = f"z_bookkeeping/{key}" if key in BOOKKEEPING else f"{group}/{key}"
                self._writer.add_scalar(tag, value, row["frames"])

    def metrics(self, row: Row) -> None:
        self._scalars("train", row)

    def episode(self, row: Row) -> None:
        self._scalars("episode", row)

    def evaluation(self, row: Row) -> None:
        self._scalars(group(row), row)

    def sync(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
