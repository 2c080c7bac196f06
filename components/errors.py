"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """Something that the user can mend: says what was found, what is allowed and what to do.

    Commands print it without a traceback and exit with 2; any other exception is our defect and keeps its traceback.
    """
