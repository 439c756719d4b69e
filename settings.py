"""Reader of Pulumi's configuration, and the only one: the keys of a stack file are the component's args, one to one."""

import json
import re
import typing
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, cast

import pulumi
from pulumi.runtime import config as runtime_config

from mlflow_stack import MlflowStackArgs, Spec
from mlflow_stack.pod import LONGEST_NAME
from mlflow_stack.validate import SECRETS, Problem, accepted, camel, extend, filled, hints, plain_type

PROJECT = "mlflow-stack"
READERS = ("kubernetes", "pulumi", "random")
"""Namespaces of the keys that the engine and the providers read."""
SECURE = "secure"
"""Only key of the map that holds an encrypted value in a stack file."""


_SECRET_KEYS = frozenset(map(camel, SECRETS))


class StackKeys(MlflowStackArgs):
    """The keys of a stack file."""

    name: NotRequired[str]
    """Name of the component and prefix of its objects' names. Default: mlflow."""
    release: NotRequired[Sequence[str]]
    """Protected resources that are released from the stack, by name; for previews and ``make up``. Default: []."""


extend(StackKeys, MlflowStackArgs)


@dataclass(frozen=True)
class Settings:
    """Settings of one stack file."""

    name: str
    """Name of the component."""
    release: Sequence[str]
    """Protected resources that are released from the stack, by name. The component does not get them."""
    spec: Spec
    """Specification from all other keys."""

    @property
    def args(self) -> MlflowStackArgs:
        """Args of the component, with defaults filled in."""
        return self.spec.args


def read() -> Settings:
    """Return the validated configuration of the running stack. Secrets are plain text here; the component wraps them.

    Raises :class:`InvalidArgs` with every problem, before the program declares a provider or any other resource.
    """
    keys = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    texts = {key: pulumi.Config(key.partition(":")[0]).require(key.partition(":")[2]) for key in keys}
    secret = {key for key in keys if runtime_config.is_config_secret(key)}
    return judged(texts, secret, pulumi.get_project())


def judged(
    texts: Mapping[str, str], secret: Container[str], project: str = PROJECT, known: Sequence[Problem] = ()
) -> Settings:
    """Return the settings from configuration texts by full key, as the engine passes them to the program.

    ``secret`` are the keys with encrypted values, ``known`` the problems that were found before. Raises
    :class:`InvalidArgs` with every problem.
    """
    fields = _fields()
    values: dict[str, Any] = {}
    found = list(known)
    for key, text in texts.items():
        namespace, _, name = key.partition(":")
        if namespace == project:
            values[name] = text if plain_type(fields.get(name)) is str else _parsed(text)
            if key not in secret:
                found += [not_encrypted(at) for at, _, hide in leaves(values[name], name) if hide]
        elif namespace not in READERS:
            found.append(Problem(key, f"unknown key. Begin it with {project}: or remove it."))
    name = values.pop("name", "mlflow")
    kept = accepted(
        "MlflowStack", name, StackKeys, values, longest=LONGEST_NAME, spell=camel, found=[*dict.fromkeys(found)]
    )
    return Settings(name, kept.pop("release", []), Spec(name, filled(MlflowStackArgs, kept, camel)))


def leaves(value: Any, key: str, hint: Any = None, hide: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Yield the values under a key that are neither a map nor a list: path, value, and whether the value is a
    secret."""
    if hint is None:
        hint, hide = _fields().get(key, Any), key in _SECRET_KEYS
    hint = plain_type(hint)
    if isinstance(value, Mapping) and set(cast("Mapping[str, Any]", value)) != {SECURE}:
        typed = isinstance(hint, type) and typing.is_typeddict(hint)
        fields = {camel(field): kind for field, kind in hints(hint).items()} if typed else {}
        for name, inner in cast("Mapping[str, Any]", value).items():
            yield from leaves(inner, path(key, name), fields.get(name, Any), hide or (typed and name in _SECRET_KEYS))
    elif isinstance(value, list):
        item = (*typing.get_args(hint), Any)[0]
        for position, inner in enumerate(cast("list[Any]", value)):
            yield from leaves(inner, f"{key}[{position}]", item, hide)
    else:
        yield key, value, hide


def path(key: str, name: str) -> str:
    """Return the path of a map's key in the syntax of ``pulumi config set --path``."""
    return f"{key}.{name}" if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else f'{key}["{name}"]'


def not_encrypted(key: str) -> Problem:
    """Return the problem of a secret in plain text, with the command that encrypts it."""
    return Problem(key, f"must be encrypted (value not shown). Encrypt it: pulumi config set --secret --path '{key}'")


def _fields() -> dict[str, Any]:
    """Return the types of a stack file's keys, by key."""
    return {camel(field): hint for field, hint in hints(StackKeys).items()}


def _parsed(text: str) -> Any:
    """Return the value of a configuration text: the engine passes everything but text as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
