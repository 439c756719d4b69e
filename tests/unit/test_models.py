"""Invalid input of models, one row each, and the meaning of a pinned reference."""

import pytest
from spelling import accepted

from mlflow_stack import InvalidArgs
from mlflow_stack.servers import model as models

URI = (
    "wanted models:/<name>/<version>, models:/<name>@<alias>, models:/<name>/latest, models:/m-<id>, "
    "runs:/<run id>/<path> or s3://<bucket>/<path>, of letters, digits, '.', '_' and '-'"
)
NAME = (
    "wanted lower-case letters, digits and '-', starting with a letter, at most 22 characters, "
    "so that the names made from it fit into 63"
)
CANARY = (
    "is not offered: a name leads to one model. Give each version a name of its own under models, "
    "and let the client choose"
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
        ({"name": "Iris"}, f'name: "Iris" is not accepted; {NAME}'),
        ({"name": "a" * 23}, f'name: "{"a" * 23}" is not accepted; {NAME}'),
        ({"name": "a/b"}, f'name: "a/b" is not accepted; {NAME}'),
        (
            {"name": "public"},
            'name: "public" is not accepted; wanted another name: public is taken by another part of the stack',
        ),
        ({}, "name: missing; it is required"),
        *(
            ({"name": "a", "uri": uri}, f'uri: "{uri}" is not accepted; {URI}')
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
        ({"name": "a", "replicas": 1}, "replicas: 1 is not accepted; wanted it left out, as there is no uri yet"),
        ({"name": "a", "version": 1}, "version: 1 is not accepted; wanted it left out, as there is no uri yet"),
        (
            {"name": "a", "uri": "models:/a/2", "version": 1},
            "version: 1 is not accepted; wanted it left out, as the uri names no alias and not latest",
        ),
        (
            {"name": "a", "uri": "models:/a@b", "version": 0},
            f"version: 0 is not accepted; wanted a whole number from 1 to {2**31}",
        ),
        (
            {"name": "a", "environment": "conda"},
            'environment: "conda" is not accepted; '
            "wanted one of image, install: pip's packages beside the image's, or an image of your own",
        ),
        (
            {"name": "a", "environment": "install", "index_url": "https://me:secret@pypi.example/simple"},
            'indexUrl: "https://***@pypi.example/simple" is not accepted; '
            "wanted the address of a package index without user or password, such as https://pypi.org/simple/",
        ),
        (
            {"name": "a", "index_url": "https://pypi.example/simple"},
            'indexUrl: "https://pypi.example/simple" is not accepted; '
            "wanted it left out, as environment is not install",
        ),
        ({"name": "a", "canary": 10}, f"canary: {CANARY}"),
        ({"name": "a", "weight": 10}, f"weight: {CANARY}"),
        ({"name": "a", "ur": "x"}, "ur: unknown key; did you mean uri?"),
        (
            {"name": "a", "uri": "models:/a/1", "replicas": 2, "autoscale": {"max_replicas": 3}},
            "replicas: given together with autoscale; one is a number, the other chooses it",
        ),
        (
            {"name": "a", "uri": "models:/a/1", "autoscale": {"min_replicas": 3, "max_replicas": 2}},
            "autoscale.maxReplicas: 2 is not accepted; wanted at least minReplicas, 3",
        ),
        (
            {"name": "a", "uri": "models:/a/1", "s3_existing_secret": "keys"},
            's3ExistingSecret: "keys" is not accepted; wanted it left out, as the uri is no s3:// one',
        ),
        (
            {"name": "a", "size": "big"},
            'size: "big" is not accepted; '
            "wanted a size above zero and below 8Ei as a Kubernetes quantity, such as 10Gi",
        ),
        (
            {"name": "a", "load_timeout": "1 minute"},
            'loadTimeout: "1 minute" is not accepted; '
            "wanted a duration of at most 168h in whole seconds, minutes or hours, such as 10m",
        ),
        (
            {"name": "a", "max_concurrent_predictions": 0},
            "maxConcurrentPredictions: 0 is not accepted; wanted a whole number from 1 to 1000",
        ),
        *(
            (
                {"name": "a", "env": [{"name": name, "value": "x"}]},
                f'env: "{name}" is not accepted; wanted another name: the server sets this variable itself',
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
            'env: "A" is not accepted; wanted each variable once',
        ),
        (
            {"name": "a", "env": [{"name": "A-B", "value": "x"}]},
            'env[0].name: "A-B" is not accepted; '
            "wanted a variable's name of letters, digits and '_', not starting with a digit",
        ),
        ({"name": "a", "env": [{"name": "A"}]}, "env[0].value: missing; it or valueFrom"),
        (
            {"name": "a", "env": [{"name": "A", "value_from": {}}]},
            "env[0].valueFrom.secretKeyRef: missing; it or configMapKeyRef",
        ),
    ],
)
def test_bad_input_is_refused_by_key_value_and_what_is_wanted(model: dict, message: str) -> None:
    assert refusals({"models": [model]}) == [f"models[0].{message}"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"models": [{"name": "a"}, {"name": "a"}]}, 'models: "a" is not accepted; wanted each model name once'),
        (
            {"models": [{"name": "a", "node_port": 30510}]},
            'models: "nodePort 30510" is not accepted; wanted it left out without expose.nodePort',
        ),
        (
            {"models": [{"name": "a", "node_port": 30500}], **NODEPORT},
            'models: "nodePort 30500" is not accepted; wanted each port of the nodes once',
        ),
    ],
)
def test_models_that_do_not_go_together_are_refused(args: dict, message: str) -> None:
    assert refusals(args) == [message]


REFERENCE = {"name": "keys", "key": "key"}


@pytest.mark.parametrize(
    "model",
    [
        {"name": "a", "uri": "s3://models/a", "s3_existing_secret": "keys"},
        {"name": "a", "env": [{"name": "A", "value_from": {"secret_key_ref": REFERENCE}}]},
        {"name": "a", "env": [{"name": "A", "value_from": {"config_map_key_ref": REFERENCE}}]},
    ],
)
def test_existing_objects_need_an_existing_namespace(model: dict) -> None:
    kind = "ConfigMap" if "config_map_key_ref" in str(model) else "Secret"
    assert refusals({"models": [model]}) == [
        f"existingNamespace: missing; a value, as a {kind} cannot exist in a namespace that is only made now"
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
