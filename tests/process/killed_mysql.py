"""Runs a step of the schema Job and kills it at a named moment: `killed_mysql.py MOMENT STEP`."""

import importlib
import logging
import os
import signal
import sys
from pathlib import Path

moment = sys.argv.pop(1)
sys.path.insert(0, str(Path(__file__).parents[2] / "components/mlflow_stack/scripts"))
schema = importlib.import_module("mysql_schema")


def die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)


class Migrations(logging.Handler):
    seen = 0

    def emit(self, record):
        self.seen += record.getMessage().startswith("Running upgrade")
        if self.seen == 10:
            die()


match moment:
    case "tenth migration":
        logging.getLogger("alembic.runtime.migration").addHandler(Migrations())
    case "before the check":
        schema.verify = die
    case _:
        raise SystemExit(f"no such moment: {moment}")
sys.exit(schema.main())
