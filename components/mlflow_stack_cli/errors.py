"""Errors that commands report without a traceback."""


class LocalError(Exception):
    """Error whose message is complete for a user: what failed, the last lines of a log, and the next step."""
