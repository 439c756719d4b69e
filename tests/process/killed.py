"""Runs a script of the pod with something going wrong at a named moment: `killed.py SCRIPT MOMENT`. All but one moment
are a SIGKILL."""

import importlib
import logging
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

script, moment = sys.argv[1:]
sys.path.insert(0, str(Path(script).parent))
step = importlib.import_module(Path(script).stem)
schema = importlib.import_module("sqlite_schema")


def die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)


class Migrations(logging.Handler):
    seen = 0

    def emit(self, record):
        self.seen += record.getMessage().startswith("Running upgrade")
        if self.seen == 10:
            die()


def half(_status, remaining, total):
    if remaining < total / 2:
        die()


def after(replace):
    def replaced(self, target):
        replace(self, target)
        if target.name == "mlflow.db":
            die()

    return replaced


def lossy(convert):
    def converted(store, database):
        convert(store, database)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("delete from tags where key = 'team' and run_uuid = (select min(run_uuid) from runs)")

    return converted


match moment:
    case "half of the copy":
        schema.COPIED_PAGES = 8
        schema.copying = half
    case "tenth migration":
        logging.getLogger("alembic.runtime.migration").addHandler(Migrations())
    case "before the check":
        schema.verify = die
    case "backup made":
        schema.publish = die
    case "just replaced":
        Path.replace = after(Path.replace)
    case "a tag lost":
        step.convert = lossy(step.convert)
    case _:
        raise SystemExit(f"no such moment: {moment}")
sys.exit(step.main())
