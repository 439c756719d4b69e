"""Shared code of the schema steps of SQL databases: target, plan, refusals and the steps' command line.

Runs in the MLflow image, one step each time, named by the only argument. ``check``, the dump and ``migrate`` are the
containers of one Job, in this order; ``ready`` runs in every pod before its server. Each kind of database has a module
with these steps.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from revisions import COUNTED, RefusedError, installed_version, known_revisions, say

S = TypeVar("S")

LOCK_SECONDS: Final = 600
CONNECT_SECONDS: Final = 5
PAUSE_SECONDS: Final = 1
WAIT_SECONDS: Final = int(os.environ.get("WAIT_SECONDS", "90"))


class UnansweredError(Exception):
    """Error of a connection that a retry can resolve."""


@dataclass(frozen=True)
class Target:
    """Database to migrate, from the pod's environment."""

    host: str
    port: int
    database: str
    user: str
    password: bytes
    """Password, as in the Secret: the server compares bytes."""
    authority: str | None
    """Path of the certificate authority's file."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Target":
        """Return the target of the environment."""
        return cls(
            host=environment["HOST"],
            port=int(environment["PORT"]),
            database=environment["DATABASE"],
            user=environment["USERNAME"],
            password=Path(environment["PASSWORD_FILE"]).read_bytes().rstrip(b"\r\n"),
            authority=environment.get("CA_FILE"),
        )

    def __str__(self) -> str:
        return f"{self.database} on {self.host}:{self.port}"


@dataclass(frozen=True)
class State:
    """State of a database."""

    tables: frozenset[str]
    """Its tables, without ours."""
    revision: str | None
    """Revision of the schema; None if there is no single one."""
    marker: Mapping[str, Any] | None = None
    """Record of one of our steps that did not end. Only where the server commits each schema change by itself."""


@dataclass
class Plan:
    """Action that ``check`` determined."""

    action: str
    """nothing, create, upgrade or restore."""
    revision: str | None = None
    """Revision to upgrade from."""
    dump: str | None = None
    """File in the dumps' folder that holds that revision."""
    rows: dict[str, int] = field(default_factory=dict[str, int])
    """Number of rows in each table at that revision."""


