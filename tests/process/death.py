"""Ending of a program that changes a schema, at a chosen moment and without cleanup."""

import logging
import os
import signal


def die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)


class Migrations(logging.Handler):
    seen = 0

    def emit(self, record):
        self.seen += record.getMessage().startswith("Running upgrade")
        if self.seen == 10:
            die()


def at_the_tenth_migration():
    logging.getLogger("alembic.runtime.migration").addHandler(Migrations())
