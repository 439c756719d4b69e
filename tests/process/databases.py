"""Real database servers as processes on loopback, from the files that `sandbox/images/databases.py` caches."""

import datetime
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from process.claims import free_port, write
from process.steps import SCRIPTS, finish

from mlflow_stack_cli.progress import Progress
from sandbox.images import databases
from sandbox.images.databases import Database as Files

KINDS: dict[str, Callable[[Progress], Files]] = {
    "mariadb": databases.mariadb,
    "mysql8": databases.mysql8,
    "mysql9": databases.mysql9,
}
USER = 10001  # as in the pod
OLD = "7f2a7d5fae7d"
"""Revision of MLflow 2.5.0's schema."""
PASSWORD = "p@ss/w:ö r#d%&?"
KILLED = Path(__file__).with_name("killed_sql.py")
# The layers and the data folder, mounted in one place in a separate mount namespace.
ENTER = """
root=$1 over=$2 data=$3 user=$4; shift 4
[ -z "$over" ] || mount --bind "$over/opt" "$root/opt"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$data" "$root/mnt"
mount --bind "$SCRIPTS" "$root/srv"
exec chroot "--userspec=$user:$user" "$root" "$@"
"""
OPTIONS = (
    *("--datadir=/mnt/data", "--tmpdir=/tmp", "--socket=/mnt/socket", "--pid-file=/tmp/pid"),
    *("--log-bin=binlog", "--server-id=1", "--skip-name-resolve", "--character-set-server=utf8mb4"),
    # Data must only be durable if a test kills its server.
    *("--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0", "--innodb-buffer-pool-size=64M"),
)


def inside(files: Files, data: Path, *command: str, user: int | str = USER) -> list[str]:
    """Return a command that runs among a server's files."""
    root, over = [*files.layers, ""][:2]
    return ["unshare", "--mount", "sh", "-euc", ENTER, "sh", str(root), str(over), str(data), str(user), *command]


