"""Outputs in every field of the args: each arrives resolved in what is declared, or is refused by name before anything
is declared. The fields come from the declarations, so that new ones are covered."""

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
from mlflow_stack import InvalidArgs, MlflowStack, MlflowStackArgs, PodArgs
from mlflow_stack.validate import hints, plain_type

ADOPTED = {"existing_namespace": "team"}
MYSQL = {"host": "db.example.com", "password": "a password"}
POSTGRES = MYSQL
S3 = {"bucket": "team", "access_key_id": "key", "secret_access_key": "secret"}
INGRESS = {"ingress": {}, "host": "mlflow.example.com"}
MODEL = {"name": "iris", "uri": "s3://models/iris"}
CA = (engine.PROJECT / "tests" / "components" / "ca.pem").read_text()


def _reference(kind: str) -> dict[str, Any]:
    """Return args with a model whose variable comes from an existing object."""
    source = {kind: {"name": "settings", "key": "key"}}
    return {**ADOPTED, "models": [{"name": "iris", "env": [{"name": "A", "value_from": source}]}]}


def _pod_reference(kind: str) -> dict[str, Any]:
    """Return args with a variable of all pods from an existing object."""
    return {**ADOPTED, "pod": {"env": [{"name": "A", "value_from": {kind: {"name": "settings", "key": "key"}}}]}}


CONTEXT: dict[str, dict[str, Any]] = {
    "backend_store.pvc.existing_claim": ADOPTED,
    "backend_store.mysql": {"backend_store": {"mysql": MYSQL}},
    "backend_store.mysql.existing_secret": {**ADOPTED, "backend_store": {"mysql": {"host": "db.example.com"}}},
    "backend_store.mysql.deploy": {"backend_store": {"mysql": {"deploy": {}}}},
    "backend_store.postgres": {"backend_store": {"postgres": POSTGRES}},
    "backend_store.postgres.existing_secret": {**ADOPTED, "backend_store": {"postgres": {"host": "db.example.com"}}},
    "artifact_store.pvc.existing_claim": ADOPTED,
    "artifact_store.s3": {"artifact_store": {"s3": S3}},
    "artifact_store.s3.existing_secret": {**ADOPTED, "artifact_store": {"s3": {"bucket": "team"}}},
    "encryption_keys.existing_secret": ADOPTED,
    "users_existing_secret": ADOPTED,
    "expose": {"expose": INGRESS},
    "expose.gateway": {"expose": {"host": "mlflow.example.com"}},
    "expose.load_balancer": {"expose": {"host": "mlflow.example.com"}},
    "expose.class_name": {"expose": {"kind": "ingress", "host": "mlflow.example.com"}},
    "expose.tls.secret": {**ADOPTED, "expose": INGRESS},
    "models": {"models": [MODEL]},
    "models[0].index_url": {"models": [{"name": "iris", "uri": "models:/iris/1", "environment": "install"}]},
    "models[0].s3_existing_secret": {**ADOPTED, "models": [MODEL]},
    "models[0].env": {**ADOPTED, "models": [{"name": "iris", "env": [{"name": "A", "value": "a"}]}]},
    "models[0].env[0].value_from": {**ADOPTED, "models": [{"name": "iris", "env": [{"name": "A", "value_from": {}}]}]},
    "models[0].env[0].value_from.secret_key_ref": _reference("secret_key_ref"),
    "models[0].env[0].value_from.config_map_key_ref": _reference("config_map_key_ref"),
    "internal_from": {"internal_from": [{}]},
    "pod.image_pull_secrets": ADOPTED,
    "pod.env": {"pod": {"env": [{"name": "A"}]}},
    "pod.env[0].value_from.secret_key_ref": _pod_reference("secret_key_ref"),
    "pod.env[0].value_from.config_map_key_ref": _pod_reference("config_map_key_ref"),
    "pod.env_from": ADOPTED,
    "pod.service_account.name": ADOPTED,
    "egress": {"egress": [{"cidr": "192.0.2.0/24", "port": 443}]},
}
"""Fields required beside a field, by the longest prefix of its path."""

