"""An Output in every field of the args: it arrives resolved in what is declared, or it is refused by name before
anything is declared. The fields come from the declarations, so that a new one is tried, too."""

import asyncio
import typing
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pulumi
import pytest
from pulumi.runtime import rpc

import engine
from mlflow_stack import InvalidArgs, MlflowStack, MlflowStackArgs
from mlflow_stack.validate import camel, hints, plain_type

ADOPTED = {"existing_namespace": "team"}
MYSQL = {"host": "db.example.com", "password": "a password"}
S3 = {"bucket": "team", "access_key_id": "key", "secret_access_key": "secret"}
INGRESS = {"kind": "ingress", "host": "mlflow.example.com"}
MODEL = {"name": "iris", "uri": "s3://models/iris"}
CA = (engine.PROJECT / "tests" / "components" / "ca.pem").read_text()

CONTEXT: dict[str, dict[str, Any]] = {
    "backendStore.pvc.existingClaim": ADOPTED,
    "backendStore.mysql": {"backend_store": {"mysql": MYSQL}},
    "backendStore.mysql.existingSecret": {**ADOPTED, "backend_store": {"mysql": {"host": "db.example.com"}}},
    "backendStore.mysql.deploy": {"backend_store": {"mysql": {"deploy": {}}}},
    "artifactStore.pvc.existingClaim": ADOPTED,
    "artifactStore.s3": {"artifact_store": {"s3": S3}},
    "artifactStore.s3.existingSecret": {**ADOPTED, "artifact_store": {"s3": {"bucket": "team"}}},
    "expose": {"expose": INGRESS},
    "expose.gateway": {"expose": {"kind": "gateway", "host": "mlflow.example.com"}},
    "expose.tls.secret": {**ADOPTED, "expose": INGRESS},
    "models": {"models": [MODEL]},
    "models[0].indexUrl": {"models": [{"name": "iris", "uri": "models:/iris/1", "environment": "install"}]},
    "models[0].s3ExistingSecret": {**ADOPTED, "models": [MODEL]},
    "internalFrom": {"internal_from": [{}]},
    "egress": {"egress": [{"cidr": "192.0.2.0/24", "port": 443}]},
}
"""What stands beside a field, by the longest beginning of its path."""

VALUES: dict[str, Any] = {
    "namespace": "made",
    "existingNamespace": "team",
    "image": "registry.example/mlflow:v1",
    "proxyImage": "registry.example/nginx:1",
    "passwords.mlflow": "correct horse battery",
    "backendStore.pvc.storageClass": "fast",
    "backendStore.pvc.existingClaim": "old",
    "backendStore.mysql.host": "10.96.0.7",
    "backendStore.mysql.port": 3307,
    "backendStore.mysql.database": "tracking",
    "backendStore.mysql.username": "tracker",
    "backendStore.mysql.password": "p@ss/w:ö r#d%&?",
    "backendStore.mysql.existingSecret": "database",
    "backendStore.mysql.ca": CA,
    "backendStore.mysql.deploy.storageClass": "fast",
    "backendStore.mysql.deploy.image": "registry.example/mariadb:1",
    "backendStore.mysql.dumps.storageClass": "fast",
    "backendStore.mysql.dumps.image": "registry.example/mariadb:1",
    "artifactStore.pvc.storageClass": "fast",
    "artifactStore.pvc.existingClaim": "old",
    "artifactStore.s3.bucket": "vision-artifacts",
    "artifactStore.s3.prefix": "teams/vision",
    "artifactStore.s3.endpointUrl": "http://minio.minio.svc:9000",
    "artifactStore.s3.region": "eu-north-1",
    "artifactStore.s3.accessKeyId": "another-key",
    "artifactStore.s3.secretAccessKey": "another-secret",
    "artifactStore.s3.existingSecret": "bucket-keys",
    "artifactStore.s3.ca": CA,
    "models[0].image": "registry.example/model:1",
    "models[0].indexUrl": "http://index.infra.svc:3141/simple/",
    "models[0].s3ExistingSecret": "model-keys",
    "models[0].s3EndpointUrl": "http://minio.minio.svc:9000",
    "models[0].s3Region": "eu-north-1",
    "expose.host": "made.example.com",
    "expose.tls.issuer": "letsencrypt",
    "expose.tls.secret": "certificate",
    "expose.className": "internal",
    "expose.gateway": "infra/public",
    "expose.controller.namespaceSelector.x": "infra",
    "expose.controller.podSelector.x": "traefik",
    "expose.annotations.x": "some text",
    "internalFrom[0].namespaceSelector.x": "jobs",
    "internalFrom[0].podSelector.x": "worker",
}
"""The fields that take an Output, with a value for each."""
KNOWN_KEYS = {"passwords": "mlflow", "rotation": "mlflow"}


