"""Step of a schema Job that is killed at a named moment: `killed_sql.py MODULE MOMENT STEP`."""

import importlib
import sys
from pathlib import Path

from death import at_the_tenth_migration, die

module, moment = sys.argv.pop(1), sys.argv.pop(1)
sys.path.insert(0, str(Path(__file__).parents[2] / "components/mlflow_stack/programs"))
schema = importlib.import_module(module)


match moment:
    case "tenth migration":
        at_the_tenth_migration()
    case "before the check":
        schema.verify = die
    case _:
        raise SystemExit(f"no such moment: {moment}")
sys.exit(schema.main())
