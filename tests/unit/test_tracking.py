"""Figures of the tracking server that follow from its arguments."""

import pytest

from mlflow_stack.servers import tracking

MI = 2**20


@pytest.mark.parametrize(
    ("memory", "limit"),
    [
        (None, 4 * MI),
        ("1Gi", 4 * MI),
        ("2Gi", 1408 * MI // 96),
        ("100Mi", MI),
        ("736Mi", MI),
        ("832Mi", 2 * MI),
        ("64Gi", 32 * MI),
    ],
)
def test_body_limit_follows_from_the_memory_limit(memory: str | None, limit: int) -> None:
    assert tracking.max_body_bytes(None if memory is None else {"limits": {"memory": memory}}) == limit


def test_body_limit_ignores_other_resources() -> None:
    assert tracking.max_body_bytes({"limits": {"cpu": "2"}, "requests": {"memory": "8Gi"}}) == 4 * MI
