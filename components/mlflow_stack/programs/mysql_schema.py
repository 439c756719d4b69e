"""Migration of an MLflow database on MySQL or MariaDB to the schema of the installed MLflow.

Runs in the MLflow image, one step each time, named by the only argument. ``check``, ``mysql_dump.sh`` and ``migrate``
are the containers of one Job, in this order; ``ready`` runs in every pod before its server.

- ``check`` changes nothing. It checks the server and the database, determines the schema's revision, and writes the
  action to take as files in ``WORK`` for the next steps.
- ``migrate`` creates the schema, or upgrades it if it still has the dump's revision.
- ``ready`` waits for the database and writes the options of MLflow's driver, password included, to ``OPTIONS``.

The server commits each schema change by itself, so a killed step leaves a partial schema. The running action is
therefore recorded in the database beforehand, in a table that only this project creates. The next run undoes and
repeats a creation on an empty database; it undoes an upgrade with the dump from before it. An unknown state is left
unchanged: the Job exits with 1, and the last line on standard error says why and what to do.
"""

import hashlib
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pymysql
import sql_schema
from pymysql.connections import Connection
from pymysql.constants import CR, ER
from revisions import RefusedError, installed_version, known_revisions, made_after, say
from sql_schema import CONNECT_SECONDS, LOCK_SECONDS, Plan, State, Target, UnansweredError, ask, counts, summary

if TYPE_CHECKING:
    Session = Connection[Any]  # generic in the types only
else:
    Session = Connection

MARKER: Final = "mlflow_stack_step"
OLDEST: Final = {"MySQL": (8, 0), "MariaDB": (10, 6)}
# Operations of MLflow's migrations.
NEEDED: Final = frozenset(
    ("ALTER", "CREATE", "DELETE", "DROP", "INDEX", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "UPDATE")
)
# Errors that a retry can resolve: a server that starts, is restarted, or has too many clients.
PASSING: Final = frozenset(
    {CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, 1040, 1053, 1129}
)


def connect(target: Target) -> Session:
    """Open a session, and wait for a server that does not answer yet."""
    return sql_schema.connected(target, lambda: _open(target))


def _open(target: Target) -> Session:
    try:
        return pymysql.connect(
            host=target.host,
            port=target.port,
            user=target.user,
            password=cast(Any, target.password),
            database=target.database,
            charset="utf8mb4",
            connect_timeout=CONNECT_SECONDS,
            ssl={"ca": target.authority} if target.authority else None,
            autocommit=True,
        )
    except pymysql.err.OperationalError as error:
        number, text = error.args[0], str(error.args[-1])
        if number == ER.ACCESS_DENIED_ERROR:
            raise sql_schema.wrong_password(target) from None
        if number in (ER.BAD_DB_ERROR, ER.DBACCESS_DENIED_ERROR):
            raise sql_schema.no_database(
                target,
                f"CREATE DATABASE `{target.database}` CHARACTER SET utf8mb4; "
                f"GRANT ALL ON `{target.database}`.* TO '{target.user}'@'%';",
            ) from None
        if "CERTIFICATE_VERIFY_FAILED" in text:
            raise sql_schema.wrong_certificate(target, text) from None
        if number not in PASSING:
            raise
        raise UnansweredError(text) from None


@contextmanager
def alone(session: Session, target: Target) -> Generator[None]:
    """Exclude every other run of a step from the database. The server releases the lock when this session has ended,
    also after a kill, but not before the running statement ends."""
    lock = f"mlflow-stack {hashlib.sha256(target.database.encode()).hexdigest()[:40]}"
    if ask(session, "select get_lock(%s, 0)", lock) != [(1,)]:
        say("Another schema step is at work on this database; waiting for it.")
        if ask(session, "select get_lock(%s, %s)", lock, LOCK_SECONDS) != [(1,)]:
            raise sql_schema.another_step(target)
    yield


