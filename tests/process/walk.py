"""Walk through the revisions of the schema, in the database of the environment: after each, report whether the step
would classify the schema as incomplete."""

import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "components/mlflow_stack/programs"))
schema = importlib.import_module("mysql_schema")
target = schema.Target.of(os.environ)
session = schema.connect(target)


def walk(utils, engine):
    import alembic.command
    from alembic.script import ScriptDirectory

    one_by_one = alembic.command.upgrade

    def upgrade(config, _head):
        script = ScriptDirectory.from_config(config)
        revisions = [revision.revision for revision in script.walk_revisions()][::-1]
        for revision in revisions:
            one_by_one(config, revision)
            with schema.connect(target) as other:
                found = schema.state(other, target)
                assert found.revision == revision, found
                why = schema.half_made(other, target, found)
                assert why is None, why
        print(len(revisions), "revisions")

    alembic.command.upgrade = upgrade
    utils._initialize_tables(engine)


schema.run_migrations(session, walk)
