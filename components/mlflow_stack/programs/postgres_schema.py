"""Migration of an MLflow database on PostgreSQL to the schema of the installed MLflow.

Runs in the MLflow image, one step each time, named by the only argument. ``check``, ``postgres_dump.sh`` and
``migrate`` are the containers of one Job, in this order; ``ready`` runs in every pod before its server.

- ``check`` changes nothing. It checks the server and the database, determines the schema's revision, and writes the
  action to take as files in ``WORK`` for the next steps.
- ``migrate`` creates the schema, or upgrades it if it still has the dump's revision.
- ``ready`` waits for the database and writes the password file of MLflow's driver to ``OPTIONS``.

PostgreSQL changes schemas in transactions. The whole of ``migrate`` is one transaction, with its lock and its checks,
so a step that is killed or fails leaves the database as it was. An unknown state is left unchanged: the Job exits with
1, and the last line on standard error says why and what to do.
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import sql_schema
from revisions import RefusedError, installed_version, known_revisions, say
from sql_schema import CONNECT_SECONDS, LOCK_SECONDS, Plan, State, UnansweredError, ask, counts, summary

OLDEST: Final = 14
CONNECTIONS: Final = 16
"""Least connections of the user: a tracking server opens up to 15, and a schema step one."""
BLOCKED_SECONDS: Final = 60
"""Seconds that a migration waits for another session's lock on a table."""
KEY: Final = "hashtextextended('mlflow-stack ' || current_schema(), 0)"


class Session(psycopg2.extensions.connection):
    """Connection whose transaction only :meth:`keep` commits: MLflow's migrations commit in between, and their pool
    rolls back."""

    def commit(self) -> None:
        """Do nothing."""

    def rollback(self) -> None:
        """Do nothing."""

    def keep(self) -> None:
        """Commit the transaction."""
        super().commit()


@dataclass(frozen=True)
class Target(sql_schema.Target):
    """Database to migrate, from the pod's environment."""

    sslmode: str = "prefer"
    """Protection of the connection, as in libpq."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Target":
        """Return the target of the environment."""
        return cls(**vars(sql_schema.Target.of(environment)), sslmode=environment["SSLMODE"])

    @property
    def options(self) -> dict[str, Any]:
        """Options of a connection, except for the password."""
        return {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.user,
            "connect_timeout": CONNECT_SECONDS,
            "sslmode": self.sslmode,
            **({"sslrootcert": self.authority} if self.authority else {}),
        }


def connect(target: Target) -> Session:
    """Open a session, and wait for a server that does not answer yet."""
    return sql_schema.connected(target, lambda: _open(target))


def _open(target: Target) -> Session:
    password = target.password.decode("utf-8")
    try:
        session = psycopg2.connect(connection_factory=Session, password=password, **target.options)
    except psycopg2.OperationalError as error:
        # The driver gives no code for errors before a session exists.
        text = " ".join(str(error).split())
        if "password authentication failed" in text or "no password supplied" in text:
            raise sql_schema.wrong_password(target) from None
        if "pg_hba.conf" in text:
            raise RefusedError(
                f"the server at {target.host}:{target.port} does not accept this connection: {text}. Nothing was "
                "changed. Permit it in the server's pg_hba.conf, or set sslmode to what the server requires."
            ) from None
        if 'database "' in text and ("does not exist" in text or "permission denied" in text):
            raise sql_schema.no_database(
                target,
                f'CREATE DATABASE "{target.database}" OWNER "{target.user}" ENCODING \'UTF8\' TEMPLATE template0;',
            ) from None
        if "certificate" in text or (target.authority and "SSL error" in text):
            raise sql_schema.wrong_certificate(target, text) from None
        if "server does not support SSL" in text:
            raise RefusedError(
                f"the server at {target.host}:{target.port} does not support TLS, which sslmode {target.sslmode} "
                "requires. Nothing was changed. Enable TLS on the server, or change sslmode."
            ) from None
        raise UnansweredError(text) from None
    session.set_client_encoding("UTF8")
    # A role may have limits of its own, which suit queries.
    ask(session, "set local statement_timeout = 0")
    return session


@contextmanager
def alone(session: Session, target: Target) -> Generator[None]:
    """Exclude every other run of a step from the schema until the transaction ends. Unlike a session's lock, this one
    also works through a connection pooler."""
    if ask(session, f"select pg_try_advisory_xact_lock({KEY})") != [(True,)]:
        say("Another schema step is at work on this database; waiting for it.")
        ask(session, f"set local lock_timeout = '{LOCK_SECONDS}s'")
        try:
            ask(session, f"select pg_advisory_xact_lock({KEY})")
        except psycopg2.errors.LockNotAvailable:
            raise sql_schema.another_step(target) from None
    yield


def state(session: Session) -> State:
    """Return the state of the schema."""
    listed = ask(session, "select tablename from pg_tables where schemaname = current_schema()")
    tables = frozenset(str(name) for (name,) in listed)
    revisions: list[str] = []
    if "alembic_version" in tables:
        revisions = [number for (number,) in ask(session, "select version_num from alembic_version")]
    whole = len(revisions) == 1 and "experiments" in tables
    return State(tables, revisions[0] if whole else None)


def others(session: Session) -> int:
    """Return the number of the user's other sessions in the database."""
    # Activity is read once for each transaction.
    ask(session, "select pg_stat_clear_snapshot()")
    ((number,),) = ask(
        session,
        "select count(*) from pg_stat_activity where usename = session_user and datname = current_database() "
        "and pid <> pg_backend_pid() and backend_type = 'client backend'",
    )
    return number


