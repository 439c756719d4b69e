"""Steps of the schema Job on real servers: refusals, results, and recovery after a kill."""

import gzip
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.db import utils as databases
from process import oldmlflow
from process.databases import KINDS, OLD, PASSWORD, Database, Old, Server, database
from process.steps import HEAD, assert_written, finish

_numbers = itertools.count()

KILLED = pytest.mark.parametrize("server", ["mariadb", "mysql9"], indirect=True)
"""Kinds whose steps are killed at named moments; `tests/soak/test_mysql_kills.py` kills all three at any moment."""


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


@pytest.fixture
def empty(server: Server, tmp_path: Path) -> Database:
    return database(server, f"team-{next(_numbers)}", tmp_path / "pod")


def structure(of: Database) -> str:
    """Return only the schema; the order of re-created keys does not count."""
    return "\n".join(line for line in of.dump().splitlines() if not line.startswith("INSERT"))


@dataclass(frozen=True)
class Fault:
    """Fault of a server or a database, with its error message and its remedy."""

    cause: Callable[[Database], None]
    said: str
    cure: Callable[[Database], None]


def sql(*statements: str) -> Callable[[Database], None]:
    def run(on: Database) -> None:
        on.server.ask(*(statement.format(name=on.name, user=on.user) for statement in statements), database=on.name)

    return run


def wrong_password(on: Database) -> None:
    (on.folder / "password").write_text("another")


def right_password(on: Database) -> None:
    (on.folder / "password").write_text(PASSWORD)


def lack(privilege: str) -> Fault:
    return Fault(
        # A user has one set of privileges for each database.
        sql(f"revoke {privilege} on `{{name}}`.* from '{{user}}'@'%'"),
        f"{{target}} is not fit for MLflow: the user lacks {privilege}: GRANT {privilege} ON `{{name}}`.* TO "
        "'mlflow'@'%'; Nothing was changed.",
        sql(f"grant {privilege} on `{{name}}`.* to '{{user}}'@'%'"),
    )


