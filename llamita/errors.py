"""The exception for a user's mistake, as opposed to a defect in llamita."""


class UserError(Exception):
    """A user's mistake: one line that names the file, flag or field, what is wrong, and what to do.

    The command line prints the message alone and exits with 2. Every other exception keeps its traceback.
    """


class DivergenceError(UserError):
    """Training has diverged: a loss, its gradient or a weight is no longer finite."""
