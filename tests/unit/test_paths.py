"""Names, folders and address ranges of instances."""

from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import cache_dir
from sandbox import paths
from sandbox.paths import Instance, data_dir


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_STACK_CACHE", raising=False)
    monkeypatch.setattr(paths, "_LINKS", tmp_path / "links")


@pytest.mark.parametrize(
    ("own", "xdg", "wanted"),
    [
        ("/a/cache", "/x", "/a/cache"),
        ("", "/x", "/x/mlflow-stack"),
        ("", "relative", "/home/me/.cache/mlflow-stack"),
        ("", "", "/home/me/.cache/mlflow-stack"),
    ],
)
def test_cache_folder(own: str, xdg: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MLFLOW_STACK_CACHE", own), ("XDG_CACHE_HOME", xdg), ("HOME", "/home/me")):
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(wanted)


def test_data_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_STACK_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    assert data_dir() == Path("/x/mlflow-stack")


def test_an_instance_keeps_its_index_and_the_next_gets_the_lowest_free_one() -> None:
    assert [Instance.open(name).index for name in ("a", "b", "a", "c")] == [0, 1, 0, 2]
    Instance.open("b").forget()
    assert Instance.open("d").index == 1
    assert [(instance.name, instance.index) for instance in Instance.existing()] == [("a", 0), ("c", 2), ("d", 1)]


def test_keeps_the_link_of_an_index_in_another_data_folder(tmp_path: Path) -> None:
    (tmp_path / "links" / "mls0").mkdir(parents=True)
    assert Instance.open("a").index == 1


def test_instances_opened_at_once_share_no_index() -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(Instance.open, [f"i{number}" for number in range(16)]))
    assert sorted(instance.index for instance in opened) == list(range(16))


def test_addresses_of_instances_do_not_meet() -> None:
    one, two = Instance("one", 3), Instance("two", 4)
    networks = [ip_network(text) for each in (one, two) for text in (each.pod_cidr, each.service_cidr)]
    networks += [ip_network(f"{each.machine_address}/30", strict=False) for each in (one, two)]
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
    assert ip_address(one.node_address) in ip_network(f"{one.machine_address}/30", strict=False)
    assert ip_address(one.dns_address) in ip_network(one.service_cidr)


def test_forgetting_the_last_instance_leaves_nothing() -> None:
    instance = Instance.open("one")
    (instance.root / "node").mkdir()
    instance.forget()
    instance.forget()
    assert not data_dir().exists()


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 21, "a/b", "a\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(LocalError, match="is invalid: it must be at most 20 of a-z"):
        Instance.open(name)


def test_more_than_64_are_refused() -> None:
    for number in range(64):
        Instance.open(f"i{number}")
    with pytest.raises(LocalError, match="64 instances exist"):
        Instance.open("one-more")