def state(session: Session, target: Target) -> State:
    """Return the state of the database."""
    listing = "select table_name, table_comment from information_schema.tables where table_schema = %s"
    comments = {name: comment for name, comment in ask(session, listing, target.database)}  # noqa: C416 - typed so
    marker = json.loads(comments.pop(MARKER)) if MARKER in comments else None
    revisions: list[str] = []
    if "alembic_version" in comments:
        revisions = [number for (number,) in ask(session, "select version_num from alembic_version")]
    whole = len(revisions) == 1 and "experiments" in comments
    return State(frozenset(comments), revisions[0] if whole else None, marker)


def others(session: Session, target: Target) -> int:
    """Return the number of the user's other sessions in the database."""
    ((own,),) = ask(session, "select connection_id()")
    listed = ask(session, "show processlist")
    return sum(
        1 for session in listed if session[0] != own and session[1] == target.user and session[3] == target.database
    )


def nobody_else(session: Session, target: Target) -> None:
    """Refuse to replace a schema that servers are using."""
    sql_schema.nobody_else(target, lambda: others(session, target))


def granted(session: Session, database: str) -> tuple[set[str], set[str]]:
    """Return the user's privileges on the database, and the global ones."""
    here: set[str] = set()
    everywhere: set[str] = set()
    for (line,) in ask(session, "show grants"):
        found = re.match(r"GRANT (.+?) ON (\S+) TO ", line)
        if found is None:
            continue
        names = {name.strip() for name in found[1].split(",")}
        if found[2] == "*.*":
            everywhere |= names
        elif found[2].endswith(".*") and re.fullmatch(pattern(found[2].removesuffix(".*").strip("`")), database):
            here |= names
    return here | everywhere, everywhere


def pattern(name: str) -> str:
    """Return a grant's database name as a regular expression: ``%`` and ``_`` are wildcards unless escaped."""
    wildcards = {"%": ".*", "_": "."}
    parts = re.findall(r"\\.|.", name.replace("``", "`"))
    return "".join(wildcards.get(part) or re.escape(part.removeprefix("\\")) for part in parts)


def unfit(session: Session, target: Target) -> list[str]:
    """Return the obstacles to MLflow's migrations, with the statement that removes each."""
    problems: list[str] = []
    ((version, charset, binlog, trusted),) = ask(
        session,
        "select version(), (select default_character_set_name from information_schema.schemata where schema_name = %s),"
        " @@log_bin, @@log_bin_trust_function_creators",
        target.database,
    )
    kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if number < OLDEST[kind]:
        wanted = ".".join(str(part) for part in OLDEST[kind])
        problems.append(f"the server is {kind} {version}, and {wanted} is the oldest that is supported: upgrade it.")
    if charset != "utf8mb4":
        problems.append(
            f"the database's character set is {charset}, in which names outside of it cannot be stored: "
            f"ALTER DATABASE `{target.database}` CHARACTER SET utf8mb4;"
        )
    here, everywhere = granted(session, target.database)
    missing = sorted(NEEDED - here) if "ALL PRIVILEGES" not in here else []
    if missing:
        problems.append(
            f"the user lacks {', '.join(missing)}: GRANT {', '.join(missing)} ON `{target.database}`.* "
            f"TO '{target.user}'@'%';"
        )
    if binlog and not trusted and not everywhere & {"ALL PRIVILEGES", "SUPER"}:
        problems.append(
            "the server keeps a binary log and does not trust makers of triggers, which the schema has: "
            "SET GLOBAL log_bin_trust_function_creators = 1; (and the same in the server's configuration)"
        )
    return problems


def half_made(session: Session, target: Target, found: State) -> str | None:
    """Return why the schema is not the result of a migration; None if it is."""
    if found.revision is None:
        return "there are tables and no single revision beside them"
    tables, columns = made_after(found.revision)
    begun = sorted(tables & found.tables)
    if columns:
        there = set(
            ask(
                session,
                "select table_name, column_name from information_schema.columns where table_schema = %s",
                target.database,
            )
        )
        begun += [f"{table}.{column}" for table, column in sorted(columns & there)]
    return f"it is at revision {found.revision}, but has {', '.join(begun)} of the next one" if begun else None