VALUES: dict[str, Any] = {
    "namespace": "made",
    "existing_namespace": "team",
    "image": "registry.example/mlflow:v1",
    "proxy_image": "registry.example/nginx:1",
    "pod.node_selector.x": "ssd",
    "pod.priority_class_name": "batch",
    "pod.runtime_class_name": "gvisor",
    "pod.image_pull_secrets[0].name": "registry",
    "pod.env[0].value": "north",
    "pod.env[0].value_from.secret_key_ref.name": "provider",
    "pod.env[0].value_from.config_map_key_ref.name": "settings-of-team",
    "pod.env_from[0].secret_ref.name": "provider",
    "pod.env_from[0].config_map_ref.name": "settings-of-team",
    "pod.service_account.name": "team",
    "pod.service_account.annotations.x": "some text",
    "pod.labels.x": "vision",
    "pod.annotations.x": "some text",
    "passwords.mlflow": "correct horse battery",
    "users_existing_secret": "people",
    "backend_store.pvc.storage_class": "fast",
    "backend_store.pvc.existing_claim": "old",
    "backend_store.mysql.host": "10.96.0.7",
    "backend_store.mysql.port": 3307,
    "backend_store.mysql.database": "tracking",
    "backend_store.mysql.username": "tracker",
    "backend_store.mysql.password": "p@ss/w:ö r#d%&?",
    "backend_store.mysql.existing_secret": "database",
    "backend_store.mysql.ca": CA,
    "backend_store.mysql.deploy.storage_class": "fast",
    "backend_store.mysql.deploy.image": "registry.example/mariadb:1",
    "backend_store.mysql.dumps.storage_class": "fast",
    "backend_store.mysql.dumps.image": "registry.example/mariadb:1",
    "backend_store.postgres.host": "10.96.0.7",
    "backend_store.postgres.port": 5433,
    "backend_store.postgres.database": "tracking",
    "backend_store.postgres.username": "tracker",
    "backend_store.postgres.password": "p@ss/w:ö r#d%&?",
    "backend_store.postgres.existing_secret": "database",
    "backend_store.postgres.ca": CA,
    "backend_store.postgres.dumps.storage_class": "fast",
    "backend_store.postgres.dumps.image": "registry.example/postgres:18",
    "encryption_keys.existing_secret": "restored",
    "artifact_store.pvc.storage_class": "fast",
    "artifact_store.pvc.existing_claim": "old",
    "artifact_store.s3.bucket": "vision-artifacts",
    "artifact_store.s3.prefix": "teams/vision",
    "artifact_store.s3.endpoint_url": "http://minio.minio.svc:9000",
    "artifact_store.s3.region": "eu-north-1",
    "artifact_store.s3.access_key_id": "another-key",
    "artifact_store.s3.secret_access_key": "another-secret",
    "artifact_store.s3.existing_secret": "bucket-keys",
    "artifact_store.s3.ca": CA,
    "models[0].image": "registry.example/model:1",
    "models[0].index_url": "http://index.infra.svc:3141/simple/",
    "models[0].s3_existing_secret": "model-keys",
    "models[0].s3_endpoint_url": "http://minio.minio.svc:9000",
    "models[0].s3_region": "eu-north-1",
    "models[0].env[0].value": "north",
    "models[0].env[0].value_from.secret_key_ref.name": "provider",
    "models[0].env[0].value_from.config_map_key_ref.name": "settings-of-team",
    "expose.host": "made.example.com",
    "expose.tls.issuer": "letsencrypt",
    "expose.tls.secret": "certificate",
    "expose.ingress.class_name": "internal",
    "expose.class_name": "internal",
    "expose.gateway": "infra/public",
    "expose.load_balancer.class_name": "service.k8s.aws/nlb",
    "expose.controller.namespace_selector.x": "infra",
    "expose.controller.pod_selector.x": "traefik",
    "expose.annotations.x": "some text",
    "internal_from[0].namespace_selector.x": "jobs",
    "internal_from[0].pod_selector.x": "worker",
}
"""Fields that accept an Output, with a value for each."""
KNOWN_KEYS = {"passwords": "mlflow", "rotation": "mlflow"}


