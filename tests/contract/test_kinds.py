"""Registered kinds of stores and public addresses, and the lists that must name each."""

import typing

import pytest
from contract.test_wheel import PROGRAMS as INSTALLED
from render.objects import PROGRAMS as RENDERED

import mlflow_stack
from mlflow_stack import artifacts, backend, expose, validate

REGISTRIES = {
    "backend_store": (backend.KINDS, mlflow_stack.BackendStoreArgs),
    "artifact_store": (artifacts.KINDS, mlflow_stack.ArtifactStoreArgs),
    "expose": (expose.KINDS, mlflow_stack.ExposeArgs),
}
EVERY = [(part, key) for part, (kinds, _) in REGISTRIES.items() for key in kinds]


@pytest.mark.parametrize(("part", "key"), EVERY)
def test_a_kind_is_installed_and_rendered(part: str, key: str) -> None:
    for programs in (INSTALLED, RENDERED.values()):
        assert any(key in program.get(part, {}) for program in programs)


@pytest.mark.parametrize(("part", "key"), EVERY)
def test_the_args_of_a_kind_are_exported(part: str, key: str) -> None:
    args = validate.plain_type(validate.hints(REGISTRIES[part][1])[key])
    assert not typing.is_typeddict(args) or getattr(mlflow_stack, args.__name__) is args
