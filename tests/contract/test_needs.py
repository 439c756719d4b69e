"""Needs of a stack, against the fields of its args: each field that refers to an existing object is checked."""

import itertools
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from mlflow_stack import InvalidArgs, MlflowStackArgs, Spec, resolve, validate
from mlflow_stack.cluster import Need
from mlflow_stack.servers import encryption_keys as keys
from mlflow_stack.validate import hints, plain_type

NAMES = re.compile(r"existing_|_existing_|^secret$|storage_class|class_name|gateway|^issuer$|_ref$")
"""Fields that refer to an existing object, by convention."""
OBJECT = ("must be an object name", "must be <namespace>/<name>")
"""Rules of fields that refer to an object."""
NO_OBJECTS = {("expose", "load_balancer", "class_name")}
"""Fields that are named like the others, but name no object: only its controller knows a load balancer's class."""

Path = tuple[str, ...]


def fields(kind: type = MlflowStackArgs, at: Path = ()) -> Iterator[Path]:
    """Yield the paths of all plain fields but deprecated ones; `[]` is an item of a list."""
    for name, hint in hints(kind).items():
        if name in validate.deprecated().get(kind, ()):
            continue
        plain, path = plain_type(hint), (*at, name)
        if typing.get_origin(plain) is not None and not isinstance(plain, type):
            items = [option for option in typing.get_args(plain) if typing.is_typeddict(option)]
            plain, path = (items[0], (*path, "[]")) if items else (plain, path)
        if typing.is_typeddict(plain):
            yield from fields(cast(type, plain), path)
        else:
            yield path


def args_with(path: Path, value: str) -> Iterator[dict[str, Any]]:
    """Yield args with one field, for each choice of the exclusive fields required beside it."""
    levels: list[list[dict[str, Any]]] = []
    kind: Any = MlflowStackArgs
    for name in path:
        if name == "[]":
            kind = typing.get_args(kind)[0]
            continue
        required = vars(kind)["__required_keys__"] - {name}
        choices = {one: typing.get_args(hint) for one, hint in hints(kind).items() if one in required}
        choices = {one: options or ("x",) for one, options in choices.items()}
        levels.append([dict(zip(choices, chosen, strict=True)) for chosen in itertools.product(*choices.values())])
        kind = plain_type(hints(kind)[name])
    for beside in itertools.product(*levels):
        args: Any = value
        around = list(beside)
        for name in reversed(path):
            args = [args] if name == "[]" else {**around.pop(), name: args}
        yield args


def names_an_object(path: Path) -> bool:
    """Return whether a field is named like those that refer to an existing object, or validated as an object's name."""
    if path in NO_OBJECTS:
        return False
    if any(map(NAMES.search, path[-2:])) and path[-1] != "key":
        return True
    for args in args_with(path, "Not_A_Name!"):
        try:
            resolve("mlflow", args)
        except InvalidArgs as error:
            lines = [line for line in str(error).splitlines() if "Not_A_Name!" in line]
            if any(wanted in line for line in lines for wanted in OBJECT):
                return True
    return False


def needed(args: dict[str, Any]) -> Sequence[Need]:
    """Return the needs of args that are not validated: only the field in question is complete."""
    return Spec("mlflow", validate.filled(MlflowStackArgs, args)).needs


def needs_of(path: Path) -> list[Need]:
    key = ".".join(path).replace(".[]", "[0]")
    return [
        need
        for args in args_with(path, "team/one" if path[-1] == "gateway" else "one")
        for need in needed(args)
        if need.key == key and need.name == "one"
    ]


