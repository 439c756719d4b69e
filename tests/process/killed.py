"""Runs a script of the pod and ends it with SIGKILL at a named moment: `killed.py SCRIPT MOMENT`."""

import logging
import os
import runpy
import signal
import sys
from pathlib import Path

script, moment = sys.argv[1:]
sys.path.insert(0, str(Path(script).parent))

import sqlite_schema  # noqa: E402


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


class _Migrations(logging.Handler):
    seen = 0

    def emit(self, record):
        self.seen += record.getMessage().startswith("Running upgrade")
        if self.seen == 10:
            die()


def half(_status, remaining, total):
    if remaining < total / 2:
        die()


def afterwards(self, target):
    os.replace(self, target)
    if Path(target).name == "mlflow.db":
        die()


match moment:
    case "half of the copy":
        sqlite_schema.COPIED_PAGES = 8
        sqlite_schema.copying = half
    case "tenth migration":
        logging.getLogger("alembic.runtime.migration").addHandler(_Migrations())
    case "before the check":
        sqlite_schema.verify = die
    case "backup made":
        sqlite_schema.publish = die
    case "just replaced":
        Path.replace = afterwards
    case _:
        raise SystemExit(f"no such moment: {moment}")

# What the script imports or defines under __main__ must see the changes.
module = sys.modules["sqlite_schema"]
if Path(script).name == "sqlite_schema.py":
    sys.exit(module.guarded(lambda: module.run(Path(os.environ["DATABASE"]))))
runpy.run_path(script, run_name="__main__")
