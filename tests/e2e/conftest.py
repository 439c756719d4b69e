"""Order of the files of this layer, which share one node and the stacks on it."""

import pytest

ORDER = ("up", "models", "stacks", "mysql", "staging", "exposure", "examples", "previews", "node")
"""File names without ``test_``. The first one brings the node up, and the last one no longer needs it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of this folder by their file; other tests stay in place."""
    here = [position for position, item in enumerate(items) if item.path.parent.name == "e2e"]
    ordered = sorted((items[position] for position in here), key=lambda item: ORDER.index(item.path.stem[5:]))
    for position, item in zip(here, ordered, strict=True):
        items[position] = item