def paths(hint: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield every field and item of the args, including maps and lists themselves."""
    hint = plain_type(hint)
    if at:
        yield at
    if hint is PodArgs and at != ("pod",):
        return  # a server's pod settings have the stack's fields
    if isinstance(hint, type) and typing.is_typeddict(hint):
        for name, field in hints(hint).items():
            yield from paths(field, (*at, name))
    elif typing.get_origin(hint) in (list, Sequence):
        yield from paths(typing.get_args(hint)[0], (*at, 0))
    elif typing.get_origin(hint) in (dict, Mapping):
        yield from paths(typing.get_args(hint)[1], (*at, KNOWN_KEYS.get(str(at[-1]), "x")))


def key(path: tuple[str | int, ...]) -> str:
    """Return the path in the spelling of messages."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


EVERY = {key(path): path for path in paths(MlflowStackArgs)}


def args(where: str, value: Any) -> dict[str, Any]:
    """Return accepted args with a value at one place."""
    begins = [prefix for prefix in CONTEXT if where == prefix or where.startswith((f"{prefix}.", f"{prefix}["))]
    tree: Any = deepcopy(CONTEXT[max(begins, key=len)]) if begins else {}
    made = tree
    for part, following in pairwise(EVERY[where]):
        inner: Any = [] if isinstance(following, int) else {}
        if isinstance(part, int):
            tree[part:] = tree[part:] or [inner]
            tree = tree[part]
        else:
            tree = tree.setdefault(part, inner)
    last = EVERY[where][-1]
    if isinstance(last, int):
        tree[last:] = [value]
    else:
        tree[last] = value
    return made


def declared(where: str, value: Any, *, known: bool | None = None, preview: bool = False) -> dict[str, Any]:
    """Return what is declared with a value, as a known or unknown Output if ``known`` is set."""

    def program() -> None:
        MlflowStack("mlflow", args(where, value if known is None else later(value, known=known)))

    found = engine.deploy(program, preview=preview).registrations
    return {f"{resource.type} {resource.name}": [resource.inputs, sorted(resource.secret_inputs)] for resource in found}


def open_places(before: Any, after: Any) -> int:
    """Count the values of one that are unknown in the other; fail if they differ otherwise."""
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
    """Return an Output as of a resource of the same program."""

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
    if where not in ("backend_store.mysql.port", "backend_store.postgres.port"):  # a plugin passes numbers as floats
        return
    assert declared(where, float(VALUES[where]), known=True) == plain


@pytest.mark.parametrize("where", VALUES)
def test_preview_leaves_open_what_follows_from_an_unknown_output(where: str) -> None:
    plain, after = (declared(where, VALUES[where], known=known, preview=True) for known in (None, False))
    assert set(plain) == set(after)
    # Unknown values are not marked as secret either.
    assert sum(open_places(plain[urn][0], after[urn][0]) for urn in plain) > 0


@pytest.mark.parametrize("where", sorted(set(EVERY) - set(VALUES)))
def test_output_is_refused_by_name_where_a_plain_value_is_needed(where: str) -> None:
    into: list[engine.Deployment] = []
    with pytest.raises(InvalidArgs) as refused:
        engine.deploy(lambda: MlflowStack("mlflow", args(where, later("x"))) and None, into=into)
    assert (
        f"  {where}: must be known before the deployment, because it decides what is declared (got an Output)"
    ) in str(refused.value).splitlines()
    assert [resource.type for resource in into[0].registrations if "pulumi:Stack" not in resource.type] == []


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (
            "backend_store.mysql.host",
            "mysql://db",
            "backend_store.mysql.host: must be a lower-case host name without scheme, port or path, "
            'such as mlflow.example.com (got "mysql://db")',
        ),
        ("backend_store.mysql.port", "x", 'backend_store.mysql.port: must be a whole number (got "x")'),
        (
            "backend_store.mysql.port",
            70000.0,
            "backend_store.mysql.port: must be a whole number from 1 to 65535 (got 70000)",
        ),
        (
            "backend_store.mysql.password",
            "a\nb",
            "backend_store.mysql.password: must be 1 to 256 printable characters (value not shown)",
        ),
        (
            "expose.host",
            "192.0.2.7",
            'expose.host: must be a host name and not an address when ingress is set (got "192.0.2.7")',
        ),
        (
            "artifact_store.s3.endpoint_url",
            "minio",
            "artifact_store.s3.endpoint_url: must be a URL without a path, "
            'such as https://s3.example.com or http://minio.minio.svc:9000 (got "minio")',
        ),
        (
            "namespace",
            "A b",
            "namespace: must consist of lower-case letters, digits and '-', start with a letter "
            'and have at most 63 characters (got "A b")',
        ),
    ],
)
def test_output_that_turns_out_wrong_is_refused_by_its_whole_key(where: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidArgs) as refused:
        declared(where, value, known=True)
    assert str(refused.value) == message
    assert "\nb" not in str(refused.value)


@pytest.mark.parametrize("where", ["backend_store.mysql.password", "expose.annotations.x", "artifact_store.s3.prefix"])
def test_text_made_of_an_output_is_refused(where: str) -> None:
    with pytest.raises(InvalidArgs) as refused:
        engine.deploy(lambda: MlflowStack("mlflow", args(where, f"{later('x')}-y")) and None)
    (line,) = [line.strip() for line in str(refused.value).splitlines() if line.strip().startswith(where)]
    assert line == f"{where}: must not be text made from an Output. Pass the Output itself, or use Output.concat."
