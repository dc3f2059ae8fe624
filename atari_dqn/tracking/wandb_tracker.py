"""Log to Weights & Biases: the rows of the CSV files, videos, a summary, the networks. Failures never stop a run."""

import os
import re
import shlex
import threading
from collections.abc import Callable
from pathlib import Path

from atari_dqn.config.schema import Logger
from atari_dqn.tracking import uploads, wandb_client
from atari_dqn.tracking.aside import Aside
from atari_dqn.tracking.callback import Callback, Row, group
from atari_dqn.tracking.wandb_client import Client
from atari_dqn.utils import extras
from atari_dqn.utils.files import replacing
from atari_dqn.utils.text import one_line

# Columns left out of evaluation and episode panels: they already have a `train` panel or are not worth plotting.
BESIDE = ("frames", "agent_steps", "updates", "seconds", "env", "episodes", "best", "network", "protocol")


def make_tracker(
    logger: Logger, folder: Path, config: Row, step: int, final: Row, say: Callable[[str], None]
) -> Callback | None:
    """Build the W&B tracker from the config and the client's own settings; None if it is off or unusable.

    Args:
        step: W&B's row counter. A resumed run rewrites the rows since its checkpoint, with the same numbers.
        final: summary values known so far.
    """
    if logger.wandb == "off" or not extras.there("wandb"):
        return None
    try:
        wandb_client.stop(kill=False)  # left by an earlier run in this process; settings are read again
        mode = wandb_client.wandb_mode(logger.wandb)
        if mode == "off":
            return None
        if mode == "online" and not _has_login(say):
            mode = "offline"
        client = Client(logger, folder)
        settings = client.settings(mode)
    except Exception as error:
        say(f"W&B cannot be used and is disabled for this run: {one_line(error)}")
        return None
    seconds = settings.init_timeout + 2 * settings.finish_timeout + 10
    artifacts = folder / "checkpoints" if logger.artifacts else None
    return Aside(
        "W&B",
        lambda: WandB(client, mode, folder, config, step, final, artifacts, say),
        seconds,
        wandb_client.end_service,
        say,
    )


def _has_login(say: Callable[[str], None]) -> bool:
    try:
        found, why = wandb_client.wandb_login(), "not logged in (run `wandb login`)"
    except TimeoutError as error:
        found, why = False, str(error)
    except Exception as error:  # a malformed key
        found, why = False, f"the login is not valid ({one_line(error)})"
    if not found:
        say(f"W&B: {why}, so this run is recorded offline")
    return found


class WandB(Callback):
    """Log to Weights & Biases. Metrics are plotted against environment frames; videos are uploaded as mp4.

    If the server cannot be reached, or rejects the run, record offline and print how to upload later.

    Args:
        step: W&B's row counter.
        artifacts: folder of the checkpoints whose networks are uploaded at the end; None to upload none.
    """

    def __init__(
        self,
        client: Client,
        mode: str,
        folder: Path,
        config: Row,
        step: int,
        final: Row,
        artifacts: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self._wandb, self._client, self._say, self._step, self._artifacts = (
            wandb_client.load(),
            client,
            say,
            step,
            artifacts,
        )
        self._summary, self._offline = uploads.Summary(final), mode == "offline"
        try:
            self._run = client.start(mode, config)
        except Exception as error:
            if self._offline:
                raise
            say(f"W&B: {_refusal(error)}, so this run is recorded offline")
            self._offline = True
            self._run = client.start("offline", config)
        self._seconds = self._run.settings.finish_timeout
        if self._run.id != client.known_id:
            with replacing(folder / "wandb_id", "w") as file:
                file.write(self._run.id + "\n")
        self._run.define_metric("frames")
        self._run.define_metric("*", step_metric="frames")
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
        self._summary.metrics(row)

    def episode(self, row: Row) -> None:
        self._numbers("episode", row)

    def evaluation(self, row: Row) -> None:
        self._numbers(group(row), row)
        self._summary.evaluation(row)

    def video(self, path: Path, row: Row) -> None:
        self._log({"frames": row["frames"], "evaluation/video": self._wandb.Video(str(path), format="mp4")})

    def close(self) -> None:
        """Upload what is left. If the server does not accept it, print how to upload it later."""
        folder, why = Path(self._run.dir).parent, ""
        try:
            self._run.summary.update({f"final/{key}": v for key, v in self._summary.values.items() if v is not None})
            if self._artifacts and not self._offline:
                self._upload_networks(self._artifacts, folder)
            self._run.finish()
            why = self._client.warnings.of_upload()
        except TimeoutError:
            why = f"the server did not accept it within {self._seconds:.0f} s"
        except Exception as error:
            why = one_line(repr(error))
        wandb_client.stop(kill=bool(why))
        if not why:
            (folder / uploads.LAST).unlink(missing_ok=True)
        if why and not self._offline:
            self._say(f"W&B: not everything was uploaded ({why}); upload the rest with {_sync(folder)}")
        elif self._offline:
            if len(list(folder.parent.glob(f"offline-run-*-{self._run.id}"))) > 1:  # one per resume
                folder = folder.parent / f"offline-run-*-{self._run.id}"
            self._say(f"W&B: recorded offline; upload with {_sync(folder)}")

    def _upload_networks(self, checkpoints: Path, folder: Path) -> None:
        """Upload the best and the last network of a finished run as two versions of an artifact."""
        failed: list[str] = []

        def upload() -> None:
            try:
                last = uploads.last_network(checkpoints, folder)
                for path in (checkpoints / "best.pt", last) if last else ():
                    artifact = self._wandb.Artifact(f"network-{self._run.id}", "model")
                    artifact.add_file(str(path), policy="immutable", skip_cache=True)
                    logged = self._run.log_artifact(artifact, aliases=[path.stem])
                    try:
                        logged.wait(timeout=self._seconds)  # each becomes "latest", so upload them in order
                    except Exception as error:
                        failed.append(one_line(error))
            except Exception as error:
                failed.append(one_line(error))

        thread = threading.Thread(target=upload, name="W&B artifacts", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if failed or thread.is_alive():
            why = failed[0] if failed else "no response"
            self._say(f"W&B: the networks may not have been uploaded ({why}); they are in {checkpoints}")


def _refusal(error: BaseException) -> str:
    """Explain why the client failed to start."""
    text = one_line(error)
    if re.search(r"\b40[13]\b|permission|API key|authenticat", text, re.IGNORECASE):
        return f"the server rejected the login or the project ({text}); log in again with `wandb login --relogin`"
    return f"cannot reach the server ({text})"


def _sync(folder: Path) -> str:
    """The command that uploads one of the client's folders."""
    parent, name = shlex.quote(os.path.relpath(folder.parent)), folder.name
    return f"`wandb sync {parent}/{name}`"