def unfit(session: Session, target: Target) -> list[str]:
    """Return the obstacles to MLflow's migrations, with the statement that removes each."""
    problems: list[str] = []
    ((number, version, encoding, standby, schema, creates),) = ask(
        session,
        "select current_setting('server_version_num')::int, current_setting('server_version'), "
        "pg_encoding_to_char(encoding), pg_is_in_recovery(), current_schema(), "
        "has_schema_privilege(current_schema(), 'CREATE') from pg_database where datname = current_database()",
    )
    if number < OLDEST * 10000:
        problems.append(
            f"the server is PostgreSQL {version}, and {OLDEST} is the oldest that is supported: upgrade it."
        )
    if standby:
        problems.append("the server is a standby, which accepts no changes: set host to the primary server.")
    if encoding != "UTF8":
        problems.append(
            f"the database's encoding is {encoding}, in which names outside of it cannot be stored: create another one "
            f"with ENCODING 'UTF8' TEMPLATE template0."
        )
    if not creates:
        problems.append(
            f"the user may not create tables in the schema {schema or 'public'}: "
            f'GRANT USAGE, CREATE ON SCHEMA "{schema or "public"}" TO "{target.user}";'
        )
    foreign = ask(
        session,
        "select tablename, tableowner from pg_tables where schemaname = current_schema() "
        "and not pg_has_role(tableowner, 'USAGE') order by tablename",
    )
    if foreign:
        table, owner = foreign[0]
        problems.append(
            f"the user does not own {len(foreign)} tables of the schema, {table} among them, and cannot change them: "
            f'GRANT "{owner}" TO "{target.user}";'
        )
    return problems + narrow(session, target)


def narrow(session: Session, target: Target) -> list[str]:
    """Return the limits on connections that are too low for one tracking server, with a statement for each."""
    ((superuser, database, user, server),) = ask(
        session,
        "select rolsuper, datconnlimit, rolconnlimit, current_setting('max_connections')::int "
        "- current_setting('superuser_reserved_connections')::int "
        "from pg_database, pg_roles where datname = current_database() and rolname = current_user",
    )
    limits = [(server, "the server permits", f"ALTER SYSTEM SET max_connections = {4 * CONNECTIONS}; (and a restart)")]
    if not superuser:
        limits += [
            (database, "the database permits", f'ALTER DATABASE "{target.database}" CONNECTION LIMIT -1;'),
            (user, "the user is permitted", f'ALTER ROLE "{target.user}" CONNECTION LIMIT -1;'),
        ]
    return [
        f"{who} {limit} connections, and a tracking server needs {CONNECTIONS}: {statement}"
        for limit, who, statement in limits
        if 0 <= limit < CONNECTIONS
    ]


