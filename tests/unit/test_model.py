"""Invalid input of models, one row each, and the meaning of a pinned reference."""

import pytest
from spelling import accepted

from mlflow_stack import InvalidArgs
from mlflow_stack.servers import model as models

URI = (
    "must be models:/<name>/<version>, models:/<name>@<alias>, models:/<name>/latest, models:/m-<id>, "
    "runs:/<run id>/<path> or s3://<bucket>/<path>, of letters, digits, '.', '_' and '-'"
)
NAME = (
    "must consist of lower-case letters, digits and '-', start with a letter and have at most 22 characters, "
    "because the names derived from it have at most 63"
)
CANARY = (
    "not supported, because a name leads to one model. Give each version a name of its own under models, "
    "and let the client choose."
)
RUN = "0123456789abcdef0123456789abcdef"
NODEPORT = {"expose": {"host": "h", "node_port": 30500}}


def refusals(args: dict) -> list[str]:
    with pytest.raises(InvalidArgs) as refused:
        accepted(args)
    _, *problems = str(refused.value).splitlines()
    return [problem.strip() for problem in problems]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "Iris"}, f'name: {NAME} (got "Iris")'),
        ({"name": "a" * 23}, f'name: {NAME} (got "{"a" * 23}")'),
        ({"name": "a/b"}, f'name: {NAME} (got "a/b")'),
        (
            {"name": "public"},
            'name: must not be the name of another Service of the stack (got "public")',
        ),
        ({}, "name: required"),
        *(
            ({"name": "a", "uri": uri}, f'uri: {URI} (got "{uri}")')
            for uri in (
                "../model",
                "/mnt/model",
                "models:/a/../b",
                "models:/a/1;id",
                "models:/a/$(id)",
                "models:/a/0",
                "models:/a",
                "models:/a/Production",
                "models:/a@b@c",
                "models:/a/1/x",
                "runs:/abc/model",
                f"runs:/{RUN}/../x",
                "s3://B/x",
                "file:///model",
                "http://registry/model",
                "",
            )
        ),
        ({"name": "a", "replicas": 1}, "replicas: must not be set when uri is not set"),
        ({"name": "a", "version": 1}, "version: must not be set when uri is not set"),
        (
            {"name": "a", "uri": "models:/a/2", "version": 1},
            "version: must not be set when uri is neither an alias nor latest",
        ),
        (
            {"name": "a", "uri": "models:/a@b", "version": 0},
            f"version: must be a whole number from 1 to {2**31} (got 0)",
        ),
        (
            {"name": "a", "environment": "conda"},
            'environment: must be one of image, install (got "conda"). '
            "For a conda environment, set image to an image that contains it.",
        ),
        (
            {"name": "a", "environment": "install", "index_url": "https://me:secret@pypi.example/simple"},
            "indexUrl: must be the URL of a package index without user or password, such as https://pypi.org/simple/ "
            '(got "https://***@pypi.example/simple")',
        ),
        (
            {"name": "a", "index_url": "https://pypi.example/simple"},
            "indexUrl: must not be set when environment is not install",
        ),
        ({"name": "a", "canary": 10}, f"canary: {CANARY}"),
        ({"name": "a", "weight": 10}, f"weight: {CANARY}"),
        ({"name": "a", "ur": "x"}, "ur: unknown key. Did you mean uri?"),
        (
            {"name": "a", "uri": "models:/a/1", "replicas": 2, "autoscale": {"max_replicas": 3}},
            "replicas: must not be set when autoscale is set. Set autoscale.minReplicas instead.",
        ),
        (
            {"name": "a", "uri": "models:/a/1", "autoscale": {"min_replicas": 3, "max_replicas": 2}},
            "autoscale.maxReplicas: must be at least minReplicas, which is 3 (got 2)",
        ),
        (
            {"name": "a", "uri": "models:/a/1", "s3_existing_secret": "keys"},
            "s3ExistingSecret: must not be set when uri does not start with s3://",
        ),
        (
            {"name": "a", "size": "big"},
            'size: must be a size above zero and below 8Ei as a Kubernetes quantity, such as 10Gi (got "big")',
        ),
        (
            {"name": "a", "load_timeout": "1 minute"},
            'loadTimeout: must be a duration of at most 168h in whole seconds, minutes or hours, such as 10m (got "1 '
            'minute")',
        ),
        (
            {"name": "a", "max_concurrent_predictions": 0},
            "maxConcurrentPredictions: must be a whole number from 1 to 1000 (got 0)",
        ),
        *(
            (
                {"name": "a", "env": [{"name": name, "value": "x"}]},
                f'env: must not have a variable that the server sets itself (got "{name}")',
            )
            for name in (
                "HOME",
                "LOGNAME",
                "MEMORY_BYTES",
                "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT",
                "MLFLOW_TRACKING_URI",
                "MODEL_URI",
                "PORT",
                "PYTHONPATH",
                "USER",
                "VOLUME",
            )
        ),
        (
            {"name": "a", "env": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]},
            'env: must not have a variable twice (got "A")',
        ),
        (
            {"name": "a", "env": [{"name": "A-B", "value": "x"}]},
            "env[0].name: must be a variable name of letters, digits and '_', not starting with a digit (got \"A-B\")",
        ),
        ({"name": "a", "env": [{"name": "A"}]}, "env[0].value: required, because valueFrom is not set"),
        (
            {"name": "a", "env": [{"name": "A", "value_from": {}}]},
            "env[0].valueFrom.secretKeyRef: required, because configMapKeyRef is not set",
        ),
    ],
)
def test_bad_input_is_refused_by_key_value_and_what_is_wanted(model: dict, message: str) -> None:
    assert refusals({"models": [model]}) == [f"models[0].{message}"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"models": [{"name": "a"}, {"name": "a"}]}, 'models: must not have a name twice (got "a")'),
        (
            {"models": [{"name": "a", "node_port": 30510}]},
            "models[0].nodePort: must not be set when expose.nodePort is not set",
        ),
        (
            {"models": [{"name": "a", "node_port": 30500}], **NODEPORT},
            "models[0].nodePort: must be used once in the stack (got 30500)",
        ),
    ],
)
def test_models_that_do_not_go_together_are_refused(args: dict, message: str) -> None:
    assert refusals(args) == [message]


