"""Errors of commands and runs, with their exit codes."""


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


DIVERGED = "learning diverged; lower optimizer.learning_rate"  # the end of its error messages
