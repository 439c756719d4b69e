"""Limits on the time of searches in MySQL and MariaDB."""

from typing import Any

TIMED_OUT = (3024, 1969, 3699)
"""Error codes of MySQL and MariaDB for a statement past its time, and of MySQL for a regular expression."""


def bound(connection: Any, state: dict[str, Any], seconds: int) -> None:
    """Limit the queries of a connection, in the server."""
    with connection.cursor() as cursor:
        cursor.execute("select version()")
        if "MariaDB" in cursor.fetchone()[0]:
            cursor.execute(f"set session max_statement_time = {seconds}")
        else:
            cursor.execute(f"set session max_execution_time = {seconds * 1000}")


def is_late(error: Exception, state: dict[str, Any]) -> bool:
    """Return whether a query has ended at its deadline."""
    return bool(error.args) and error.args[0] in TIMED_OUT
