"""One line of /etc/hosts for each instance, with all other lines unchanged."""

import os
from pathlib import Path

import pytest
from unit.test_preflight import Answers

from mlflow_stack_cli import preflight
from mlflow_stack_cli.errors import LocalError
from sandbox import hosts
from sandbox.paths import Instance
from sandbox.platform import Sandbox

OTHERS = "127.0.0.1 localhost\n# mlflow-stack is a fine thing\n10.0.0.1 dev.mlflow.test"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "hosts"
    file.write_text(OTHERS)
    file.chmod(0o644)
    monkeypatch.setattr(hosts, "FILE", file)
    monkeypatch.setattr(hosts, "_LOCK", tmp_path / "lock")
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path / "data"))
    return file


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()[len(OTHERS.splitlines()) :]


def test_stacks_of_an_instance_share_a_line_and_instances_do_not(file: Path, tmp_path: Path) -> None:
    one, two = Instance("default", 0), Instance("two", 3)
    hosts.add(one, "dev.mlflow.test")
    hosts.add(two, "dev.two.mlflow.test")
    hosts.add(one, "staging.mlflow.test")
    assert lines(file) == [
        f"10.213.3.2 dev.two.mlflow.test # mlflow-stack: {tmp_path}/data/instances/two",
        f"10.213.0.2 dev.mlflow.test staging.mlflow.test # mlflow-stack: {tmp_path}/data/instances/default",
    ]
    hosts.remove(one)
    assert lines(file) == [f"10.213.3.2 dev.two.mlflow.test # mlflow-stack: {tmp_path}/data/instances/two"]
    hosts.remove(two)
    assert file.read_text().rstrip("\n") == OTHERS
    assert file.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts", "lock"]


def test_up_finds_every_name_that_the_node_serves(file: Path, tmp_path: Path) -> None:
    """`down` of one stack stops the node and removes the line; `up` of any brings the node back with all stacks."""

    def rule(host: str) -> dict[str, object]:
        return {"host": host, "http": {"paths": [{"path": "/"}]}}

    ingress = {"kind": "Ingress", "spec": {"rules": [rule("dev.mlflow.test"), rule("mlflow.example.com"), {}]}}
    route = {"kind": "HTTPRoute", "spec": {"hostnames": ["team.mlflow.test"], "rules": [{"matches": [{}]}]}}
    node = Answers(
        **{
            "ingresses.networking.k8s.io --all-namespaces": {"items": [ingress]},
            "httproutes.gateway.networking.k8s.io --all-namespaces": {"items": [route]},
        }
    )
    instance = Instance("default", 0)
    Sandbox(instance, "staging", "").introduce(node)
    assert lines(file) == [
        f"10.213.0.2 dev.mlflow.test team.mlflow.test # mlflow-stack: {tmp_path}/data/instances/default"
    ]
    hosts.remove(instance)
    Sandbox(instance, "staging", "").introduce(Answers())
    assert lines(file) == []
    with pytest.raises(LocalError, match=r"the cluster does not list its objects: no route to host\. Next: "):
        preflight.hosts(Answers(**{"ingresses.networking.k8s.io --all-namespaces": "no route to host"}))
    Sandbox(instance, "staging", "kind-kind").introduce(node)
    assert lines(file) == []


def test_what_is_there_already_is_not_written_again(file: Path) -> None:
    one = Instance("default", 0)
    hosts.add(one, "dev.mlflow.test")
    before = file.stat()
    hosts.add(one, "dev.mlflow.test")
    hosts.remove(Instance("two", 3))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_same_instance_of_another_data_folder_keeps_its_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Instance("default", 0)
    hosts.add(one, "dev.mlflow.test")
    mine = lines(file)
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path / "other"))
    hosts.add(one, "dev.mlflow.test")
    hosts.remove(one)
    assert lines(file) == mine


def test_a_file_that_is_mounted_over_is_written_in_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise OSError(16, os.strerror(16))

    monkeypatch.setattr(Path, "replace", busy)
    hosts.add(Instance("default", 0), "dev.mlflow.test")
    assert lines(file)[0].startswith("10.213.0.2 dev.mlflow.test #")
    assert not file.with_name(".hosts.mlflow-stack").exists()


def test_a_file_that_cannot_be_written_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "write_text", denied)
    with pytest.raises(LocalError, match=r"hosts cannot be written: Permission denied\. Next: "):
        hosts.add(Instance("default", 0), "dev.mlflow.test")