def paths(hint: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every field and item of the args, maps and lists themselves included."""
    hint = plain_type(hint)
    if at:
        yield at
    if isinstance(hint, type) and typing.is_typeddict(hint):
        for name, field in hints(hint).items():
            yield from paths(field, (*at, name))
    elif typing.get_origin(hint) in (list, Sequence):
        yield from paths(typing.get_args(hint)[0], (*at, 0))
    elif typing.get_origin(hint) in (dict, Mapping):
        yield from paths(typing.get_args(hint)[1], (*at, KNOWN_KEYS.get(str(at[-1]), "x")))


def key(path: tuple[str | int, ...]) -> str:
    """The path as messages show it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{camel(part)}"
    return text.removeprefix(".")


EVERY = {key(path): path for path in paths(MlflowStackArgs)}


def args(where: str, value: Any) -> dict[str, Any]:
    """Accepted args with a value at one place."""
    begins = [one for one in CONTEXT if where == one or where.startswith((f"{one}.", f"{one}["))]
    tree: Any = deepcopy(CONTEXT[max(begins, key=len)]) if begins else {}
    made = tree
    for part, following in pairwise(EVERY[where]):
        tree = tree[part] if isinstance(part, int) else tree.setdefault(part, [] if isinstance(following, int) else {})
    last = EVERY[where][-1]
    if isinstance(last, int):
        tree[last:] = [value]
    else:
        tree[last] = value
    return made


def declared(where: str, value: Any, *, known: bool | None = None, preview: bool = False) -> dict[str, Any]:
    """What is declared with a value, as an Output where ``known`` says whether it is known."""

    def program() -> None:
        MlflowStack("mlflow", args(where, value if known is None else later(value, known=known)))

    found = engine.deploy(program, preview=preview).registrations
    return {f"{one.type} {one.name}": [one.inputs, sorted(one.secret_inputs)] for one in found}


def open_places(before: Any, after: Any) -> int:
    """How many values of one are not known in the other; it fails where they differ otherwise."""
    if after == rpc.UNKNOWN != before:
        return 1
    if isinstance(before, dict) and isinstance(after, dict):
        assert set(before) == set(after)
        return sum(open_places(before[name], after[name]) for name in before)
    if isinstance(before, list) and isinstance(after, list):
        assert len(before) == len(after)
        return sum(open_places(*pair) for pair in zip(before, after, strict=True))
    assert before == after
    return 0


def later(value: Any, *, known: bool = True) -> pulumi.Output[Any]:
    """An Output as a resource of the same program has it."""

    def settled(result: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_event_loop().create_future()
        future.set_result(result)
        return future

    return pulumi.Output(settled(set()), settled(value if known else None), settled(known))


def test_every_field_that_takes_an_output_has_a_value_here() -> None:
    assert set(VALUES) <= set(EVERY)
    assert len(EVERY) > 130


@pytest.mark.parametrize("where", VALUES)
def test_output_arrives_as_the_same_value_does_when_it_is_known(where: str) -> None:
    plain = declared(where, VALUES[where])
    assert declared(where, VALUES[where], known=True) == plain
    if where != "backendStore.mysql.port":  # numbers come from a plugin as floats
        return
    assert declared(where, float(VALUES[where]), known=True) == plain


@pytest.mark.parametrize("where", VALUES)
def test_preview_leaves_open_what_follows_from_an_unknown_output(where: str) -> None:
    plain, after = (declared(where, VALUES[where], known=one, preview=True) for one in (None, False))
    assert set(plain) == set(after)
    # What is not known is not marked as secret either.
    assert sum(open_places(plain[one][0], after[one][0]) for one in plain) > 0


@pytest.mark.parametrize("where", sorted(set(EVERY) - set(VALUES)))
def test_output_is_refused_by_name_where_a_plain_value_is_needed(where: str) -> None:
    into: list[engine.Deployment] = []
    with pytest.raises(InvalidArgs) as refused:
        engine.deploy(lambda: MlflowStack("mlflow", args(where, later("x"))) and None, into=into)
    assert (
        f"  {where}: an Output is not accepted; "
        "wanted a value that is known before the deployment, as it decides what is declared"
    ) in str(refused.value).splitlines()
    assert [one.type for one in into[0].registrations if "pulumi:Stack" not in one.type] == []


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (
            "backendStore.mysql.host",
            "mysql://db",
            'backendStore.mysql.host: "mysql://db" is not accepted; wanted a host',
        ),
        ("backendStore.mysql.port", "x", 'backendStore.mysql.port: "x" is not accepted; wanted a whole number'),
        (
            "backendStore.mysql.port",
            70000.0,
            "backendStore.mysql.port: 70000 is not accepted; wanted a whole number from",
        ),
        ("backendStore.mysql.password", "a\nb", "backendStore.mysql.password: the value (not shown) is not accepted"),
        ("expose.host", "192.0.2.7", 'expose.host: "192.0.2.7" is not accepted; wanted a name and no address'),
        ("artifactStore.s3.endpointUrl", "minio", 'artifactStore.s3.endpointUrl: "minio" is not accepted; wanted an'),
        ("namespace", "A b", 'namespace: "A b" is not accepted; wanted lower-case letters'),
    ],
)
def test_output_that_turns_out_wrong_is_refused_by_its_whole_key(where: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidArgs) as refused:
        declared(where, value, known=True)
    assert str(refused.value).startswith(message)
    assert "\nb" not in str(refused.value)


@pytest.mark.parametrize("where", ["backendStore.mysql.password", "expose.annotations.x", "artifactStore.s3.prefix"])
def test_text_made_of_an_output_is_refused(where: str) -> None:
    with pytest.raises(InvalidArgs) as refused:
        engine.deploy(lambda: MlflowStack("mlflow", args(where, f"{later('x')}-y")) and None)
    (line,) = [line.strip() for line in str(refused.value).splitlines() if line.strip().startswith(where)]
    assert line == f"{where}: text that was made of an Output; pass the Output, or use Output.concat"
