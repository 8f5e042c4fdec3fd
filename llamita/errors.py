"""The one exception that stands for a mistake of the person at the keyboard, not of the program."""


class UserError(Exception):
    """A person's mistake: the message is one line that names the file, flag or field, what was wrong, what to do.

    The command line prints the message alone and exits with code 2. Everything else keeps its traceback.
    """
