"""Limits on searches, for each supported database."""

from collections.abc import Iterator
from importlib import import_module

import psutil
import psycopg2.extensions
import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.protos.service_pb2 import SearchRuns
from process import postgresql
from process.databases import Server
from process.steps import SCRIPTS

from mlflow_stack.programs import searches, searches_sqlite

SECONDS = 2
"""Time limit in these tests."""
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows}) select count(*) from n"


def bounded(url: sqlalchemy.URL | str, monkeypatch: pytest.MonkeyPatch) -> sqlalchemy.Engine:
    monkeypatch.setattr(searches, "SECONDS", SECONDS)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    engine = sqlalchemy.create_engine(url)
    searches.bind(engine)
    return engine


def refusal(engine: sqlalchemy.Engine, query: str) -> MlflowException:
    with engine.connect() as connection, pytest.raises(MlflowException) as refused:
        connection.execute(sqlalchemy.text(query)).all()
    return refused.value


@pytest.mark.parametrize("kind", ["mariadb", "mysql8", "mysql9"])
def test_ends_a_query_of_mysql(servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    server = servers[kind]
    url = sqlalchemy.URL.create("mysql+pymysql", "root", query={"unix_socket": str(server.folder / "socket")})
    engine = bounded(url, monkeypatch)
    # A query that would run for hours.
    columns = ", ".join(f"information_schema.columns {name}" for name in "abc")
    error = refusal(engine, f"select count(*) from {columns}")
    assert (error.get_http_status_code(), error.message) == (400, searches.TOO_LONG)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1
    engine.dispose()


@pytest.fixture
def server(postgres: postgresql.Server) -> Iterator[tuple[postgresql.Server, sqlalchemy.URL]]:
    """PostgreSQL with a superuser's URL. The driver's callback is global in a process, and other tests have theirs."""
    query = {"host": str(postgres.folder), "port": str(postgres.port)}
    yield postgres, sqlalchemy.URL.create("postgresql+psycopg2", "postgres", database="postgres", query=query)
    psycopg2.extensions.set_wait_callback(None)


def test_ends_a_query_of_postgresql(
    server: tuple[postgresql.Server, sqlalchemy.URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bounded(server[1], monkeypatch)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("select 1"))
        connection.rollback()
    error = refusal(engine, ENDLESS.format(rows=10**9))
    assert (error.get_http_status_code(), error.message) == (400, searches.TOO_LONG)
    # A regular expression that backtracks.
    error = refusal(engine, "select repeat('ab', 50000) ~ '^((a|b|ab)*)\\1\\1$'")
    assert (error.get_http_status_code(), error.message) == (400, searches.TOO_LONG)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text(ENDLESS.format(rows=10))).scalar() == 10
    engine.dispose()


def test_does_not_wait_for_a_postgresql_that_is_silent(
    server: tuple[postgresql.Server, sqlalchemy.URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, url = server
    engine = bounded(url, monkeypatch)
    limits = import_module("searches_postgresql")
    limits.extensions.set_wait_callback(limits.wait)
    monkeypatch.setattr(limits, "SILENT_SECONDS", 1)
    monkeypatch.setattr(limits, "CONNECT_SECONDS", 1)
    with engine.connect() as connection:
        backend = connection.execute(sqlalchemy.text("select pg_backend_pid()")).scalar_one()
        connection.rollback()
        process = next(child for child in psutil.Process(postgres.process.pid).children(True) if child.pid == backend)
        process.suspend()
        try:
            with pytest.raises(sqlalchemy.exc.OperationalError, match="the server did not answer for 1 s"):
                connection.execute(sqlalchemy.text("select 2"))
        finally:
            process.resume()
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select 3")).scalar() == 3
    engine.dispose()


def test_ends_a_query_of_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bounded("sqlite://", monkeypatch)
    error = refusal(engine, ENDLESS.format(rows=10**12))
    assert (error.get_http_status_code(), error.message) == (400, searches.TOO_LONG)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text(ENDLESS.format(rows=10))).scalar() == 10


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^(a+)+$", "a" * 5000 + "!", False),
        ("(a|aa)+$", "a" * 5000 + "!", False),
        ("^pred.*[0-9]{2}$", "predict-42", True),
        ("(?i)PREDICT", "predict-42", True),
        ("x", None, False),
        (None, "x", False),
    ],
)
def test_regular_expressions_of_sqlite(pattern: str | None, text: str | None, found: bool) -> None:
    assert searches_sqlite.matches(pattern, text) is found


@pytest.mark.parametrize("pattern", ["(?=x)", r"(a)\1", "(", "a" * 501])
def test_refuses_patterns_by_name(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    engine = bounded("sqlite://", monkeypatch)
    with engine.connect() as connection, pytest.raises(MlflowException) as refused:
        connection.execute(sqlalchemy.text("select 'x' regexp :pattern"), {"pattern": pattern})
    assert refused.value.get_http_status_code() == 400
    assert refused.value.message.startswith(f"RLIKE takes a regular expression of RE2 (got {pattern!r}): ")


def test_like_with_many_wildcards_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bounded("sqlite://", monkeypatch)
    with engine.connect() as connection:
        query = sqlalchemy.text("select :text like :pattern")
        values = {"text": "a" * 8000, "pattern": "%" + "_%a%" * 500 + "b"}
        assert connection.execute(query, values).scalar() == 0


def test_refuses_a_database_without_a_bound() -> None:
    class Engine:
        class dialect:  # noqa: N801 - SQLAlchemy's name
            name = "oracle"

    with pytest.raises(RuntimeError, match="searches of oracle have no bound"):
        searches.bind(Engine())


@pytest.mark.parametrize("field", ["filter", "order_by"])
def test_refuses_filters_that_take_long_to_parse(field: str) -> None:
    def request(size: int) -> SearchRuns:
        return SearchRuns(filter="a" * size) if field == "filter" else SearchRuns(order_by=["a" * (size // 2)] * 2)

    searches.judge(request(searches.LONGEST_FILTER))
    with pytest.raises(MlflowException) as refused:
        searches.judge(request(searches.LONGEST_FILTER + 2))
    assert refused.value.get_http_status_code() == 400
    assert refused.value.message == f"{field}: has 100002 characters; at most 100000"
