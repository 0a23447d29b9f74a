"""The one exception whose text is meant for the user."""


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
