"""Weights & Biases: the same rows as in the CSV files, films, and a summary. Its failures stop nothing."""

import netrc
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from atari_dqn import files
from atari_dqn.display import Row, Tracker, group
from atari_dqn.files import replacing

# What would be a panel of its own for each kind of row, and is one of `train`'s, or no number worth drawing.
BESIDE = ("frames", "agent_steps", "updates", "seconds", "env", "episodes", "best", "network", "protocol")


def wandb_login() -> bool:
    """Whether a W&B key is at hand, in the environment or in ~/.netrc. It is not read further."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_mode(asked: str) -> str:
    """online, offline or off; the client's own WANDB_MODE counts where nothing else was asked."""
    own = {"offline": "offline", "dryrun": "offline", "disabled": "off"}.get(os.environ.get("WANDB_MODE", ""), "online")
    return own if asked == "online" else asked


class WandB(Tracker):
    """The real Weights & Biases client. Metrics are drawn against environment frames; videos are its mp4 files.

    Without a login, or where its server cannot be reached, it records offline and says how to upload later.

    Args:
        final: of its summary, what was known before.
        step: W&B's own count of rows. A resumed run writes those since its checkpoint again, with the same numbers.
    """

    def __init__(
        self,
        folder: Path,
        mode: str,
        project: str,
        config: Row,
        step: int,
        final: Row,
        say: Callable[[str], None],
    ) -> None:
        import wandb  # slow to load

        self._wandb, self._say, self._offline, self._step = wandb, say, mode == "offline", step
        if mode == "online" and not wandb_login():
            say("W&B: no login on this machine (`wandb login` makes one), so this run is recorded offline")
            self._offline = True
        id_file = folder / "wandb_id"
        run_id = files.text(id_file, 1000).strip() if os.path.lexists(id_file) else ""
        if not files.is_name(run_id):
            run_id = secrets.token_hex(4)
            with replacing(id_file, "w") as file:
                file.write(run_id + "\n")

        quiet = wandb.Settings(silent=True, console="off", init_timeout=60)
        if hasattr(quiet, "x_transaction_log_flush_interval"):
            quiet.x_transaction_log_flush_interval = 1.0  # seconds of rows that a kill may cost offline; 15 is its own

        def init(offline: bool) -> Any:
            return wandb.init(
                project=project,
                dir=str(folder),
                name=folder.name,
                id=run_id,
                resume="allow",
                config=config,
                mode="offline" if offline else "online",
                settings=quiet,
            )

        try:
            self._run = init(self._offline)
        except wandb.errors.Error as error:
            if self._offline:
                raise
            say(f"W&B: cannot reach the server ({str(error).splitlines()[0]:.100}), so this run is recorded offline")
            self._offline = True
            self._run = init(True)
        self._run.define_metric("frames")
        self._run.define_metric("*", step_metric="frames")
        self._final = dict(final)
        if not self._offline:
            say(f"W&B: {self._run.url}")

    def _log(self, row: Row) -> None:
        self._run.log(row, step=self._step, commit=True)
        self._step += 1

    def _numbers(self, group: str, row: Row) -> None:
        beside = ("frames",) if group == "train" else BESIDE
        self._log({"frames": row["frames"]} | {f"{group}/{k}": v for k, v in row.items() if k not in beside})

    def metrics(self, row: Row) -> None:
        self._numbers("train", row)
        self._final |= {key: row[key] for key in ("frames", "agent_steps", "updates")}
        self._final |= {"hours": row["seconds"] / 3600, "training_return": row["return_mean"]}

    def episode(self, row: Row) -> None:
        self._numbers("episode", row)

    def evaluation(self, row: Row) -> None:
        self._numbers(group(row), row)
        if row["best"]:
            self._final |= {"best_return": row["mean"], "best_human_normalised": row["human_normalised"]}
        if row["network"] == "best":  # once more, from fresh seeds
            self._final["best_return_again"] = row["mean"]

    def video(self, path: Path, row: Row) -> None:
        self._log({"frames": row["frames"], "evaluation/video": self._wandb.Video(str(path), format="mp4")})

    def close(self) -> None:
        folder = Path(self._run.dir).parent
        self._run.summary.update({f"final/{key}": value for key, value in self._final.items() if value is not None})
        self._run.finish()
        if self._offline:
            if len(list(folder.parent.glob(f"*-{self._run.id}"))) > 1:  # a folder for each time it went on
                folder = folder.parent / f"*-{self._run.id}"
            self._say(f"W&B: recorded offline; upload with `wandb sync {os.path.relpath(folder)}`")