FAULTS = {
    "binary log": Fault(
        sql("set global log_bin_trust_function_creators = 0"),
        "{target} is not fit for MLflow: the server keeps a binary log and does not trust makers of triggers, which "
        "the schema has: SET GLOBAL log_bin_trust_function_creators = 1; (and the same in the server's configuration) "
        "Nothing was changed.",
        sql("set global log_bin_trust_function_creators = 1"),
    ),
    "latin1": Fault(
        sql("alter database `{name}` character set latin1"),
        "{target} is not fit for MLflow: the database's character set is latin1, in which names outside of it cannot "
        "be stored: ALTER DATABASE `{name}` CHARACTER SET utf8mb4; Nothing was changed.",
        sql("alter database `{name}` character set utf8mb4"),
    ),
    "no CREATE": lack("CREATE"),
    "no TRIGGER": lack("TRIGGER"),
    "wrong password": Fault(
        wrong_password,
        "the server at {address} does not let the user mlflow in with this password. Nothing was changed. Set the "
        "password that the server has, or give the server this one.",
        right_password,
    ),
    "newer": Fault(
        sql(
            "create table alembic_version (version_num varchar(32) not null primary key)",
            "insert into alembic_version values ('ffffffffffff')",
            "create table experiments (experiment_id integer)",
        ),
        "{target} is at schema revision ffffffffffff, which MLflow 3.17.2 does not know (its newest is "
        f"{HEAD}): a newer MLflow wrote it. Nothing was changed. Use that version's image, or restore a dump of an "
        "older one.",
        sql("drop table alembic_version, experiments"),
    ),
    "half-made": Fault(
        sql("create table experiments (experiment_id integer)", "create table runs (run_uuid varchar(32))"),
        "{target} holds a half-made schema (there are tables and no single revision beside them): whatever made it was "
        "stopped half-way, and MLflow cannot go on from there. Nothing was changed. Restore a dump from before, or "
        "empty the database if nothing was ever logged into it, then run the same command again.",
        sql("drop table experiments, runs"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refuses_an_unfit_database(empty: Database, fault: str) -> None:
    wrong = FAULTS[fault]
    wrong.cause(empty)
    before = empty.dump()
    address = f"127.0.0.1:{empty.server.port}"
    said = wrong.said.format(name=empty.name, target=f"{empty.name} on {address}", address=address)
    try:
        assert empty.refusal() == f"Refused: {said}"
        assert empty.dump() == before
    finally:
        wrong.cure(empty)
    # The next action of `migrate` is shown below, on a database without faults.
    assert "is empty: the schema of MLflow 3.17.2 is to be made." in empty.step("check")


def test_refuses_a_schema_that_mlflow_did_not_finish_creating(empty: Database) -> None:
    """State of a database after MLflow's own server, if triggers are not trusted: it never starts again."""
    own = f"mysql+pymysql://root@localhost/{empty.name}?unix_socket={empty.server.folder}/socket"
    program = "import sys; from mlflow.store.db import utils; e = utils.create_sqlalchemy_engine(sys.argv[1]);"
    stop = "import alembic.command as c; up = c.upgrade; c.upgrade = lambda config, _: up(config, 'bf29a5ff90ea');"
    subprocess.run([sys.executable, "-c", f"{program} {stop} utils._initialize_tables(e)", own], check=True)
    empty.ask("create table secrets (secret_id varchar(36))")
    before = empty.dump()
    assert empty.refusal().startswith(
        f"Refused: {empty.name} on 127.0.0.1:{empty.server.port} holds a half-made schema (it is at revision "
        "bf29a5ff90ea, but has secrets of the next one): whatever made it was stopped half-way"
    )
    assert empty.dump() == before
    empty.ask("drop table secrets")
    assert f"is to be upgraded to {HEAD}." in empty.step("check")


def test_all_that_is_not_fit_is_named_at_once(servers: dict[str, Server], tmp_path: Path) -> None:
    one = database(
        servers["mariadb"], "several", tmp_path / "pod", user="poor", grants="SELECT, INSERT, UPDATE, DELETE"
    )
    one.ask("alter database several character set latin1", "set global log_bin_trust_function_creators = 0")
    said = one.refusal()
    one.ask("set global log_bin_trust_function_creators = 1")
    parts = ("character set is latin1", "lacks ALTER, CREATE, DROP, INDEX, REFERENCES, TRIGGER:", "trust makers of")
    assert [part for part in parts if part not in said] == []


def test_a_server_that_is_not_there_is_named(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(empty.server, "port", 9)
    assert empty.refusal().startswith("Refused: there was no answer from 127.0.0.1:9 for 3 s: ")


def test_it_makes_a_schema_once_and_mlflow_comes_in_by_the_option_file(empty: Database) -> None:
    log = empty.job()
    assert log.endswith(f"{empty.name} on 127.0.0.1:{empty.server.port} is ready, at revision {HEAD}.\n")
    assert PASSWORD not in log
    assert empty.ask("select version_num from alembic_version") == ((HEAD,),)
    empty.step("ready")
    client = MlflowClient(empty.uri)
    experiment = client.create_experiment("Ä 漢 🙂")
    assert client.get_experiment(experiment).name == "Ä 漢 🙂"
    before = empty.dump()
    # This test's client still holds its sessions, which only block an upgrade.
    assert empty.job().endswith(f"is at revision {HEAD}: nothing to do.\n")
    assert empty.dump() == before
    assert empty.dumps == []


def test_two_at_once_make_it_once(servers: dict[str, Server], tmp_path: Path) -> None:
    one = database(servers["mariadb"], "twice", tmp_path / "pod")
    one.step("check")
    both = [one.start("migrate") for _ in range(2)]
    logs = [finish(process) for process in both]
    assert [code for code, _ in logs] == [0, 0], logs
    assert sorted("nothing to do" in log for _, log in logs) == [False, True], logs


@KILLED
@pytest.mark.parametrize("tables", [5, 40])
def test_a_creation_that_is_killed_is_undone_and_repeated(empty: Database, tables: int) -> None:
    empty.step("check")
    process = empty.start("migrate")
    count = f"select count(*) from information_schema.tables where table_schema = '{empty.name}'"
    while empty.ask(count)[0][0] < tables:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert empty.refusal("ready").startswith(f"Refused: {empty.name} on 127.0.0.1:{empty.server.port} has a schema")
    log = empty.job()
    assert "was interrupted; it starts again." in log
    assert empty.ask("select version_num from alembic_version") == ((HEAD,),)
    assert not [line for line in empty.dump().splitlines() if "mlflow_stack_step" in line]


def test_a_creation_that_was_killed_is_not_undone_over_data(servers: dict[str, Server], tmp_path: Path) -> None:
    one = database(servers["mariadb"], "used", tmp_path / "pod")
    one.job()
    one.ask(
        """create table mlflow_stack_step (step int) comment = '{"step": "creation"}'""",
        "update alembic_version set version_num = 'bf29a5ff90ea'",
        "insert into registered_models (name) values ('kept')",
    )
    before = one.dump()
    assert "was stopped half-way, and data was written into it since. Nothing was changed." in one.refusal()
    assert one.dump() == before


@pytest.fixture
def aged(server: Server, old: Callable[[Server], Old], tmp_path: Path) -> Database:
    """Database as MLflow 2.5.0 left it."""
    one = database(server, f"team-{next(_numbers)}", tmp_path / "pod")
    one.restore(old(one.server).dump)
    assert one.ask("select version_num from alembic_version") == ((OLD,),)
    return one


def assert_upgraded(of: Database, old: Callable[[Server], Old]) -> None:
    assert of.ask("select version_num from alembic_version") == ((HEAD,),)
    of.step("ready")
    assert_written(MlflowClient(of.uri), old(of.server).wrote, converted=False)


def test_it_upgrades_what_an_old_release_wrote_and_keeps_a_dump(aged: Database, old: Callable[[Server], Old]) -> None:
    before = aged.dump()
    log = aged.job()
    assert f"is upgraded from revision {OLD} to {HEAD} in " in log
    (kept,) = aged.dumps
    assert kept.name in log.splitlines()[-1]
    assert_upgraded(aged, old)
    # Rollback as documented.
    aged.ask(f"drop database `{aged.name}`", f"create database `{aged.name}` character set utf8mb4")
    aged.restore(gzip.decompress(kept.read_bytes()).decode())
    assert aged.dump() == before


@KILLED
@pytest.mark.parametrize("moment", ["tenth migration", "before the check"])
def test_an_upgrade_that_is_killed_is_undone_and_repeated(
    aged: Database, old: Callable[[Server], Old], moment: str
) -> None:
    aged.step("check")
    aged.dump_step()
    code, log = finish(aged.start("migrate", moment=moment))
    assert code == -signal.SIGKILL, log
    assert "has a schema that is not finished" in aged.refusal("ready")
    log = aged.job()
    assert f"Put {aged.dumps[0].name} back into {aged.name}." in log
    assert len(aged.dumps) == 1
    assert_upgraded(aged, old)


def test_an_upgrade_that_fails_says_what_to_do_and_the_old_release_can_go_on(
    servers: dict[str, Server], old: Callable[[Server], Old], tmp_path: Path
) -> None:
    one = database(servers["mariadb"], "clash", tmp_path / "pod")
    one.restore(old(one.server).dump)
    # Table that a much later migration creates.
    one.ask("create table secrets (secret_id varchar(36))")
    before = one.dump()
    one.step("check")
    one.dump_step()
    said = one.refusal("migrate")
    (kept,) = one.dumps
    assert (
        f"clash on 127.0.0.1:{one.server.port} at revision {OLD} could not be upgraded to {HEAD} (Operational" in said
    )
    assert "Table 'secrets' already exists" in said
    assert f"All that was in it is in {kept.name} on the claim with the dumps. The next run puts that back" in said
    python = str(oldmlflow.environment("2.5.0") / "bin/python")
    log = one.job(python)
    assert f"is back at revision {OLD}, with what {kept.name} has." in log
    assert one.dump() == before
    one.ask("drop table secrets")
    assert f"is upgraded from revision {OLD} to {HEAD}" in one.job()


def test_an_upgrade_waits_for_servers_to_be_stopped(
    servers: dict[str, Server], old: Callable[[Server], Old], tmp_path: Path
) -> None:
    one = database(servers["mariadb"], "busy", tmp_path / "pod")
    one.restore(old(one.server).dump)
    before = one.dump()
    with one.session():
        assert one.refusal() == (
            f"Refused: 1 sessions of the user mlflow are open in busy on 127.0.0.1:{one.server.port}, and its schema "
            "is to be upgraded. Nothing was changed. Stop the servers for as long as it takes (kubectl scale "
            "--replicas=0), then run the same command again, which starts them again."
        )
    assert one.dump() == before
    assert "is to be upgraded" in one.step("check")


def test_what_was_written_after_a_stopped_upgrade_is_not_lost(
    servers: dict[str, Server], old: Callable[[Server], Old], tmp_path: Path
) -> None:
    one = database(servers["mariadb"], "grown", tmp_path / "pod")
    one.restore(old(one.server).dump)
    one.step("check")
    one.dump_step()
    assert finish(one.start("migrate", moment="tenth migration"))[0] == -signal.SIGKILL
    one.ask("insert into registered_models (name) values ('new')")
    before = one.dump()
    assert "rows were added since (in registered_models)" in one.refusal()
    assert one.dump() == before
    one.ask("delete from registered_models where name = 'new'")
    one.job()
    assert_upgraded(one, old)


def test_no_schema_that_a_release_can_have_is_taken_for_a_half_made_one(
    servers: dict[str, Server], tmp_path: Path
) -> None:
    one = database(servers["mariadb"], "walk", tmp_path / "pod")
    walk = Path(__file__).with_name("walk.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", walk],
        env=os.environ | one.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "67 revisions"


def test_a_server_is_verified_by_its_authority_and_name(
    servers: dict[str, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = database(servers["mariadb"], "secure", tmp_path / "pod")
    trusting = one.trusting(servers["mariadb"].folder / "ca.pem")
    trusting.job()
    trusting.step("ready")
    assert MlflowClient(trusting.uri).search_experiments()[0].name == "Default"
    refused = one.trusting(servers["mariadb"].folder / "other/ca.pem")
    assert f"the certificate of the server at 127.0.0.1:{one.server.port} is not accepted" in refused.refusal("ready")
    (one.folder / "options/client.cnf").write_text(
        (one.folder / "options/client.cnf").read_text().replace("ca.pem", "other/ca.pem")
    )
    # MLflow would otherwise repeat the connection for 100 s.
    monkeypatch.setattr(databases, "MAX_RETRY_COUNT", 1)
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        MlflowClient(trusting.uri.replace("connect_timeout=5", "connect_timeout=6")).search_experiments()
