"""Real PostgreSQL server on loopback, with databases as pods see them."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy
from process.claims import Claim, free_port
from process.databases import KILLED, OLD, PASSWORD, authority, inside, run
from process.steps import SCRIPTS, finish

from mlflow_stack_cli.progress import Progress
from sandbox.images import databases
from sandbox.images.databases import Database as Files

BIN = "/usr/lib/postgresql/15/bin"
ADMINISTRATOR = "postgres"
OPTIONS = {
    "unix_socket_directories": "/mnt",
    "listen_addresses": "127.0.0.1",
    "dynamic_shared_memory_type": "mmap",
    "ssl": "on",
    "ssl_cert_file": "/mnt/server.pem",
    "ssl_key_file": "/mnt/server.key",
    # Data must only be durable if a test kills its server.
    "fsync": "off",
}


@dataclass
class Server:
    """Running server, on which a test owns the databases that it creates."""

    files: Files
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        command = (*self.files.server, "-D", "/mnt/data", "-p", str(self.port), *options)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                inside(self.files, self.folder, *command, user=ADMINISTRATOR),
                env=os.environ | {"SCRIPTS": str(SCRIPTS)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask("select 1")
                return
            except psycopg2.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()[-3000:]) from None
            time.sleep(0.1)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def ask(self, *statements: str, database: str = ADMINISTRATOR) -> Sequence[Sequence[Any]]:
        """Return the result of the last statement, run by the server's own administrator."""
        with closing(
            psycopg2.connect(host=str(self.folder), port=self.port, user=ADMINISTRATOR, dbname=database)
        ) as session:
            session.autocommit = True
            with session.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def client(self, tool: str, *options: str, given: str | None = None) -> str:
        """Run one of the client tools as the administrator."""
        connection = (f"{BIN}/{tool}", "--host=/mnt", f"--port={self.port}", f"--username={ADMINISTRATOR}")
        return run(self.files, self.folder, *connection, *options, given=given)


