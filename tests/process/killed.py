"""Script of the pod with a failure at a named moment: `killed.py SCRIPT MOMENT`. All moments but one are a SIGKILL."""

import importlib
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from death import at_the_tenth_migration, die

script, moment = sys.argv[1:]
sys.path.insert(0, str(Path(script).parent))
step = importlib.import_module(Path(script).stem)
schema = importlib.import_module("sqlite_schema")


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
        at_the_tenth_migration()
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