def plan(session: Session, target: Target, found: State) -> Plan:
    """Return the action for the state of the schema."""
    half_made = "there are tables and no single revision beside them" if found.revision is None else None
    return sql_schema.plan(target, found, half_made, lambda: counts(session, found.tables), ".dump")


def check(target: Target, work: Path) -> None:
    """Run the first step; see the module's docstring."""
    with closing(connect(target)) as session:
        sql_schema.require_fit(target, unfit(session, target))
        with alone(session, target):
            todo = plan(session, target, state(session))
            if todo.action == "upgrade":
                sql_schema.nobody_else(target, lambda: others(session))
            ((schema,),) = ask(session, "select quote_ident(current_schema())")
    (work / "schema").write_text(schema)
    (work / "connection").write_text(psycopg2.extensions.make_dsn(**target.options))
    sql_schema.secret_file(work / "pgpass", password_file(target))
    sql_schema.write_plan(target, todo, work)


def run_migrations(session: Session, make: Callable[[Any, Any], None]) -> None:
    """Give MLflow's own schema functions an engine on this session; log each migration."""
    import sqlalchemy
    from mlflow.store.db import utils

    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    # A blocked migration blocks everyone else, too.
    ask(session, f"set local lock_timeout = '{BLOCKED_SECONDS}s'")
    ask(session, "set local idle_in_transaction_session_timeout = 0")
    pool = sqlalchemy.pool.StaticPool
    make(utils, sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: session, poolclass=pool))


def verify(session: Session, head: str, rows: Mapping[str, int]) -> None:
    """Fail unless the schema has that revision with those rows."""
    found = state(session)
    sql_schema.verify(found, counts(session, found.tables), head, rows)


def create(session: Session, target: Target, head: str) -> None:
    """Create the newest schema in an empty database."""
    say(f"Making {target} with the schema of MLflow {installed_version()}.")
    run_migrations(session, lambda utils, engine: utils._initialize_tables(engine))
    verify(session, head, {})
    session.keep()
    say(f"{target} is ready, at revision {head}.")


def upgrade(session: Session, target: Target, found: State, todo: Plan, head: str) -> None:
    """Upgrade a schema of which a dump exists."""
    started = time.monotonic()
    sql_schema.require_revision(target, found, todo)
    sql_schema.nobody_else(target, lambda: others(session))
    say(f"Upgrading {target} to the schema of MLflow {installed_version()}.")
    try:
        run_migrations(session, lambda utils, engine: utils._upgrade_db(engine))
        verify(session, head, todo.rows)
    except Exception as error:
        traceback.print_exc()
        raise RefusedError(
            f"{target} at revision {todo.revision} could not be upgraded to {head} ({summary(error)}). Nothing was "
            "changed. Run the same command again once the cause is gone, or with the image from before to go on with "
            "that."
        ) from None
    session.keep()
    sql_schema.say_upgraded(target, todo, head, started)


def migrate(target: Target, work: Path) -> None:
    """Run the last step; see the module's docstring."""
    todo = sql_schema.read_plan(work)
    if todo.action == "nothing":
        return
    head, _ = known_revisions()
    with closing(connect(target)) as session, alone(session, target):
        found = state(session)
        if found.revision == head:
            say(f"{target} is at revision {head} by now: nothing to do.")
        elif todo.action == "upgrade":
            upgrade(session, target, found, todo, head)
        elif found.tables:
            raise sql_schema.no_longer_empty(target)
        else:
            create(session, target, head)


def password_file(target: Target) -> bytes:
    """Return libpq's password file with this password for every connection."""
    return b"*:*:*:*:" + target.password.replace(b"\\", b"\\\\").replace(b":", b"\\:") + b"\n"


def ready(target: Target, options: Path) -> None:
    """Run the check of every pod before its server."""
    with closing(connect(target)) as session:
        found = state(session)
    sql_schema.require_ready(target, found)
    sql_schema.secret_file(options, password_file(target))


def main() -> int:
    """Run the step as in the pod."""
    return sql_schema.main(Target.of, check, migrate, ready)


if __name__ == "__main__":
    sys.exit(main())
