"""The only reader of Pulumi's configuration: keys of a stack file, one to one, as the component's args."""

import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi
from pulumi.runtime import config as runtime_config

from mlflow_stack import MlflowStackArgs, accept
from mlflow_stack.validate import camel, hints, plain_type


@dataclass(frozen=True)
class Settings:
    """What a stack file says."""

    name: str
    """Key ``name``: the component's name, from which its objects are named. Default: mlflow."""
    args: MlflowStackArgs
    """All other keys, spelled as Python fields."""


def read() -> Settings:
    """The configuration of the stack that runs, judged. Secrets come as text; the component wraps them.

    Raises :class:`InvalidArgs` with every problem, before a provider or anything else is declared.
    """
    config = pulumi.Config()
    keys = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    prefix = f"{config.name}:"
    texts = {
        key.removeprefix(prefix): config.require(key.removeprefix(prefix)) for key in keys if key.startswith(prefix)
    }
    name = texts.pop("name", "mlflow")
    # For previews and `make up`, which let those resources go; no component knows of it.
    texts.pop("release", None)
    values = {key: _parsed(text) for key, text in texts.items()}
    fields = hints(MlflowStackArgs)
    for key, text in texts.items():
        if plain_type(fields.get(_field(key, fields))) is str:
            values[key] = text
    return Settings(name, accept(name, _as_args(MlflowStackArgs, values)))


def _parsed(text: str) -> Any:
    """The value behind a configuration text: the engine hands over everything but text as JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _field(key: str, fields: Mapping[str, Any]) -> str:
    return next((field for field in fields if camel(field) == key), key)


def _as_args(hint: Any, value: Any) -> Any:
    """The value with camelCase keys as field names, wherever the args say that the keys are fields."""
    hint = plain_type(hint)
    if isinstance(hint, type) and typing.is_typeddict(hint) and isinstance(value, Mapping):
        fields = hints(hint)
        pairs = {_field(key, fields): one for key, one in cast("Mapping[str, Any]", value).items()}
        return {field: _as_args(fields.get(field), one) for field, one in pairs.items()}
    if typing.get_origin(hint) in (list, Sequence) and isinstance(value, list):
        return [_as_args(typing.get_args(hint)[0], one) for one in cast("list[Any]", value)]
    return value
