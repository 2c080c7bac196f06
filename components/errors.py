"""Exceptions with a meaning beyond the function that raises them, and the text of foreign ones."""


class UserError(ValueError):
    """A problem that the user can solve. The message names what was found, what is allowed and what
    to do next.

    Commands print it without a traceback and exit with 2. Any other exception is a defect of Kiln
    and keeps its traceback.
    """


class PeerLostError(RuntimeError):
    """A collective operation failed or the process group is gone, because another rank died, froze
    or was cut off. This rank's own work is intact."""


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error, or its type if it has no text, for messages."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(". ;")
