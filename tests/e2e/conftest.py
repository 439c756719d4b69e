"""Order of the files of this layer, and the node that each runs on."""

from typing import Final

import pytest

NODES: Final = (("up", "models", "stacks", "staging", "node"), ("exposure", "mysql", "examples", "previews"))
"""File names without ``test_``, by node. The files of a node share its stacks and run in this order. Most of their time
is spent waiting, so `make test` runs both nodes at once."""
ORDER: Final = [name for node in NODES for name in node]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--node", type=int, choices=range(1, len(NODES) + 1), help="run the files of this node only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests of this folder by their file; other tests stay in place."""
    here = [position for position, item in enumerate(items) if item.path.parent.name == "e2e"]
    ordered = sorted((items[position] for position in here), key=lambda item: ORDER.index(item.path.stem[5:]))
    for position, item in zip(here, ordered, strict=True):
        items[position] = item
    if node := config.getoption("node", None):
        items[:] = [item for item in items if item.path.stem[5:] in NODES[node - 1]]
