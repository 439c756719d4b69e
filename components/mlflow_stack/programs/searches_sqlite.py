"""Limits on searches in SQLite: query time, and regular expressions in linear time.

SQLite calls Python for ``RLIKE``. Python's ``re`` can take hours for one text, and blocks all other threads. RE2 takes
time in proportion to the text; it is part of PyArrow, a dependency of MLflow.
"""

# PyArrow has no types.
# pyright: basic

import time
from typing import Any

STEPS = 10_000
"""SQLite's instructions between two checks of the clock."""
LONGEST = 500
"""Characters of a regular expression, with which RE2's time also grows."""


def matches(pattern: str | None, text: object) -> bool:
    """Return whether RE2 finds the pattern in the text. Raises `ValueError` if RE2 rejects the pattern."""
    import pyarrow
    import pyarrow.compute

    if pattern is None or text is None:
        return False
    if len(pattern) > LONGEST:
        raise ValueError(f"it has {len(pattern)} characters; at most {LONGEST}")
    options = pyarrow.compute.MatchSubstringOptions(pattern)
    return pyarrow.compute.call_function("match_substring_regex", [pyarrow.scalar(str(text))], options).as_py()


def bound(connection: Any, state: dict[str, Any], seconds: int) -> None:
    """Limit the queries of a connection to the deadline in its state."""

    def regexp(pattern: str | None, text: object) -> bool:
        try:
            return matches(pattern, text)
        except ValueError as error:
            state["refused"] = f"RLIKE takes a regular expression of RE2 (got {pattern!r}): {error}"
            raise

    connection.create_function("regexp", 2, regexp)
    connection.set_progress_handler(lambda: time.monotonic() > state["deadline"], STEPS)


def is_late(error: Exception, state: dict[str, Any]) -> bool:
    """Return whether a query has ended at its deadline."""
    return error.args[:1] == ("interrupted",) and time.monotonic() > state.get("deadline", 0)
