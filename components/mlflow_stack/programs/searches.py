"""Limits on the tracking server's searches: query time, and regular expressions in linear time.

SQLite calls Python for ``RLIKE``. Python's ``re`` can take hours for one text, and blocks all other threads. RE2 takes
time in proportion to the text; it is part of PyArrow, a dependency of MLflow.
"""

# MLflow, PyArrow and SQLAlchemy have no types.
# pyright: basic

import time
from functools import wraps
from typing import Any

SECONDS = 25
"""Seconds of one query: less than the 30 s after which MLflow's MySQL driver gives up."""
STEPS = 10_000
"""SQLite's instructions between two checks of the clock."""

LONGEST = 500
"""Characters of a regular expression, with which RE2's time also grows."""

LONGEST_FILTER = 100_000
"""Characters of a filter with its order: MLflow parses a megabyte in half a minute, in which other threads wait."""

FILTERS = ("filter", "filter_string", "filters", "order_by")
"""Fields of requests with a filter or an order."""

TOO_LONG = (
    f"the search took longer than {SECONDS} s and was ended. Narrow it: name experiments, compare with = or a LIKE "
    "pattern that starts with text, or ask for fewer results."
)
TIMED_OUT = (3024, 1969, 3699)
"""Error codes of MySQL and MariaDB for a statement past its time, and of MySQL for a regular expression."""


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


def _bound_sqlite(connection: Any, state: dict[str, Any]) -> None:
    def regexp(pattern: str | None, text: object) -> bool:
        try:
            return matches(pattern, text)
        except ValueError as error:
            state["refused"] = f"RLIKE takes a regular expression of RE2 (got {pattern!r}): {error}"
            raise

    connection.create_function("regexp", 2, regexp)
    connection.set_progress_handler(lambda: time.monotonic() > state["deadline"], STEPS)


def _bound_mysql(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("select version()")
        if "MariaDB" in cursor.fetchone()[0]:
            cursor.execute(f"set session max_statement_time = {SECONDS}")
        else:
            cursor.execute(f"set session max_execution_time = {SECONDS * 1000}")


def bind(engine: Any) -> None:
    """Limit the queries of a SQLAlchemy engine."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST
    from sqlalchemy import event

    if engine.dialect.name not in ("sqlite", "mysql", "mariadb"):
        raise RuntimeError(f"searches of {engine.dialect.name} have no bound")

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        state = record.info.setdefault("search", {"deadline": float("inf")})
        if engine.dialect.name == "sqlite":
            _bound_sqlite(connection, state)
        else:
            _bound_mysql(connection)

    @event.listens_for(engine, "before_cursor_execute")
    def begin(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        reads = statement.lstrip()[:6].upper().startswith(("SELECT", "WITH"))
        state = connection.info["search"]
        state["deadline"] = time.monotonic() + SECONDS if reads else float("inf")
        state.pop("refused", None)

    @event.listens_for(engine, "handle_error")
    def explain(context: Any) -> None:
        """Answer 400: MLflow would answer 503, and its client would retry."""
        state = context.connection.info.get("search", {}) if context.connection is not None else {}
        error = context.original_exception
        if message := state.pop("refused", None):
            raise MlflowException(message, BAD_REQUEST) from error
        number = error.args[0] if error.args else None
        if number in TIMED_OUT or (number == "interrupted" and time.monotonic() > state.get("deadline", 0)):
            raise MlflowException(TOO_LONG, BAD_REQUEST) from error


def judge(request: Any) -> None:
    """Raise MLflow's error for a request whose filter takes too long to parse."""
    from mlflow.exceptions import MlflowException

    for field, value in request.ListFields():
        if field.name in FILTERS:
            size = sum(map(len, [value] if isinstance(value, str) else value))
            if size > LONGEST_FILTER:
                raise MlflowException.invalid_parameter_value(
                    f"{field.name}: has {size} characters; at most {LONGEST_FILTER}"
                )


def bound() -> None:
    """Limit every search of this process. Raises if MLflow's internals are not as expected."""
    import mlflow.server.handlers as handlers
    import mlflow.store.db.utils as databases

    read = handlers._get_request_message

    @wraps(read)
    def get_request_message(*args: Any, **options: Any) -> Any:
        request = read(*args, **options)
        judge(request)
        return request

    handlers._get_request_message = get_request_message

    create = databases.create_sqlalchemy_engine

    @wraps(create)
    def create_sqlalchemy_engine(db_uri: str) -> Any:
        engine = create(db_uri)
        bind(engine)
        return engine

    databases.create_sqlalchemy_engine = create_sqlalchemy_engine
    if "create_sqlalchemy_engine" not in databases.create_sqlalchemy_engine_with_retry.__code__.co_names:
        raise RuntimeError("this MLflow makes its database engines in another way: its searches have no bound")
