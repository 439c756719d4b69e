"""Registered kinds of stores and public addresses, and the lists that must name each."""

import pytest
from contract.test_wheel import PROGRAMS as INSTALLED
from render.objects import PROGRAMS as RENDERED

from mlflow_stack import artifacts, backend, expose

REGISTRIES = {"backend_store": backend.KINDS, "artifact_store": artifacts.KINDS, "expose": expose.KINDS}
EVERY = [(part, key) for part, kinds in REGISTRIES.items() for key in kinds]


@pytest.mark.parametrize(("part", "key"), EVERY)
def test_a_kind_is_installed_and_rendered(part: str, key: str) -> None:
    for programs in (INSTALLED, RENDERED.values()):
        assert any(key in program.get(part, {}) for program in programs)
