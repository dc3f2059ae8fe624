"""Running a command under Hydra, and errors as one line and an exit code."""

import argparse
import atexit
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from atari_dqn.cli.commands import COMMANDS
from atari_dqn.utils import console
from atari_dqn.utils.errors import JobFailed, RunFailed, Stopped, UserError, explained
from atari_dqn.utils.text import one_line

DONE, FAILED, WRONG_INPUT = 0, 1, 2  # exit codes


def guarded(action: Callable[[], Any]) -> int:
    """Run `action`; errors become one line on the terminal and an exit code."""
    try:
        action()
    except UserError as error:
        console.complain(str(error))
        return WRONG_INPUT
    except RunFailed as error:
        if os.environ.get("ATARI_DQN_TRACEBACK"):
            console.show_traceback()
        console.complain(str(error))
        return FAILED
    except Stopped:
        raise
    except KeyboardInterrupt:
        console.complain("interrupted")
        return FAILED
    except Exception as error:
        if os.environ.get("ATARI_DQN_TRACEBACK"):
            console.show_traceback()
        known = explained(error)
        if known is error:
            text = f"unforeseen {type(error).__name__}: {one_line(error, 300)} (ATARI_DQN_TRACEBACK=1 shows where)"
        else:
            text = str(known)
        console.complain(text)
        return WRONG_INPUT if isinstance(known, UserError) else FAILED
    return DONE


def run(command: str, words: list[str]) -> int:
    """Run a command under Hydra; the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us, not the screen
    from atari_dqn.cli import options, usage
    from atari_dqn.config import compose, keys, overrides
    from atari_dqn.registry import plugins

    chosen, words = options.apart(words, compose.known_keys(command)[0])
    words = compose.with_groups(command, words)
    if "--help" in chosen:
        console.say(usage.command(command, words))
        return DONE
    words = [compose.as_hydra_reads(word, "--multirun" in chosen) for word in words]
    compose.check_plugins(words)
    if "--multirun" in chosen:
        options.check_values(command, words)
    if {*words} & {*overrides.LAUNCHERS.values()}:
        console.say("each run is a job that writes its output below runs/multirun/; Ctrl-C here does not stop the jobs")
    if plugins.preset_folders() and not any(word.startswith("hydra.searchpath=") for word in words):
        words += keys.search_path()
    sys.argv = [f"python -m atari_dqn {command}", *chosen, *words]
    return _under_hydra(command, words)


@functools.cache
def _spare_lazy_help() -> None:
    """From Python 3.14 on, argparse checks that help texts are strings; Hydra 1.3's is an object that becomes one
    when it is printed. Let those through: https://github.com/facebookresearch/hydra/issues/3121
    """
    check: Callable[..., None] | None = getattr(argparse.ArgumentParser, "_check_help", None)
    if check:
        setattr(  # noqa: B010, mypy does not know it before 3.14
            argparse.ArgumentParser,
            "_check_help",
            lambda self, action: check(self, action) if isinstance(action.help, str) else None,
        )


def _under_hydra(command: str, words: list[str]) -> int:
    """Have Hydra compose the settings in sys.argv and start the job, or several; the exit code."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from atari_dqn.config import commands, compose

    _spare_lazy_help()
    codes, failed = [DONE], []

    def job(composed: Any) -> Any:
        results: list[Any] = []

        def action() -> None:
            nonlocal composed
            compose.check_references(composed)
            if compose.is_multirun() and compose.with_groups(command, own := compose.task_overrides()) != own:
                composed = compose.compose(command, own)  # env=... has several values, and only some imply a preset
            compose.allow_typed(composed, compose.task_overrides())
            results.append(COMMANDS[command](composed))

        codes.append(guarded(action))
        if not results and compose.is_multirun():
            typed = {word.lower() for word in words}  # what all have in common
            own = [word for word in compose.task_overrides() if word.lower() not in typed]
            failed.append(" ".join(own) or "the only one")
            if "SUBMITIT_EXECUTOR" in os.environ:  # which would end well, and Slurm believe it
                atexit.register(os._exit, codes[-1])
            raise JobFailed(codes[-1])  # a sweeper, or the process that waits for this one, is to know
        return results[0] if results else None

    try:
        hydra.main(config_path=str(commands.conf_dir()), config_name=command, version_base="1.3")(job)()
    except Stopped:
        return max(codes)
    except (JobFailed, ValueError) as error:  # Optuna's, where no trial was left
        if failed:
            console.complain(f"{len(failed)} of {len(codes) - 1} runs failed: {'; '.join(failed)}")
        elif isinstance(error, JobFailed):
            console.complain("a run failed; its output is below runs/multirun/")
        else:
            raise compose.explain(command, words, error) from None
        return max(*codes, getattr(error, "code", 0))
    except (HydraException, OmegaConfBaseException) as error:
        raise compose.explain(command, words, error) from None
    except SystemExit as exit_:  # argparse, for options that Hydra does not have
        return WRONG_INPUT if exit_.code else DONE
    return DONE if failed else max(codes)  # a sweeper that gets over a failure, as Optuna does
