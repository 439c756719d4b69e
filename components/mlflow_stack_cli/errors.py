"""Failures that commands report without a traceback."""


class LocalError(Exception):
    """Failure whose message is all that a user needs: what failed, the last lines of a log, and what to do next."""
