"""The only reader of Pulumi's configuration: keys of a stack file, one to one, as the component's args."""

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
"""Other namespaces of keys that something reads: the engine's and the providers'."""
SECURE = "secure"
"""The only key of the map that an encrypted value is in a stack file."""


_SECRET_KEYS = frozenset(map(camel, SECRETS))


class StackKeys(MlflowStackArgs):
    """The keys of a stack file."""

    name: NotRequired[str]
    """Name of the component, from which its objects are named. Default: mlflow."""
    release: NotRequired[Sequence[str]]
    """Names of protected resources that may leave the stack; for previews and ``make up``. Default: []."""


extend(StackKeys, MlflowStackArgs)


@dataclass(frozen=True)
class Settings:
    """What a stack file says."""

    name: str
    """Name of the component."""
    release: Sequence[str]
    """Names of protected resources that may leave the stack; no component gets them."""
    spec: Spec
    """Specification that all other keys give."""

    @property
    def args(self) -> MlflowStackArgs:
        """Args of the component, with every default filled in."""
        return self.spec.args


def read() -> Settings:
    """Return the configuration of the stack that runs, judged. Secrets come as text; the component wraps them.

    Raises :class:`InvalidArgs` with every problem, before a provider or anything else is declared.
    """
    keys = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    texts = {key: pulumi.Config(key.partition(":")[0]).require(key.partition(":")[2]) for key in keys}
    secret = {key for key in keys if runtime_config.is_config_secret(key)}
    return judged(texts, secret, pulumi.get_project())


def judged(
    texts: Mapping[str, str], secret: Container[str], project: str = PROJECT, known: Sequence[Problem] = ()
) -> Settings:
    """Return what a configuration says: texts by full key, as the engine hands them to the program.

    ``secret`` are the keys that hold an encrypted value, ``known`` problems that were found before. Raises
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
            found.append(Problem(key, f"nothing reads this key. Begin it with {project}: or remove it"))
    name = values.pop("name", "mlflow")
    kept = accepted(
        "MlflowStack", name, StackKeys, values, longest=LONGEST_NAME, spell=camel, found=[*dict.fromkeys(found)]
    )
    return Settings(name, kept.pop("release", []), Spec(name, filled(MlflowStackArgs, kept, camel)))


def leaves(value: Any, key: str, hint: Any = None, hide: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Yield each value under a key that is no map or list: its path, itself, and whether it is to be encrypted."""
    if hint is None:
        hint, hide = _fields().get(key, Any), key in _SECRET_KEYS
    hint = plain_type(hint)
    if isinstance(value, Mapping) and set(cast("Mapping[str, Any]", value)) != {SECURE}:
        typed = isinstance(hint, type) and typing.is_typeddict(hint)
        fields = {camel(field): one for field, one in hints(hint).items()} if typed else {}
        for name, one in cast("Mapping[str, Any]", value).items():
            yield from leaves(one, path(key, name), fields.get(name, Any), hide or (typed and name in _SECRET_KEYS))
    elif isinstance(value, list):
        item = (*typing.get_args(hint), Any)[0]
        for position, one in enumerate(cast("list[Any]", value)):
            yield from leaves(one, f"{key}[{position}]", item, hide)
    else:
        yield key, value, hide


def path(key: str, name: str) -> str:
    """Return the path of a map's key as ``pulumi config set --path`` reads it."""
    return f"{key}.{name}" if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else f'{key}["{name}"]'


def not_encrypted(key: str) -> Problem:
    """Return the problem of a secret in plain text, with the command that encrypts it."""
    return Problem(key, f"a secret in plain text. Encrypt it: pulumi config set --secret --path '{key}'")


def _fields() -> dict[str, Any]:
    """The types of a stack file's keys."""
    return {camel(field): hint for field, hint in hints(StackKeys).items()}


def _parsed(text: str) -> Any:
    """The value behind a configuration text: the engine hands over everything but text as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