@dataclass(frozen=True)
class Database:
    """One database on a server, with the pods' view of it."""

    server: Server
    name: str
    folder: Path
    """Holds the mounts of pods: password, work, dumps, options."""
    user: str
    sslmode: str = "prefer"
    ca: Path | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def env(self) -> dict[str, str]:
        paths = {"PASSWORD_FILE": "password", "WORK": "work", "OPTIONS": "options/pgpass"}
        target = {"HOST": "127.0.0.1", "PORT": str(self.server.port), "DATABASE": self.name, "USERNAME": self.user}
        return {
            **target,
            **{key: str(self.folder / path) for key, path in paths.items()},
            "SSLMODE": self.sslmode,
            **({"CA_FILE": str(self.ca)} if self.ca else {}),
            "WAIT_SECONDS": "3",
        }

    @property
    def uri(self) -> str:
        """Return the environment of a pod's MLflow."""
        trusted = f"&sslrootcert={self.ca}" if self.ca else ""
        options = f"passfile={self.folder}/options/pgpass&sslmode={self.sslmode}{trusted}"
        return f"postgresql+psycopg2://{self.user}@{self.address}/{self.name}?{options}"

    def ask(self, *statements: str) -> Sequence[Sequence[Any]]:
        return self.server.ask(*statements, database=self.name)

    def dump(self, *options: str) -> str:
        """Return everything in the database, as text that is equal for equal content."""
        lines = self.server.client("pg_dump", *options, self.name).splitlines()
        # Random words that guard psql.
        return "\n".join(line for line in lines if not line.startswith(("\\restrict ", "\\unrestrict ")))

    @property
    def revision(self) -> str:
        ((number,),) = self.ask("select version_num from alembic_version")
        return number

    def start(self, step: str, moment: str | None = None) -> subprocess.Popen[str]:
        """Run a step as in the Job."""
        program = [str(SCRIPTS / "postgres_schema.py")]
        if moment is not None:
            program = [str(KILLED), "postgres_schema", moment]
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", *program, step],
            env=os.environ | self.env,
            stderr=subprocess.PIPE,
            text=True,
        )

    def step(self, step: str) -> str:
        """Run a step that must succeed; return its log."""
        if step == "check":  # each Job has an empty folder for its steps
            for path in (self.folder / "work").iterdir():
                path.unlink()
        code, log = finish(self.start(step))
        assert code == 0, log
        return log

    def refusal(self, step: str = "") -> str:
        """Run a step or the whole Job, which must refuse; return the last line of its log."""
        if not step:
            self.step("check")
            self.dump_step()
            step = "migrate"
        code, log = finish(self.start(step))
        assert code == 1, log
        return log.splitlines()[-1]

    def dump_step(self) -> str:
        env = {"DATABASE": self.name, "WORK": "/mnt/work", "DUMPS": "/mnt/dumps"}
        done = subprocess.run(
            inside(self.server.files, self.folder, "bash", "/srv/postgres_dump.sh", user=0),
            env=os.environ | {"SCRIPTS": str(SCRIPTS)} | env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    def job(self) -> str:
        """Run all three steps, which must succeed; return their log."""
        return self.step("check") + self.dump_step() + self.step("migrate")

    def restore(self, dump: Path) -> None:
        """Replace all objects of the user's by those of a dump, with the documented commands."""
        self.ask(f'set role "{self.user}"', "drop owned by current_user")
        options = ("--schema=public", "--no-owner", f"--role={self.user}", "--single-transaction", "--exit-on-error")
        shutil.copy(dump, self.server.folder / "restored")
        self.server.client("pg_restore", *options, f"--dbname={self.name}", "/mnt/restored")

    def session(self) -> Any:
        """Open a session of the user's, like a server's."""
        return psycopg2.connect(
            host="127.0.0.1", port=self.server.port, user=self.user, password=PASSWORD, dbname=self.name
        )

    def secured(self, sslmode: str, authority: Path | None = None) -> "Database":
        """Return the same database for pods with that protection."""
        return replace(self, sslmode=sslmode, ca=authority)

    @property
    def dumps(self) -> list[Path]:
        return sorted((self.folder / "dumps").iterdir())


def database(server: Server, name: str, folder: Path, options: str = "encoding 'UTF8' template template0") -> Database:
    """Create a database with its own user, who owns it."""
    for path in ("work", "dumps", "options"):
        (folder / path).mkdir(parents=True)
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    user = f"{name}-user"
    server.ask(
        f"""create user "{user}" password '{PASSWORD}'""",
        f'create database "{name}" owner "{user}" {options}',
    )
    return Database(server, name, folder, user)


def _started() -> Server:
    files = databases.postgres(Progress())
    # A socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o777)
    authority(folder / "other")
    authority(folder, "127.0.0.1")
    initdb = (f"{BIN}/initdb", "--pgdata=/mnt/data", f"--username={ADMINISTRATOR}", "--auth-local=trust")
    run(files, folder, *initdb, "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", user=ADMINISTRATOR)
    owner = (folder / "data").stat()
    os.chown(folder / "server.key", owner.st_uid, owner.st_gid)
    (folder / "server.key").chmod(0o600)
    server = Server(files, folder, free_port())
    server.start()
    return server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Server of Debian's PostgreSQL."""
    server = _started()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@dataclass(frozen=True)
class Old:
    """Content that MLflow 2.5.0 wrote, and its copy as a database for others to start from."""

    wrote: dict[str, Any]
    copied: Callable[[str, Path], Database]


@pytest.fixture(scope="session")
def old_postgres(
    postgres: Server, claims: dict[tuple[str, str], Claim], tmp_path_factory: pytest.TempPathFactory
) -> Old:
    """Database at the revision of MLflow 2.5.0, made by its migrations, with the rows that 2.5.0 wrote on SQLite: the
    environment of 2.5.0 has no driver for PostgreSQL."""
    made = database(postgres, "old", tmp_path_factory.mktemp("old-postgres") / "pod")
    program = "import sys; from mlflow.store.db import utils; e = utils.create_sqlalchemy_engine(sys.argv[1]);"
    stop = f"import alembic.command as c; up = c.upgrade; c.upgrade = lambda config, _: up(config, '{OLD}');"
    own = f"postgresql+psycopg2://{made.user}@localhost/{made.name}?host={postgres.folder}&port={postgres.port}"
    subprocess.run([sys.executable, "-c", f"{program} {stop} utils._initialize_tables(e)", own], check=True)
    claim = claims["2.5.0", "database"]
    engine = sqlalchemy.create_engine(
        sqlalchemy.URL.create(
            "postgresql+psycopg2",
            username=ADMINISTRATOR,
            database=made.name,
            query={"host": str(postgres.folder), "port": str(postgres.port)},
        )
    )
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine)
    with closing(sqlite3.connect(claim.mount / "mlflow.db")) as source, engine.begin() as target:
        source.row_factory = sqlite3.Row
        for table in reversed(metadata.sorted_tables):
            target.execute(table.delete())
        for table in metadata.sorted_tables:
            booleans = [column.name for column in table.columns if isinstance(column.type, sqlalchemy.Boolean)]
            rows = [dict(row) for row in source.execute(f'select * from "{table.name}"')]
            for row in rows:
                row.update({name: bool(row[name]) for name in booleans if row[name] is not None})
            if rows:
                target.execute(table.insert(), rows)
    engine.dispose()
    assert made.revision == OLD
    # Reassigning objects would reassign the database itself.
    postgres.ask(f'alter database "old" owner to {ADMINISTRATOR}')

    def copied(name: str, folder: Path) -> Database:
        of = database(postgres, name, folder, options='template "old"')
        of.ask(f'reassign owned by "old-user" to "{of.user}"')
        return of

    return Old(claim.wrote, copied)