def run(files: Files, data: Path, *command: str, given: str | None = None, user: int | str = USER) -> str:
    done = subprocess.run(
        inside(files, data, *command, user=user),
        env=os.environ | {"SCRIPTS": str(SCRIPTS)},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Server:
    """Running server, on which a test owns the databases that it creates."""

    kind: str
    files: Files
    folder: Path
    port: int
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                inside(
                    self.files,
                    self.folder,
                    *(*self.files.server, *OPTIONS, f"--port={self.port}", "--bind-address=127.0.0.1", *self.options),
                ),
                env=os.environ | {"SCRIPTS": str(SCRIPTS)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                self.ask("select 1")
                return
            except pymysql.err.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()[-3000:]) from None
            time.sleep(0.2)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, *statements: str, database: str | None = None) -> Sequence[Sequence[Any]]:
        """Return the result of the last statement, run by the server's own administrator."""
        socket = str(self.folder / "socket")
        with (
            pymysql.connect(unix_socket=socket, user="root", database=database, autocommit=True) as session,
            session.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()

    def dump(self, database: str) -> str:
        """Return everything in a database, as text that is equal for equal content."""
        client = KINDS["mariadb"](Progress())
        options = ("--no-defaults", "--socket=/mnt/socket", "--user=root", "--skip-dump-date", "--hex-blob")
        return run(client, self.folder, "mariadb-dump", *options, "--no-tablespaces", "--triggers", database)


@dataclass(frozen=True)
class Database:
    """One database on a server, with the pods' view of it."""

    server: Server
    name: str
    folder: Path
    """Holds the mounts of pods: password, work, dumps, options."""
    user: str = "mlflow"
    ca: Path | None = None

    @property
    def env(self) -> dict[str, str]:
        paths = {"PASSWORD_FILE": "password", "WORK": "work", "OPTIONS": "options/client.cnf"}
        target = {"HOST": "127.0.0.1", "PORT": str(self.server.port), "DATABASE": self.name, "USERNAME": self.user}
        return {
            **target,
            **{key: str(self.folder / path) for key, path in paths.items()},
            **({"CA_FILE": str(self.ca)} if self.ca else {}),
            "WAIT_SECONDS": "3",
        }

    @property
    def uri(self) -> str:
        """Return the environment of a pod's MLflow."""
        options = (
            f"read_default_file={self.folder}/options/client.cnf&connect_timeout=5&read_timeout=30&write_timeout=30"
        )
        return f"mysql+pymysql://127.0.0.1:{self.server.port}/{self.name}?{options}"

    def ask(self, *statements: str) -> Sequence[Sequence[Any]]:
        return self.server.ask(*statements, database=self.name)

    def dump(self) -> str:
        return self.server.dump(self.name)

    def start(self, step: str, python: str = sys.executable, moment: str | None = None) -> subprocess.Popen[str]:
        """Run a step as in the Job."""
        program = [str(SCRIPTS / "mysql_schema.py")] if moment is None else [str(KILLED), "mysql_schema", moment]
        return subprocess.Popen(
            [python, "-W", "ignore", *program, step], env=os.environ | self.env, stderr=subprocess.PIPE, text=True
        )

    def step(self, step: str, python: str = sys.executable) -> str:
        """Run a step that must succeed; return its log."""
        if step == "check":  # each Job has an empty folder for its steps
            for path in (self.folder / "work").iterdir():
                path.unlink()
        code, log = finish(self.start(step, python))
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
        files = KINDS["mariadb"](Progress())
        env = {"DATABASE": self.name, "WORK": "/mnt/work", "DUMPS": "/mnt/dumps"}
        done = subprocess.run(
            inside(files, self.folder, "bash", "/srv/mysql_dump.sh", user=0),
            env=os.environ | {"SCRIPTS": str(SCRIPTS)} | env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    def job(self, python: str = sys.executable) -> str:
        """Run all three steps, which must succeed; return their log."""
        return self.step("check", python) + self.dump_step() + self.step("migrate", python)

    def restore(self, content: str) -> None:
        """Fill the database from a dump of the same server."""
        options = ("--no-defaults", "--socket=/mnt/socket", "--user=root", "--default-character-set=utf8mb4")
        run(KINDS["mariadb"](Progress()), self.server.folder, "mariadb", *options, self.name, given=content)

    def session(self) -> Any:
        """Open a session of the user's, like a server's."""
        password: Any = PASSWORD.encode()
        return pymysql.connect(
            host="127.0.0.1", port=self.server.port, user=self.user, password=password, database=self.name
        )

    def trusting(self, authority: Path) -> "Database":
        """Return the same database for pods that verify its server."""
        return replace(self, ca=authority)

    @property
    def dumps(self) -> list[Path]:
        return sorted((self.folder / "dumps").iterdir())


def database(
    server: Server, name: str, folder: Path, *, password: str = PASSWORD, user: str = "mlflow", grants: str = "ALL"
) -> Database:
    """Create a database with its own user, who has these privileges on it."""
    for path in ("work", "dumps", "options"):
        (folder / path).mkdir(parents=True)
    (folder / "password").write_text(password, encoding="utf-8")
    server.ask(
        f"create database `{name}` character set utf8mb4",
        f"create user if not exists '{user}'@'%' identified by '{password}'",
        f"grant {grants} on `{name}`.* to '{user}'@'%'",
        "set global log_bin_trust_function_creators = 1",
    )
    return Database(server, name, folder, user)


def authority(folder: Path, *addresses: str) -> None:
    """Create a certificate authority, ``ca.pem``, and a server's certificate for these addresses."""
    folder.mkdir(exist_ok=True)
    names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses] or [
        x509.DNSName("nowhere.example")
    ]
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey) -> bytes:
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]),
            key.public_key(),
            x509.random_serial_number(),
            now - datetime.timedelta(days=1),
            now + datetime.timedelta(days=30),
        )
        if key is issuer:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(issuer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    own, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (folder / "ca.pem").write_bytes(certificate("test authority", own, own))
    (folder / "server.pem").write_bytes(certificate("server", server, own))
    (folder / "server.key").write_bytes(
        server.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )


def _started(kind: str) -> Server:
    files = KINDS[kind](Progress())
    # A socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
    folder.chmod(0o777)
    options: Sequence[str] = ()
    if kind == "mariadb":
        run(files, folder, "sh", "/srv/mariadb_data.sh", "/mnt/data")
        authority(folder / "other")
        authority(folder, "127.0.0.1")
        options = ("--ssl-ca=/mnt/ca.pem", "--ssl-cert=/mnt/server.pem", "--ssl-key=/mnt/server.key")
    else:
        run(files, folder, *files.server, "--initialize-insecure", "--datadir=/mnt/data")
    server = Server(kind, files, folder, free_port(), options)
    server.start()
    return server


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Server]]:
    """One server of each kind, with a binary log, as is MySQL's default."""
    with ThreadPoolExecutor(len(KINDS)) as pool:
        started = dict(zip(KINDS, pool.map(_started, KINDS), strict=True))
    yield started
    for server in started.values():
        server.kill()
        shutil.rmtree(server.folder)


@dataclass(frozen=True)
class Old:
    """Content of a database written by MLflow 2.5.0, and that database as a dump."""

    wrote: dict[str, Any]
    dump: str


@pytest.fixture(scope="session")
def old(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Server], Old]:
    """One dump for each kind of server: MySQL rejects the names that MariaDB gives to constraints."""
    root = tmp_path_factory.mktemp("old-mysql")

    @cache
    def made(kind: str) -> Old:
        one = database(servers[kind], "old", root / kind / "pod", user="old", password="plain")
        uri = f"mysql+pymysql://old:plain@127.0.0.1:{one.server.port}/old"
        return Old(write(root / kind, "2.5.0", "mysql", uri).wrote, one.dump())

    return lambda server: made(server.kind)
