"""Exceptions with a meaning beyond the function that raises them."""


class UserError(ValueError):
    """A problem that the user can solve. The message names what was found, what is allowed and what
    to do next.

    Commands print it without a traceback and exit with 2. Any other exception is a defect of Kiln
    and keeps its traceback.
    """


class PeerLostError(RuntimeError):
    """A collective operation failed or the process group is gone, because another rank died, froze
    or was cut off. This rank's own work is intact."""
