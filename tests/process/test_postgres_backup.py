"""Documented commands that dump and restore a database, on a real PostgreSQL server and with a stand-in for kubectl."""

import re
from pathlib import Path
from typing import Any

from e2e.platform_under_test import blocks
from process.databases import OLD, PASSWORD
from process.person import Person, person
from process.postgresql import Database, Old
from process.steps import SCRIPTS

import engine

PREPARE, DUMP, RESTORE = blocks(engine.PROJECT / "docs" / "how-to" / "back-up-postgresql.md")


def operator(of: Database, home: Path, **store: Any) -> Person:
    place = {"port": of.server.port, "database": of.name, "username": of.user, **store}
    return person("postgres", of.folder, home, of.server.files, place)


def test_documented_commands_dump_and_restore(old_postgres: Old, tmp_path: Path) -> None:
    kept = old_postgres.copied("backup-me", tmp_path / "pod")
    kept.ask(
        f'set role "{kept.user}"',
        "update experiments set name = 'Ä 漢 🙂' where experiment_id = 0",
        r"insert into experiment_tags values ('odd', E'\\ \t \n ''\"', 0)",
        "create function kept() returns int language sql as 'select 1'",
    )
    before = kept.dump("--data-only")
    ca = kept.server.folder / "ca.pem"
    (kept.folder / "ca.pem").write_bytes(ca.read_bytes())
    someone = operator(kept, tmp_path, ca=ca.read_text())
    someone.follow(PREPARE, DUMP)
    file = tmp_path / "mlflow.dump"
    assert file.stat().st_mode & 0o777 == 0o600

    kept.ask(
        "drop table runs cascade",
        "delete from experiment_tags",
        f'set role "{kept.user}"',
        "create table newer (i int)",
    )
    changed = kept.dump()
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "could not read" in someone.follow(PREPARE, RESTORE, fails=True)
    assert kept.dump() == changed
    file.write_bytes(whole)
    someone.follow(PREPARE, RESTORE)
    assert kept.dump("--data-only") == before
    assert kept.revision == OLD
    assert kept.ask("select kept(), to_regclass('newer')") == [(1, None)]
    done = [" ".join(words) for words in someone.calls]
    assert [call for call in done if PASSWORD in call] == []
    assert [call.split("--replicas=")[1] for call in done if call.startswith("scale ")][-2:] == [
        "0 deployment.apps/mlflow",
        "3 deployment.apps/mlflow",
    ]
    (kept.folder / "ca.pem").write_bytes((kept.server.folder / "other" / "ca.pem").read_bytes())
    assert "SSL error" in someone.follow(PREPARE, DUMP, fails=True)


def test_documented_dump_has_the_options_of_the_schema_job() -> None:
    text = (SCRIPTS / "postgres_dump.sh").read_text()
    assert {"--no-owner", "--no-privileges", "--encoding=UTF8", "--format=custom"} == set(
        re.findall(r"--(?:no-\w+|encoding=\w+|format=\w+)", text)
    ) & set(re.findall(r"--(?:no-\w+|encoding=\w+|format=\w+)", DUMP))
