"""Documented commands that dump and restore a database, on real servers. A stand-in for kubectl runs the commands of a
pod among the files of the client tools; tests/e2e/test_mysql.py runs them on a node."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import process.person
import pytest
from e2e.platform_under_test import blocks
from process.databases import KINDS, OLD, PASSWORD, Database, Old, Server, database
from process.person import Person
from process.steps import SCRIPTS

import engine
from mlflow_stack_cli.progress import Progress

PREPARE, DUMP, RESTORE = blocks(engine.PROJECT / "docs" / "how-to" / "back-up-mysql.md")


def person(of: Database, home: Path, **store: Any) -> Person:
    """User with a stack on this database."""
    place = {"port": of.server.port, "database": of.name, "username": of.user, **store}
    return process.person.person("mysql", of.folder, home, KINDS["mariadb"](Progress()), place)


def fill(of: Database) -> None:
    """Write data that a dump can get wrong, as MLflow's own user."""
    every = bytes(range(256)).hex()
    statements = (
        "create table kept (id integer primary key, text mediumtext, bytes blob)",
        "create trigger counted before insert on kept for each row set new.id = new.id + 1",
        # 10 MB that become 13 MB in a dump, with every byte value.
        f"insert into kept values (1, repeat('\\'\\\\🙂\\n\\t', 1200000), unhex('{every}'))",
        "insert into kept values (3, null, ''), (5, 'it''s \"quoted\"', null)",
        "update experiments set name = 'Ä 漢 🙂' where experiment_id = 0",
    )
    with of.session() as session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        session.commit()


@pytest.mark.parametrize("kind", KINDS)
def test_documented_commands_dump_and_restore(
    kind: str, servers: dict[str, Server], old: Callable[[Server], Old], tmp_path: Path
) -> None:
    one = database(servers[kind], "backup-me", tmp_path / "pod")
    one.restore(old(one.server).dump)
    fill(one)
    before, kept = one.dump(), one.ask("select * from kept order by id")
    assert [(row[0], len((row[1] or "").encode()), len(row[2] or b"")) for row in kept] == [
        (2, 9_600_000, 256),
        (4, 0, 0),
        (6, 13, 0),
    ]
    someone = person(one, tmp_path)
    said = someone.follow(PREPARE, DUMP)
    assert said.splitlines()[-1].startswith("-- Dump completed on ")
    file = tmp_path / "mlflow.sql.gz"
    assert file.stat().st_mode & 0o777 == 0o600
    pod = json.loads((someone.cluster / "pod.json").read_text())
    # Labels that the database's NetworkPolicy admits, and none that a Job would adopt.
    assert {key: pod["metadata"]["labels"][f"app.kubernetes.io/{key}"] for key in ("instance", "component")} == {
        "instance": "mlflow",
        "component": "schema",
    }
    assert [key for key in pod["metadata"]["labels"] if "job" in key] == []

    one.ask(
        "set foreign_key_checks = 0",
        "drop table runs, kept",
        "delete from experiments",
        "update alembic_version set version_num = 'ffffffffffff'",
        "create table newer (one integer)",
    )
    assert one.dump() != before
    someone.follow(PREPARE, RESTORE)
    assert one.dump() == before
    assert one.ask("select * from kept order by id") == kept
    assert one.ask("select version_num from alembic_version") == ((OLD,),)
    assert one.ask("select name from experiments where experiment_id = 0") == (("Ä 漢 🙂",),)
    done = [" ".join(words) for words in someone.calls]
    assert [call for call in done if PASSWORD in call] == []
    restored = next(number for number, call in enumerate(done) if call.endswith(" mariadb"))
    scaled = [number for number, call in enumerate(done) if call.startswith("scale ")]
    assert [done[number].split("--replicas=")[1] for number in scaled] == [
        "0 deployment.apps/mlflow",
        "3 deployment.apps/mlflow",
    ]
    assert scaled[0] < restored < scaled[1]


def test_documented_dump_verifies_the_server(servers: dict[str, Server], tmp_path: Path) -> None:
    one = database(servers["mariadb"], "verified", tmp_path / "pod")
    one.ask("create table kept (one integer)")
    certificates = one.server.folder
    someone = person(one, tmp_path, ca=(certificates / "ca.pem").read_text())
    (one.folder / "ca.pem").write_bytes((certificates / "ca.pem").read_bytes())
    someone.follow(PREPARE, DUMP)
    assert "CREATE TABLE `kept`" in gzip.decompress((tmp_path / "mlflow.sql.gz").read_bytes()).decode()
    (one.folder / "ca.pem").write_bytes((certificates / "other" / "ca.pem").read_bytes())
    assert "certificate" in someone.follow(PREPARE, DUMP, fails=True)


def test_documented_restore_does_not_change_the_database_without_a_complete_dump(
    servers: dict[str, Server], tmp_path: Path
) -> None:
    one = database(servers["mariadb"], "spared", tmp_path / "pod")
    one.ask("create table kept (one integer)")
    before = one.dump()
    someone = person(one, tmp_path)
    whole = gzip.compress(b"CREATE TABLE restored (one integer);\n-- Dump completed on 2026-01-02  3:04:05\n")
    for broken in (whole[:25], gzip.compress(b"CREATE TABLE restored (one integer);\n")):
        (tmp_path / "mlflow.sql.gz").write_bytes(broken)
        assert someone.follow(PREPARE, RESTORE) == ""
        assert one.dump() == before
        assert someone.calls[-3][:4] == ["scale", "--namespace", "team", "--replicas=3"]
    (tmp_path / "mlflow.sql.gz").write_bytes(whole)
    assert someone.follow(PREPARE, RESTORE) == "-- Dump completed on 2026-01-02  3:04:05\n"
    assert one.ask("show tables") == (("restored",),)


def test_documented_dump_has_the_options_of_the_schema_job() -> None:
    (options,) = re.findall(r"options=\((.*?)\)", (SCRIPTS / "mysql_dump.sh").read_text(), re.S)
    assert [option for option in options.split() if option not in PREPARE + DUMP] == []
