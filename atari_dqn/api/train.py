"""Train an agent from Python."""

from collections.abc import Callable, Sequence
from typing import Any

from atari_dqn.api import given
from atari_dqn.api.given import told
from atari_dqn.api.isolated import torch_settings
from atari_dqn.api.runs import Run
from atari_dqn.checkpoint import folders
from atari_dqn.config import compose
from atari_dqn.registry import plugins
from atari_dqn.tracking.callback import Callback
from atari_dqn.training import launch
from atari_dqn.utils import signals
from atari_dqn.utils.errors import UserError


@told
def train(
    settings: str | Sequence[str],
    *,
    callbacks: Sequence[Callback] = (),
    network: str | Callable[..., Any] | None = None,
    rule: str | Callable[..., Any] | None = None,
) -> Run:
    """Train, or resume a run, as the command `train` does, and print what it prints.

    Ctrl-C (in a notebook, the stop button) and SIGTERM save the run and end it; `Run.state` is "stopped" then, and
    `train("resume=latest")` continues it. Only in the main thread: another receives no signals.

    Args:
        settings: as on the command line, "env.game=Pong preset=laptop"; or a list of such words.
        callbacks: receive the run's events, and may stop it.
        network: your own class instead of `network=`, or its import path; see atari_dqn.extend.Network.
        rule: your own class of targets and loss instead of `rule=`, or its import path; see atari_dqn.extend.Rule.

    Returns:
        The run; also if it had been finished before.

    Raises:
        UserError: wrong settings.
        RunFailed: the run had to abort.
    """
    if not isinstance(callbacks, list | tuple) or not all(isinstance(one, Callback) for one in callbacks):
        raise UserError(f"callbacks={given.said(callbacks)}: expected a list of atari_dqn.Callback")
    words = given.settings(settings)
    for kind, own in ((plugins.NETWORK, network), (plugins.RULE, rule)):
        words += [] if own is None else [f"{kind.setting}={given.plugin(kind, own)}"]
    composed, words = compose.typed("train", words)
    with torch_settings():
        config = compose.to_train_config(composed)
        run = launch.train(config, words, callbacks=callbacks)
    if run and run.outcome == "stopped":
        signals.pass_on()
    folder = run.folder if run else folders.find(config)
    assert folder is not None  # a run that is finished
    return Run(folder)
