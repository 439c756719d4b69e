"""Limits on the time of searches in PostgreSQL, and on the time of a server that does not answer."""

import select
from typing import Any

import psycopg2
from psycopg2 import extensions

TIMED_OUT = "57014"
"""Code of PostgreSQL for a statement past its time."""
CONNECT_SECONDS = 5
SILENT_SECONDS = 30
"""Seconds without an answer, in which the server ends any query by itself."""


def wait(connection: Any) -> None:
    """Wait for the server, but not without end: libpq has no timeout for answers. The driver closes a connection whose
    wait raises."""
    seconds = SILENT_SECONDS if connection.status != extensions.STATUS_SETUP else CONNECT_SECONDS
    while (state := connection.poll()) != extensions.POLL_OK:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        if not poll.poll(seconds * 1000):
            raise psycopg2.OperationalError(f"the server did not answer for {seconds} s")


def bound(connection: Any, state: dict[str, Any], seconds: int) -> None:
    """Limit the queries of a connection, in the server."""
    with connection.cursor() as cursor:
        cursor.execute(f"set statement_timeout = {seconds * 1000}")
    connection.commit()  # a rollback would reset it


def is_late(error: Exception, state: dict[str, Any]) -> bool:
    """Return whether a query has ended at its deadline."""
    return getattr(error, "pgcode", None) == TIMED_OUT


extensions.set_wait_callback(wait)
