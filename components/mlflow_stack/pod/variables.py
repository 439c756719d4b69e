"""Environment variables of containers."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

import pulumi
from pulumi_kubernetes.core.v1 import (
    EnvVarArgsDict,
)

from mlflow_stack import validate
from mlflow_stack.cluster import CONFIG_MAP, SECRET, Need, Place


class KeyRefArgs(TypedDict):
    """Key of an existing Secret or ConfigMap."""

    name: pulumi.Input[str]
    """Name of the object, in the servers' namespace."""
    key: str
    """Key in the object."""


class EnvSourceArgs(TypedDict):
    """Source of a variable's value. Set exactly one key."""

    secret_key_ref: NotRequired[KeyRefArgs]
    """A key of a Secret. Default: none."""
    config_map_key_ref: NotRequired[KeyRefArgs]
    """A key of a ConfigMap. Default: none."""


class EnvVarArgs(TypedDict):
    """Environment variable of a container."""

    name: str
    """Name of the variable: letters, digits and '_'."""
    value: NotRequired[pulumi.Input[str]]
    """Value, in plain text in the cluster. Default: none, it is given by value_from."""
    value_from: NotRequired[EnvSourceArgs]
    """Source of the value. Default: none, it is given by value."""


@validate.rules(KeyRefArgs)
def _key_ref_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.subdomain)
    fields.check("key", validate.data_key)


@validate.rules(EnvSourceArgs)
def _env_source_rules(fields: validate.Fields) -> None:
    _one_of_two(fields, "secret_key_ref", "config_map_key_ref")


@validate.rules(EnvVarArgs)
def _env_var_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.variable)
    _one_of_two(fields, "value", "value_from")


def _one_of_two(fields: validate.Fields, name: str, other: str) -> None:
    fields.refuse_together(name, other)
    if not fields.stated & {name, other}:
        fields.require(name, f"{fields.spell(other)} is not set")


def env_rules(fields: validate.Fields, own: Sequence[str]) -> None:
    """Check the ``env`` of a server, which must not set the variables of its own container."""
    names = [variable["name"] for variable in fields.get("env", []) if variable and "name" in variable]
    for name in dict.fromkeys(names):
        if name in own:
            fields.refuse_item("env", name, "must not have a variable that the server sets itself")
        if names.count(name) > 1:
            fields.refuse_item("env", name, "must not have a variable twice")


def env_needs(variables: Sequence[Mapping[str, Any]], place: Place) -> list[Need]:
    """Return the existing objects that the ``env`` of a server requires."""
    found: list[Need] = []
    for position, variable in enumerate(variables):
        source: Mapping[str, Any] = (variable or {}).get("value_from", {})
        for reference, kind in (("secret_key_ref", SECRET), ("config_map_key_ref", CONFIG_MAP)):
            named: Mapping[str, Any] = source.get(reference, {})
            where = place.item("env", position).under("value_from", reference)
            keys = [named["key"]] if "key" in named else []
            found += where.need(kind, named, "name", keys=keys)
    return found


def env(variables: Mapping[str, pulumi.Input[str]]) -> list[EnvVarArgsDict]:
    """Return the environment of a container from plain values."""
    return [{"name": name, "value": value} for name, value in variables.items()]


def env_given(variables: Sequence[EnvVarArgs]) -> list[EnvVarArgsDict]:
    """Return a user's variables as Kubernetes spells them."""
    return [cast(EnvVarArgsDict, variable) for variable in variables]
