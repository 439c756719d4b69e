"""Changes that an engine would make, as far as registrations show; tests/e2e compares with the engine."""

from dataclasses import replace

import pytest

from mlflow_stack_cli.previews.compare import Field, Resource, compare, differences

PREFIX = "urn:pulumi:dev::mlflow-stack::mlflow-stack:index:MlflowStack$"


def one(kind: str, name: str = "mlflow", **options: object) -> Resource:
    package = "random:index" if kind.startswith("Random") else "kubernetes:core/v1"
    return Resource(urn=f"{PREFIX}{package}:{kind}::{name}", type=f"{package}:{kind}", name=name, **options)


def op(old: Resource, new: Resource) -> str:
    (change,) = compare([old], [new]).changes
    return change.op


def at(path: str, value: object) -> dict:
    tree: object = value
    for part in reversed(path.split(".")):
        tree = {part: tree}
    return tree


@pytest.mark.parametrize(
    ("kind", "path", "wanted"),
    [
        ("ConfigMap", "data", "replace"),
        ("ConfigMap", "metadata.labels", "update"),
        ("Namespace", "metadata.name", "replace"),
        ("Service", "metadata.namespace", "replace"),
        ("Service", "spec.ports", "update"),
        ("PersistentVolumeClaim", "spec.resources", "update"),
        ("PersistentVolumeClaim", "spec.storageClassName", "replace"),
        ("PersistentVolumeClaim", "spec.accessModes", "replace"),
        ("StatefulSet", "spec.template", "update"),
        ("StatefulSet", "spec.serviceName", "replace"),
        ("Deployment", "spec.selector", "replace"),
        ("Deployment", "spec.replicas", "update"),
        ("Job", "spec.template", "replace"),
        ("Job", "spec.backoffLimit", "update"),
        ("RandomPassword", "keepers", "replace"),
    ],
)
def test_a_field_decides_whether_the_object_is_another_one(kind: str, path: str, wanted: str) -> None:
    assert op(one(kind, inputs=at(path, {"a": "1"})), one(kind, inputs=at(path, {"a": "2"}))) == wanted


@pytest.mark.parametrize(("mutable", "wanted"), [("true", "update"), (None, "replace")])
def test_a_secret_changes_in_place_where_its_provider_says_so(mutable: str | None, wanted: str) -> None:
    provider = Resource("urn::p", "pulumi:providers:kubernetes", "p", inputs={"enableSecretMutable": mutable})
    old, new = (one("Secret", provider="urn::p", inputs={"stringData": {"a": value}}) for value in "12")
    (change,) = compare([provider, old], [provider, new]).changes
    assert change.op == wanted


def test_what_replace_on_changes_names_replaces() -> None:
    old, new = (one("Service", replace_on_changes=["spec.ports"], inputs=at("spec.ports", [value])) for value in (1, 2))
    assert op(old, new) == "replace"


def test_a_resource_is_replaced_with_those_that_it_names() -> None:
    cause = [one("RandomId", inputs=at("keepers.a", value)) for value in "12"]
    with_it = one("Service", replace_with=[cause[0].urn])
    changes = compare([with_it, cause[0]], [with_it, cause[1]]).changes
    assert [(change.op, change.resource.kind) for change in changes] == [
        ("replace", "RandomId"),
        ("replace", "Service"),
    ]
    assert compare([with_it, cause[0]], [with_it, cause[0]]).changes == []
    # A resource that is only created replaces nothing.
    assert [change.op for change in compare([with_it], [with_it, cause[1]]).changes] == ["create"]


def test_the_same_is_no_change_whatever_name_was_chosen_for_it() -> None:
    old, new = (one("ConfigMap", autonamed=True, inputs=at("metadata.name", f"mlflow-{part}")) for part in "ab")
    assert compare([old], [new]).changes == []


def test_a_resource_without_counterpart_is_created_or_deleted() -> None:
    changes = compare([one("Service", "a")], [one("Service", "b")]).changes
    assert [(change.op, change.resource.name) for change in changes] == [("create", "b"), ("delete", "a")]


def test_an_alias_finds_the_resource_under_its_former_name() -> None:
    old = one("Service", "a", inputs=at("spec.ports", 1))
    new = one("Service", "b", aliases=[old.urn], inputs=at("spec.ports", 1))
    assert compare([old], [new]).changes == []


def test_items_with_names_are_found_by_them_and_others_by_position() -> None:
    old = one("Pod", inputs={"c": [{"name": "a", "x": 1}, {"name": "b", "x": 1}], "l": [1, 2]})
    new = one("Pod", inputs={"c": [{"name": "z", "x": 1}, {"name": "b", "x": 2}], "l": [1, 3, 4]})
    assert differences(old, new) == [
        Field("c[a]", {"name": "a", "x": 1}, None),
        Field("c[b].x", 1, 2),
        Field("c[z]", None, {"name": "z", "x": 1}),
        Field("l[1]", 2, 3),
        Field("l[2]", None, 4),
    ]


@pytest.mark.parametrize("nothing", [{}, {"args": []}])
def test_an_empty_list_is_none(nothing: dict) -> None:
    old, new = one("Pod", inputs=nothing), one("Pod", inputs={"args": ["a"]})
    assert differences(old, new) == [Field("args[0]", None, "a")]
    assert differences(old, one("Pod", inputs={})) == []
    assert differences(one("Pod", inputs={"a": False}), one("Pod", inputs={})) == [Field("a", False, None)]


def test_a_secret_that_differs_is_one_field_without_values() -> None:
    old, new = (
        one("Secret", secret=["stringData"], inputs={"stringData": {"a": f"s-{value}", "b": value}}) for value in "12"
    )
    assert differences(old, new) == [Field("data", None, None, secret=True)]
    assert differences(old, replace(old, secret=[])) == []


def test_an_object_that_stays_keeps_its_name_in_all_that_name_it() -> None:
    """A generated name differs between captures under different URNs; references to it are not changes."""
    old = one("ConfigMap", autonamed=True, inputs={"metadata": {"name": "mlflow-a"}, "data": {"x": "1"}})
    user = one("StatefulSet", inputs=at("spec.volumes", ["mlflow-a"]))
    kept = one(
        "ConfigMap", "other", autonamed=True, aliases=[old.urn], inputs={**old.inputs, "metadata": {"name": "b"}}
    )
    assert compare([old, user], [kept, one("StatefulSet", inputs=at("spec.volumes", ["b"]))]).changes == []
    changed = replace(kept, inputs={"metadata": {"name": "c"}, "data": {"x": "2"}})
    changes = compare([old, user], [changed, one("StatefulSet", inputs=at("spec.volumes", ["c"]))]).changes
    assert [(change.op, change.resource.kind) for change in changes] == [
        ("replace", "ConfigMap"),
        ("update", "StatefulSet"),
    ]