def ask(session: Any, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a statement."""
    with session.cursor() as cursor:
        cursor.execute(statement, values or None)
        return list(cursor.fetchall()) if cursor.description else []


def connected(target: Target, attempt: Callable[[], S]) -> S:
    """Return the session that an attempt opens, and wait for a server that does not answer yet."""
    deadline = time.monotonic() + WAIT_SECONDS
    told = False
    while True:
        try:
            return attempt()
        except UnansweredError as error:
            if time.monotonic() > deadline:
                raise RefusedError(
                    f"there was no answer from {target.host}:{target.port} for {WAIT_SECONDS} s: {error}. "
                    "Nothing was changed. Start the server, or correct host and port."
                ) from None
        if not told:
            say(f"Waiting for the server at {target.host}:{target.port}.")
            told = True
        time.sleep(PAUSE_SECONDS)


def wrong_password(target: Target) -> RefusedError:
    """Return the error for a user whom the server rejects."""
    return RefusedError(
        f"the server at {target.host}:{target.port} does not let the user {target.user} in with this "
        "password. Nothing was changed. Set the password that the server has, or give the server this one."
    )


def no_database(target: Target, statements: str) -> RefusedError:
    """Return the error for a database that does not exist, with the statements that create it."""
    return RefusedError(
        f"the server at {target.host}:{target.port} has no database {target.database} that the user "
        f"{target.user} may use. Nothing was changed. Make it: {statements}"
    )


def wrong_certificate(target: Target, text: str) -> RefusedError:
    """Return the error for a server that the authority does not verify."""
    return RefusedError(
        f"the certificate of the server at {target.host}:{target.port} is not accepted: {text}. "
        "Nothing was changed. Give the authority that signed it, and the host name that is in it."
    )


def another_step(target: Target) -> RefusedError:
    """Return the error for a database whose lock another step keeps."""
    return RefusedError(
        f"another schema step has been at work on {target} for {LOCK_SECONDS} s. Nothing was changed. "
        "Wait until it has ended, then run the same command again."
    )


def counts(session: Any, tables: frozenset[str]) -> dict[str, int]:
    """Count the rows of the tables that a migration must preserve."""
    return {
        table: ask(session, f"select count(*) from {table}")[0][0]  # noqa: S608
        for table in COUNTED
        if table in tables
    }


def nobody_else(target: Target, others: Callable[[], int]) -> None:
    """Refuse to replace a schema that servers are using: what they write meanwhile could be lost.

    :param others: Returns the number of the user's other sessions in the database.
    """
    deadline = time.monotonic() + min(WAIT_SECONDS, 30)
    while number := others():
        if time.monotonic() > deadline:
            raise RefusedError(
                f"{number} sessions of the user {target.user} are open in {target}, and its schema is to be upgraded. "
                "Nothing was changed. Stop the servers for as long as it takes (kubectl scale --replicas=0), then run "
                "the same command again, which starts them again."
            )
        time.sleep(PAUSE_SECONDS)


def require_fit(target: Target, problems: list[str]) -> None:
    """Refuse a database with obstacles to MLflow's migrations."""
    if problems:
        raise RefusedError(f"{target} is not fit for MLflow: {' Also, '.join(problems)} Nothing was changed.")


def newer(target: Target, revision: str, head: str) -> RefusedError:
    """Return the error for a database that only another MLflow understands."""
    return RefusedError(
        f"{target} is at schema revision {revision}, which MLflow {installed_version()} does not know (its newest is "
        f"{head}): a newer MLflow wrote it. Nothing was changed. Use that version's image, or restore a dump of an "
        "older one."
    )


def plan(target: Target, found: State, half_made: str | None, rows: Callable[[], dict[str, int]], ending: str) -> Plan:
    """Return the action for a database without an unfinished step of ours.

    :param half_made: Why the schema is not the result of a migration; None if it is.
    :param rows: Counts the rows that an upgrade must preserve.
    :param ending: Suffix of a dump's file name.
    """
    head, known = known_revisions()
    if not found.tables:
        return Plan("create")
    if found.revision is not None and found.revision not in known:
        raise newer(target, found.revision, head)
    if half_made is not None:
        raise RefusedError(
            f"{target} holds a half-made schema ({half_made}): whatever made it was stopped half-way, and MLflow "
            "cannot go on from there. Nothing was changed. Restore a dump from before, or empty the database if "
            "nothing was ever logged into it, then run the same command again."
        )
    if found.revision == head:
        return Plan("nothing", head)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return Plan("upgrade", found.revision, f"{target.database}-{found.revision}-{moment}{ending}", rows())


def write_plan(target: Target, todo: Plan, work: Path) -> None:
    """Write the action for the next steps, and report it."""
    (work / "file").write_text(todo.dump or "")
    (work / "plan.json").write_text(json.dumps(vars(todo)))
    (work / "action").write_text(todo.action)
    head, _ = known_revisions()
    say(
        {
            "nothing": f"{target} is at revision {head}: nothing to do.",
            "create": f"{target} is empty: the schema of MLflow {installed_version()} is to be made.",
            "upgrade": f"{target} is at revision {todo.revision} and is to be upgraded to {head}.",
            "restore": f"An upgrade of {target} was stopped half-way: {todo.dump} is to be put back first.",
        }[todo.action]
    )


def read_plan(work: Path) -> Plan:
    """Return the action that ``check`` wrote."""
    return Plan(**json.loads((work / "plan.json").read_text()))


def secret_file(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    path.touch(0o600)
    path.write_bytes(content)


def no_longer_empty(target: Target) -> RefusedError:
    """Return the error for a database that got tables since it was found empty."""
    return RefusedError(
        f"{target} was empty and no longer is: something else is at work on it. Nothing was changed. "
        "End that, then run the same command again."
    )


def require_revision(target: Target, found: State, todo: Plan) -> None:
    """Refuse to upgrade a schema that is not the one in the dump."""
    if found.revision != todo.revision:
        raise RefusedError(
            f"{target} is at revision {found.revision} now, and the dump is of {todo.revision}: something else is at "
            "work on it. Nothing was changed. End that, then run the same command again."
        )


def verify(found: State, now: Mapping[str, int], head: str, rows: Mapping[str, int]) -> None:
    """Fail unless the schema has that revision with those rows."""
    if found.revision != head:
        raise RuntimeError(f"the new schema is at revision {found.revision}, not {head}")
    lost = [f"{table} {number}, now {now.get(table)}" for table, number in rows.items() if now.get(table) != number]
    if lost:
        raise RuntimeError(f"the upgraded tables have not the rows of the old ones ({'; '.join(lost)})")


def say_upgraded(target: Target, todo: Plan, head: str, started: float) -> None:
    """Report an upgrade that began at that monotonic time."""
    say(
        f"{target} is upgraded from revision {todo.revision} to {head} in {time.monotonic() - started:.0f} s, "
        f"{', '.join(f'{number} {table}' for table, number in todo.rows.items() if number)}. What was in it before is "
        f"in {todo.dump}; delete that when you no longer want it."
    )


def require_ready(target: Target, found: State) -> None:
    """Refuse to start a server on another revision: it would itself migrate the schema."""
    head, _ = known_revisions()
    if found.marker is not None or found.revision != head:
        there = "a schema that is not finished" if found.marker is not None else f"the schema revision {found.revision}"
        raise RefusedError(
            f"{target} has {there}, and MLflow {installed_version()} needs {head}. Nothing was changed. Run "
            "`pulumi up`, whose schema Job brings it there or says why not."
        )


def summary(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def guarded(step: Callable[[], None]) -> str | None:
    """Run a step; report an error in one line."""
    try:
        step()
    except RefusedError as refusal:
        return f"Refused: {refusal}"
    except Exception as error:
        traceback.print_exc()
        return f"Failed: {summary(error)}. Run the same command again; report this if it stays."
    return None


def main(
    target: Callable[[Mapping[str, str]], Target],
    check: Callable[[Any, Path], None],
    migrate: Callable[[Any, Path], None],
    ready: Callable[[Any, Path], None],
) -> int:
    """Run the step as in the pod; an error becomes the last line of the log and the exit code."""
    work = Path(os.environ.get("WORK", "."))
    refused = work / "refused"
    match sys.argv[1]:
        case "check":
            message = guarded(lambda: check(target(os.environ), work))
            if message is not None:
                refused.write_text(f"{message}\n")
                (work / "action").write_text("refuse")
            return 0
        case "migrate" if refused.exists():
            message = refused.read_text().strip()
        case "migrate":
            message = guarded(lambda: migrate(target(os.environ), work))
        case step:
            assert step == "ready"
            message = guarded(lambda: ready(target(os.environ), Path(os.environ["OPTIONS"])))
    if message is not None:
        say(message)
    return 0 if message is None else 1
