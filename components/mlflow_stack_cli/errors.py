"""The one failure the local platform reports."""


class LocalError(Exception):
    """Something on this machine failed, and the message is all a user needs.

    The message says what failed, the last log lines where there is a log, and what to do next. The command line
    prints it without a traceback.
    """
