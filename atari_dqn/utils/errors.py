"""The two ways in which a command can end badly."""


class UserError(Exception):
    """Wrong input: one line that says what is wrong and what to do instead. Exit code 2."""


class RunFailed(Exception):
    """A run that could not go on, in a sentence. Exit code 1."""


class Stopped(KeyboardInterrupt):
    """A person asked a run to stop: it is saved, and of several no other is begun."""


class JobFailed(Exception):
    """A run among several has failed, and has said why. Picklable: it may have been in another process.

    Attributes:
        code: the exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


DIVERGED = "learning diverged; lower optimizer.learning_rate"  # the remedy that its messages end with
