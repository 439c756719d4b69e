"""Limits on the tracking server's searches: query time and the length of filters.

The backend store adds a module for its database, ``searches_<dialect>``, with the functions ``bound`` and ``is_late``.
"""

# MLflow and SQLAlchemy have no types.
# pyright: basic

import time
from functools import wraps
from importlib import import_module
from typing import Any

SECONDS = 25
"""Seconds of one query: less than the 30 s after which MLflow's MySQL driver gives up."""
LONGEST_FILTER = 100_000
"""Characters of a filter with its order: MLflow parses a megabyte in half a minute, in which other threads wait."""

FILTERS = ("filter", "filter_string", "filters", "order_by")
"""Fields of requests with a filter or an order."""

TOO_LONG = (
    f"the search took longer than {SECONDS} s and was ended. Narrow it: name experiments, compare with = or a LIKE "
    "pattern that starts with text, or ask for fewer results."
)


def bind(engine: Any) -> None:
    """Limit the queries of a SQLAlchemy engine."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST
    from sqlalchemy import event

    try:
        database: Any = import_module(f"searches_{engine.dialect.name}")
    except ModuleNotFoundError as error:
        raise RuntimeError(f"searches of {engine.dialect.name} have no bound") from error

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        state = record.info.setdefault("search", {"deadline": float("inf")})
        database.bound(connection, state, SECONDS)

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
        if database.is_late(error, state):
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