def plan(session: Session, target: Target, found: State) -> Plan:
    """Return the action for the state of the database."""
    head, known = known_revisions()
    marker = found.marker
    if marker is not None and marker["step"] == "creation":
        rows = counts(session, found.tables)
        if any(number for table, number in rows.items() if table != "experiments") or rows.get("experiments", 0) > 1:
            raise RefusedError(
                f"the creation of {target} was stopped half-way, and data was written into it since. Nothing was "
                f"changed. If it is wanted, copy it away; then empty the database and run the same command again."
            )
        return Plan("create")
    if marker is not None:
        before = Plan("restore", marker["revision"], marker["dump"], marker["rows"])
        grown = [table for table, number in counts(session, found.tables).items() if number > before.rows.get(table, 0)]
        if grown:
            raise RefusedError(
                f"an upgrade of {target} was stopped half-way, and rows were added since (in {', '.join(grown)}), "
                f"which putting {before.dump} back would lose. Nothing was changed. Copy them away and delete them, "
                "then run the same command again."
            )
        if before.revision not in known:
            raise sql_schema.newer(target, str(before.revision), head)
        return before
    why = half_made(session, target, found) if found.tables else None
    return sql_schema.plan(target, found, why, lambda: counts(session, found.tables), ".sql.gz")


def check(target: Target, work: Path) -> None:
    """Run the first step; see the module's docstring."""
    with closing(connect(target)) as session, alone(session, target):
        sql_schema.require_fit(target, unfit(session, target))
        found = state(session, target)
        todo = plan(session, target, found)
        if todo.action in ("upgrade", "restore"):
            nobody_else(session, target)
        tables = [f"`{table}`" for table in sorted(found.tables)]
    (work / "undo.sql").write_text(
        "set foreign_key_checks = 0;\n" + (f"drop table if exists {', '.join(tables)};\n" if tables else "")
    )
    sql_schema.secret_file(work / "client.cnf", tool_options(target))
    sql_schema.write_plan(target, todo, work)


def run_migrations(session: Session, make: Callable[[Any, Any], None]) -> None:
    """Give MLflow's own schema functions an engine on this session, whose lock lasts until its last statement; log each
    migration."""
    import sqlalchemy
    from mlflow.store.db import utils

    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    ask(session, "set autocommit = 0")
    engine = sqlalchemy.create_engine("mysql+pymysql://", creator=lambda: session, poolclass=sqlalchemy.pool.StaticPool)
    make(utils, engine)
    ask(session, "set autocommit = 1")


def mark(session: Session, step: str, todo: Plan) -> None:
    """Record the running action in the database, with one statement."""
    text = json.dumps({"step": step, "revision": todo.revision, "dump": todo.dump, "rows": todo.rows})
    ask(session, f"create table {MARKER} (step int) comment = %s", text)


def unmark(session: Session) -> None:
    """Remove the record of the running action: the step has ended."""
    ask(session, f"drop table {MARKER}")


def create(session: Session, target: Target, found: State, head: str) -> None:
    """Create the newest schema in an empty database, or after an unfinished creation of ours."""
    if found.marker is None:
        mark(session, "creation", Plan("create"))
    elif found.revision == head:
        unmark(session)
        say(f"{target} was made already, at revision {head}.")
        return
    elif found.tables:
        say(f"The creation of {target} was interrupted; it starts again.")
        ask(session, "set foreign_key_checks = 0")
        ask(session, f"drop table {', '.join(f'`{table}`' for table in sorted(found.tables))}")
        ask(session, "set foreign_key_checks = 1")
    say(f"Making {target} with the schema of MLflow {installed_version()}.")
    run_migrations(session, lambda utils, engine: utils._initialize_tables(engine))
    verify(session, target, head, {})
    unmark(session)
    say(f"{target} is ready, at revision {head}.")


