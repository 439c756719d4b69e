"""Steps of the schema Job on a real PostgreSQL server: refusals, results, and recovery after a kill."""

import itertools
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from process.databases import OLD, PASSWORD
from process.postgresql import Database, Old, Server, database
from process.steps import HEAD, assert_written, finish

_numbers = itertools.count()


@pytest.fixture
def empty(postgres: Server, tmp_path: Path) -> Database:
    return database(postgres, f"team-{next(_numbers)}", tmp_path / "pod")


@pytest.fixture
def aged(old_postgres: Old, tmp_path: Path) -> Database:
    """Database with what MLflow 2.5.0 wrote."""
    return old_postgres.copied(f"team-{next(_numbers)}", tmp_path / "pod")


@dataclass(frozen=True)
class Fault:
    """Fault of a server or a database, with its error message and its remedy."""

    cause: Callable[[Database], None]
    said: str
    cure: Callable[[Database], None]


def sql(*statements: str) -> Callable[[Database], None]:
    def run(on: Database) -> None:
        on.ask(*(statement.format(name=on.name, user=on.user) for statement in statements))

    return run


def unfit(cause: str, problem: str, cure: str) -> Fault:
    return Fault(sql(cause), f"{{target}} is not fit for MLflow: {problem} Nothing was changed.", sql(cure))


def password(text: str) -> Callable[[Database], None]:
    def write(on: Database) -> None:
        (on.folder / "password").write_text(text, encoding="utf-8")

    return write