def pods(at: str) -> dict[str, tuple[str | None, ...]]:
    """Return the needs of pod settings."""
    return {
        f"{at}.priority_class_name": ("PriorityClass", None),
        f"{at}.runtime_class_name": ("RuntimeClass", None),
        f"{at}.image_pull_secrets[0].name": ("Secret", "mlflow", ".dockerconfigjson"),
        f"{at}.env[0].value_from.secret_key_ref.name": ("Secret", "mlflow", "x"),
        f"{at}.env[0].value_from.config_map_key_ref.name": ("ConfigMap", "mlflow", "x"),
        f"{at}.env_from[0].secret_ref.name": ("Secret", "mlflow"),
        f"{at}.env_from[0].config_map_ref.name": ("ConfigMap", "mlflow"),
        f"{at}.service_account.name": ("ServiceAccount", "mlflow"),
    }


def test_every_field_that_names_an_existing_object_is_a_need() -> None:
    found = {".".join(path).replace(".[]", "[0]"): needs_of(path) for path in fields() if names_an_object(path)}
    assert [path for path, needed in found.items() if not needed] == []
    assert {path: (one.kind.name, one.namespace, *one.keys) for path, (one, *_) in found.items()} == {
        "existing_namespace": ("Namespace", None),
        "users_existing_secret": ("Secret", "mlflow", "htpasswd"),
        **pods("pod"),
        **pods("tracking.pod"),
        "encryption_keys.existing_secret": ("Secret", "mlflow", *keys.VARIABLES),
        "backend_store.pvc.storage_class": ("StorageClass", None),
        "backend_store.pvc.existing_claim": ("PersistentVolumeClaim", "mlflow"),
        "backend_store.mysql.existing_secret": ("Secret", "mlflow", "password"),
        "backend_store.mysql.deploy.storage_class": ("StorageClass", None),
        **pods("backend_store.mysql.deploy.pod"),
        "backend_store.mysql.dumps.storage_class": ("StorageClass", None),
        "backend_store.postgres.existing_secret": ("Secret", "mlflow", "password"),
        "backend_store.postgres.dumps.storage_class": ("StorageClass", None),
        "artifact_store.pvc.storage_class": ("StorageClass", None),
        "artifact_store.pvc.existing_claim": ("PersistentVolumeClaim", "mlflow"),
        "artifact_store.s3.existing_secret": ("Secret", "mlflow", "credentials"),
        **pods("models[0].pod"),
        "models[0].env[0].value_from.secret_key_ref.name": ("Secret", "mlflow", "x"),
        "models[0].env[0].value_from.config_map_key_ref.name": ("ConfigMap", "mlflow", "x"),
        "models[0].s3_existing_secret": ("Secret", "mlflow", "credentials"),
        "expose.ingress.class_name": ("IngressClass", None),
        "expose.tls.issuer": ("ClusterIssuer", None),
        "expose.tls.secret": ("Secret", "mlflow", "tls.crt", "tls.key"),
        "expose.gateway": ("Gateway", "team"),
    }


@pytest.mark.parametrize(
    ("args", "kind", "key"),
    [
        ({}, "StorageClass", "backend_store.pvc.storage_class"),
        ({"backend_store": {"mysql": {}}}, "StorageClass", "backend_store.mysql.dumps.storage_class"),
        ({"backend_store": {"mysql": {}}}, "StorageClass", "artifact_store.pvc.storage_class"),
        ({"backend_store": {"postgres": {}}}, "StorageClass", "backend_store.postgres.dumps.storage_class"),
        ({"backend_store": {"mysql": {"deploy": {}}}}, "StorageClass", "backend_store.mysql.deploy.storage_class"),
        ({"expose": {"ingress": {}}}, "IngressClass", "expose.ingress.class_name"),
    ],
)
def test_a_class_that_is_not_stated_is_the_need_of_a_default(args: dict[str, Any], kind: str, key: str) -> None:
    found = [need for need in needed(args) if need.key == key]
    assert [(need.kind.name, need.name) for need in found] == [(kind, None)]


def test_what_is_not_used_is_no_need() -> None:
    args = {"backend_store": {"pvc": {"existing_claim": "data"}}, "existing_namespace": "team"}
    assert [need.key for need in needed(args)] == [
        "existing_namespace",
        "backend_store.pvc.existing_claim",
    ]
