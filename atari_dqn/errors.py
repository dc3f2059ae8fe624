"""The two ways in which a command can end badly."""


class UserError(Exception):
    """Wrong input: one line that says what is wrong and what to do instead. Exit code 2."""


class RunFailed(Exception):
    """A run that could not go on, in a sentence. Exit code 1."""


DIVERGED = "learning diverged; lower optimizer.learning_rate"  # the remedy that its messages end with