FAULTS = {
    "no CREATE": unfit(
        'alter database "{name}" owner to postgres',
        'the user may not create tables in the schema public: GRANT USAGE, CREATE ON SCHEMA "public" TO "{user}";',
        'grant usage, create on schema "public" to "{user}"',
    ),
    "no schema": unfit(
        'alter role "{user}" set search_path = nowhere',
        'the user may not create tables in the schema public: GRANT USAGE, CREATE ON SCHEMA "public" TO "{user}";',
        'alter role "{user}" reset search_path',
    ),
    "connections of the database": unfit(
        'alter database "{name}" connection limit 15',
        "the database permits 15 connections, and a tracking server needs 16: "
        'ALTER DATABASE "{name}" CONNECTION LIMIT -1;',
        'alter database "{name}" connection limit -1',
    ),
    "connections of the user": unfit(
        'alter role "{user}" connection limit 2',
        'the user is permitted 2 connections, and a tracking server needs 16: ALTER ROLE "{user}" CONNECTION LIMIT -1;',
        'alter role "{user}" connection limit -1',
    ),
    "tables of another user": unfit(
        "create table runs (run_uuid text)",
        "the user does not own 1 tables of the schema, runs among them, and cannot change them: "
        'GRANT "postgres" TO "{user}";',
        "drop table runs",
    ),
    "wrong password": Fault(
        password("another"),
        "the server at {address} does not let the user {user} in with this password. Nothing was changed. Set the "
        "password that the server has, or give the server this one.",
        password(PASSWORD),
    ),
    "no right to connect": Fault(
        sql('revoke connect on database "{name}" from public, "{user}"', 'alter database "{name}" owner to postgres'),
        "the server at {address} has no database {name} that the user {user} may use. Nothing was changed. Make it: "
        'CREATE DATABASE "{name}" OWNER "{user}" ENCODING \'UTF8\' TEMPLATE template0;',
        sql('grant connect on database "{name}" to public', 'alter database "{name}" owner to "{user}"'),
    ),
    "newer": Fault(
        sql(
            'set role "{user}"',
            "create table alembic_version (version_num varchar(32) not null primary key)",
            "insert into alembic_version values ('ffffffffffff')",
            "create table experiments (experiment_id integer)",
        ),
        f"{{target}} is at schema revision ffffffffffff, which MLflow 3.17.2 does not know (its newest is {HEAD}): a "
        "newer MLflow wrote it. Nothing was changed. Use that version's image, or restore a dump of an older one.",
        sql("drop table alembic_version, experiments"),
    ),
    "half-made": Fault(
        sql('set role "{user}"', "create table experiments (experiment_id integer)"),
        "{target} holds a half-made schema (there are tables and no single revision beside them): whatever made it was "
        "stopped half-way, and MLflow cannot go on from there. Nothing was changed. Restore a dump from before, or "
        "empty the database if nothing was ever logged into it, then run the same command again.",
        sql("drop table experiments"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_names_faults_and_changes_nothing(empty: Database, fault: str) -> None:
    wrong = FAULTS[fault]
    wrong.cause(empty)
    before = empty.dump()
    target = f"{empty.name} on {empty.address}"
    said = wrong.said.format(name=empty.name, user=empty.user, target=target, address=empty.address)
    assert empty.refusal() == f"Refused: {said}"
    assert empty.dump() == before
    wrong.cure(empty)
    assert "is empty: the schema of MLflow 3.17.2 is to be made." in empty.step("check")


def test_names_all_faults_at_once(postgres: Server, tmp_path: Path) -> None:
    options = "encoding 'LATIN1' locale 'C' template template0 connection limit 3"
    poor = database(postgres, "several", tmp_path / "pod", options)
    poor.ask(f'alter role "{poor.user}" connection limit 2')
    assert poor.refusal() == (
        f"Refused: several on {poor.address} is not fit for MLflow: the database's encoding is LATIN1, in which names "
        "outside of it cannot be stored: create another one with ENCODING 'UTF8' TEMPLATE template0. Also, the "
        'database permits 3 connections, and a tracking server needs 16: ALTER DATABASE "several" CONNECTION LIMIT '
        '-1; Also, the user is permitted 2 connections, and a tracking server needs 16: ALTER ROLE "several-user" '
        "CONNECTION LIMIT -1; Nothing was changed."
    )


def test_names_a_server_that_does_not_answer(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(empty.server, "port", 9)
    assert empty.refusal().startswith("Refused: there was no answer from 127.0.0.1:9 for 3 s: ")


def test_creates_the_schema_once_for_several_jobs(empty: Database) -> None:
    empty.step("check")
    jobs = [empty.start("migrate") for _ in range(2)]
    logs = [finish(job) for job in jobs]
    assert [code for code, _ in logs] == [0, 0], logs
    assert sorted("nothing to do" in log for _, log in logs) == [False, True], logs
    assert all(PASSWORD not in log for _, log in logs)
    assert empty.revision == HEAD
    empty.step("ready")
    assert (empty.folder / "options/pgpass").stat().st_mode & 0o777 == 0o600
    client = MlflowClient(empty.uri)
    experiment = client.create_experiment("Ä 漢 🙂")
    assert client.get_experiment(experiment).name == "Ä 漢 🙂"
    before = empty.dump()
    # This test's client still holds its sessions, which only block an upgrade.
    assert empty.job().endswith(f"is at revision {HEAD}: nothing to do.\n")
    assert empty.dump() == before
    assert empty.dumps == []


def test_a_killed_creation_leaves_the_database_empty(empty: Database) -> None:
    before = empty.dump()
    empty.step("check")
    process = empty.start("migrate", moment="before the check")
    assert finish(process)[0] == -signal.SIGKILL
    assert empty.dump() == before
    assert empty.refusal("ready") == (
        f"Refused: {empty.name} on {empty.address} has the schema revision None, and MLflow 3.17.2 needs {HEAD}. "
        "Nothing was changed. Run `pulumi up`, whose schema Job brings it there or says why not."
    )
    assert "is empty: the schema of MLflow 3.17.2 is to be made." in empty.step("check")


def test_upgrades_an_old_database_and_keeps_a_dump(aged: Database, old_postgres: Old) -> None:
    before = aged.dump("--data-only")
    log = aged.job()
    assert f"is upgraded from revision {OLD} to {HEAD} in " in log
    (kept,) = aged.dumps
    assert kept.name in log.splitlines()[-1]
    assert aged.revision == HEAD
    aged.step("ready")
    assert_written(MlflowClient(aged.uri), old_postgres.wrote, converted=False)
    aged.restore(kept)
    assert aged.dump("--data-only") == before
    assert aged.revision == OLD


@pytest.mark.parametrize("moment", ["tenth migration", "before the check"])
def test_a_killed_upgrade_changes_nothing(aged: Database, moment: str) -> None:
    before = aged.dump()
    aged.step("check")
    code, log = finish(aged.start("migrate", moment=moment))
    assert code == -signal.SIGKILL, log
    assert aged.dump() == before
    assert f"has the schema revision {OLD}, and MLflow 3.17.2 needs {HEAD}" in aged.refusal("ready")
    assert f"is at revision {OLD} and is to be upgraded to {HEAD}." in aged.step("check")


def test_a_failed_upgrade_changes_nothing(aged: Database) -> None:
    # Table that a much later migration creates.
    aged.ask(f'set role "{aged.user}"', "create table secrets (secret_id varchar(36))")
    before = aged.dump()
    aged.step("check")
    aged.dump_step()
    said = aged.refusal("migrate")
    start = (
        f"Refused: {aged.name} on {aged.address} at revision {OLD} could not be upgraded to {HEAD} (ProgrammingError"
    )
    assert said.startswith(start), said
    assert 'relation "secrets" already exists' in said
    assert said.endswith(
        "Nothing was changed. Run the same command again once the cause is gone, or with the image from before to go "
        "on with that."
    )
    assert aged.dump() == before


def test_an_upgrade_requires_that_servers_are_stopped(aged: Database) -> None:
    before = aged.dump()
    session = aged.session()
    try:
        assert aged.refusal() == (
            f"Refused: 1 sessions of the user {aged.user} are open in {aged.name} on {aged.address}, and its schema is "
            "to be upgraded. Nothing was changed. Stop the servers for as long as it takes (kubectl scale "
            "--replicas=0), then run the same command again, which starts them again."
        )
    finally:
        session.close()
    assert aged.dump() == before
    assert "is to be upgraded" in aged.step("check")


def test_names_a_dump_that_fails(aged: Database) -> None:
    aged.step("check")
    (aged.folder / "work/connection").write_text("host=127.0.0.1 port=9")
    log = aged.dump_step()
    assert "port 9 failed" in log
    assert aged.dumps[0].name.endswith(".partial")
    assert aged.refusal("migrate") == (
        f"Refused: {aged.name} could not be dumped to the claim with the dumps: the log of the container 'dump' says "
        "why. Nothing was changed. Give the claim room, the user the right to read, or dumps.image a pg_dump of the "
        "server's version or a later one; then run the same command again."
    )
    assert aged.revision == OLD


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require", "verify-ca", "verify-full"])
def test_protects_the_connection(empty: Database, sslmode: str) -> None:
    folder = empty.server.folder
    own = folder / "ca.pem" if sslmode.startswith("verify") else None
    assert "is empty" in empty.secured(sslmode, own).step("check")
    if own:
        other = empty.secured(sslmode, folder / "other/ca.pem")
        said = other.refusal()
        assert said.startswith(f"Refused: the certificate of the server at {empty.address} is not accepted: "), said
        assert "SSL error: " in said


def test_verifies_the_name_of_the_server(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = empty.server.folder / "ca.pem"
    named = {"HOST": "localhost"}
    full = empty.secured("verify-full", authority)
    monkeypatch.setattr(Database, "env", property(lambda self, env=Database.env.fget: env(self) | named))
    assert "is empty" in empty.secured("verify-ca", authority).step("check")
    assert 'does not match host name "localhost"' in full.refusal()


def test_waits_for_a_step_that_keeps_the_lock(empty: Database) -> None:
    session = empty.session()
    with session.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('mlflow-stack public', 0))")
    process = empty.start("check")
    assert process.stderr is not None
    assert process.stderr.readline() == "Another schema step is at work on this database; waiting for it.\n"
    time.sleep(0.2)
    assert process.poll() is None
    session.close()
    code, log = finish(process)
    assert (code, "is empty" in log) == (0, True), log