def verify(session: Session, target: Target, head: str, rows: Mapping[str, int]) -> None:
    """Fail unless the schema has that revision with those rows."""
    found = state(session, target)
    sql_schema.verify(found, counts(session, found.tables), head, rows)


def upgrade(session: Session, target: Target, found: State, todo: Plan, head: str) -> None:
    """Upgrade a schema of which a dump exists."""
    started = time.monotonic()
    sql_schema.require_revision(target, found, todo)
    nobody_else(session, target)
    if found.marker is None:
        mark(session, "upgrade", todo)
    if found.revision == head:
        unmark(session)
        say(f"{target} is back at revision {head}, with what {todo.dump} has.")
        return
    say(f"Upgrading {target} to the schema of MLflow {installed_version()}.")
    try:
        run_migrations(session, lambda utils, engine: utils._upgrade_db(engine))
        verify(session, target, head, todo.rows)
    except Exception as error:
        traceback.print_exc()
        raise RefusedError(
            f"{target} at revision {todo.revision} could not be upgraded to {head} ({summary(error)}), and half of it "
            f"may be done. All that was in it is in {todo.dump} on the claim with the dumps. The next run puts that "
            "back by itself before it does anything else: run the same command again once the cause is gone, or with "
            "the image from before to go on with that."
        ) from None
    unmark(session)
    sql_schema.say_upgraded(target, todo, head, started)


def migrate(target: Target, work: Path) -> None:
    """Run the last step; see the module's docstring."""
    todo = sql_schema.read_plan(work)
    if todo.action == "nothing":
        return
    head, _ = known_revisions()
    with closing(connect(target)) as session, alone(session, target):
        found = state(session, target)
        if found.marker is None and found.revision == head:
            say(f"{target} is at revision {head} by now: nothing to do.")
        elif todo.action == "create":
            if found.tables and (found.marker is None or found.marker["step"] != "creation"):
                raise sql_schema.no_longer_empty(target)
            create(session, target, found, head)
        else:
            upgrade(session, target, found, todo, head)


def quoted(value: str) -> str:
    """Return a value as the clients of MySQL and MariaDB read it in an option file."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def tool_options(target: Target) -> bytes:
    """Return the option file of the clients that dump and restore."""
    lines = [
        "[client]",
        f"host={target.host}",
        f"port={target.port}",
        f"user={quoted(target.user)}",
        f"password={quoted(target.password.decode('utf-8'))}",
    ]
    if target.authority:
        # MariaDB's clients know the second of these, MySQL's the third.
        lines += [f"ssl-ca={target.authority}", "loose-ssl-verify-server-cert", "loose-ssl-mode=VERIFY_IDENTITY"]
    return ("\n".join(lines) + "\n").encode("utf-8")


def driver_options(target: Target) -> bytes:
    """Return the option file of MLflow's driver, which removes one pair of quotes and knows no escapes, encodes a
    password as Latin-1, and with ``ssl-ca`` verifies the server's certificate and name, unlike MLFLOW_MYSQL_SSL_CA."""
    lines = ["[client]", f'user="{target.user}"', f'password="{target.password.decode("latin-1")}"']
    if target.authority:
        lines.append(f"ssl-ca={target.authority}")
    return ("\n".join(lines) + "\n").encode("utf-8")


def ready(target: Target, options: Path) -> None:
    """Run the check of every pod before its server."""
    with closing(connect(target)) as session:
        found = state(session, target)
    sql_schema.require_ready(target, found)
    sql_schema.secret_file(options, driver_options(target))


def main() -> int:
    """Run the step as in the pod."""
    return sql_schema.main(Target.of, check, migrate, ready)


if __name__ == "__main__":
    sys.exit(main())