REFERENCE = {"name": "keys", "key": "key"}


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"name": "a", "uri": "s3://models/a", "s3_existing_secret": "keys"}, "s3ExistingSecret"),
        (
            {"name": "a", "env": [{"name": "A", "value_from": {"secret_key_ref": REFERENCE}}]},
            "env[0].valueFrom.secretKeyRef.name",
        ),
        (
            {"name": "a", "env": [{"name": "A", "value_from": {"config_map_key_ref": REFERENCE}}]},
            "env[0].valueFrom.configMapKeyRef.name",
        ),
    ],
)
def test_existing_objects_need_an_existing_namespace(model: dict, key: str) -> None:
    assert refusals({"models": [model]}) == [
        f"existingNamespace: required, because models[0].{key} must already exist in the namespace"
    ]
    accepted({"models": [model], "existing_namespace": "team"})


@pytest.mark.parametrize(
    ("uri", "moves", "pinned"),
    [
        ("models:/diabetes@champion", True, "models:/diabetes/3"),
        ("models:/a-b_c.d/latest", True, "models:/a-b_c.d/3"),
        ("models:/diabetes/7", False, "models:/diabetes/7"),
        (f"models:/m-{RUN}", False, f"models:/m-{RUN}"),
        (f"runs:/{RUN}/model", False, f"runs:/{RUN}/model"),
        ("s3://bucket/1/models/m-1/artifacts", False, "s3://bucket/1/models/m-1/artifacts"),
    ],
)
def test_a_moving_reference_with_a_version_is_that_version(uri: str, moves: bool, pinned: str) -> None:
    assert models.model_uri(uri) is None
    assert models.moves(uri) is moves
    if moves:
        assert models.pinned(uri, 3) == pinned
        assert models.pinned(uri, None) == uri
    else:
        assert models.pinned(uri, None) == pinned
