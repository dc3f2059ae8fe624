"""Errors of commands and runs, with their exit codes."""

import errno
import os

from atari_dqn.utils.text import one_line

# What other libraries say for "out of memory": the dynamic linker, torch, the system.
NO_MEMORY = ("failed to map segment", "can't allocate memory", "Cannot allocate memory")

# Errors of files, folders and disks that the user named.
FILE_TROUBLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ELOOP,
    errno.ENAMETOOLONG,
}  # fmt: skip


class UserError(Exception):
    """Wrong input, with a one-line message that states the problem and the remedy. Exit code 2."""


class RunFailed(Exception):
    """A run that had to abort, with a one-sentence reason. Exit code 1."""


class Stopped(KeyboardInterrupt):
    """The user asked a run to stop: it is saved, and the remaining runs of a multirun are not started."""


class JobFailed(Exception):
    """One of several runs failed, and has printed why. Picklable, because it may come from another process.

    Attributes:
        code: the exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def explained(error: Exception) -> Exception:
    """An error of the system, as the UserError or RunFailed that it is to the user; any other error as it is."""
    if isinstance(error, MemoryError) or any(sign in one_line(error, 300) for sign in NO_MEMORY):
        return RunFailed("out of memory; free some, or raise the limit that `ulimit -v` shows")
    if isinstance(error, OSError) and error.errno in FILE_TROUBLE and error.filename is not None:
        return UserError(f"cannot use {os.fsdecode(error.filename)}: {error.strerror}")
    return error


DIVERGED = "learning diverged; lower optimizer.learning_rate"  # the end of its error messages
