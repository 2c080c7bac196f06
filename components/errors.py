"""The one exception that a user is meant to read, and one that speaks of another process."""


class UserError(ValueError):
    """Something that the user can mend: says what was found, what is allowed and what to do.

    Commands print it without a traceback and exit with 2; any other exception is our defect and keeps its traceback.
    """


class PeerLostError(RuntimeError):
    """A collective failed, or the group is gone: another rank died, froze or was cut off. It says nothing about this rank's
    own work."""
