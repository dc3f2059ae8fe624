"""What trackers with a server send at a run's end: its final values and its networks."""

from pathlib import Path

from atari_dqn.checkpoint import checkpoints
from atari_dqn.tracking.callback import Callback, Row
from atari_dqn.utils.errors import UserError

LAST = "last.pt"  # the uploaded part of latest.pt
PLAYABLE = (
    "config", "plugins", "actions", "frame_shape", "frame_dtype", "agent_steps", "updates", "seconds", "online",
)  # fmt: skip


class Summary(Callback):
    """A run's final and best values.

    Attributes:
        values: they, by name; at first those that an earlier process knew.
    """

    def __init__(self, known: Row | None = None) -> None:
        self.values: Row = dict(known or {})

    def metrics(self, row: Row) -> None:
        self.values |= {key: row[key] for key in ("frames", "agent_steps", "updates")}
        self.values |= {"hours": row["seconds"] / 3600, "training_return": row["return_mean"]}

    def evaluation(self, row: Row) -> None:
        if row["best"]:
            self.values |= {"best_return": row["mean"], "best_human_normalised": row["human_normalised"]}
        if row["network"] == "best":  # evaluated again with fresh seeds
            self.values["best_return_again"] = row["mean"]


def last_network(folder: Path, into: Path) -> Path | None:
    """Write the network alone of `folder`'s latest.pt to `into`; None if the run is not finished."""
    try:
        content = checkpoints.Checkpoint(folder / "latest.pt").content
    except UserError:
        return None
    if not content.get("finished"):
        return None
    path = into / LAST
    checkpoints.write(path, {key: content[key] for key in PLAYABLE if key in content})
    return path
