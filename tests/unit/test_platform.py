"""Cluster of a kube context, as selected by `kubectl` and the provider."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.platform import ExistingCluster, Tools
from mlflow_stack_cli.progress import Progress
from mlflow_stack_cli.project import Project

CONFIG = {"apiVersion": "v1", "kind": "Config", "clusters": []}
KUBECTL = '#!/bin/sh\n[ "$1 $2" = "config view" ] && echo "context: $6"\nexit 0\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"kubectl": KUBECTL, "pulumi": '#!/bin/sh\necho "apiVersion: v1"\necho "kind: Config"\n'}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin:/bin")
    return Project(tmp_path, "vision")


def tools(
    project: Project, context: str = "", config: Mapping[str, object] | None = None
) -> tuple[Tools, ExistingCluster]:
    stated = {f"kubernetes:{key}": value for key, value in (config or {}).items()}
    project.stack_file("dev").write_text(yaml.safe_dump({"config": stated}))
    platform = ExistingCluster(project, "dev", context)
    return platform.tools(Progress()), platform


def options(found: Tools) -> list[str]:
    return found.cluster.command[1:]


def test_defaults_to_what_kubectl_itself_takes(project: Project) -> None:
    found, platform = tools(project)
    assert options(found) == []
    assert "KUBECONFIG" not in found.environment
    assert found.environment["PULUMI_STACK"] == "dev"
    assert platform.where == "current kube context"


def test_takes_the_context_of_the_stack_file(project: Project) -> None:
    found, platform = tools(project, config={"context": "kind"})
    assert options(found) == ["--context=kind"]
    assert platform.where == "kube context kind"


def test_takes_the_kubeconfig_of_the_stack_file_as_path_or_content(project: Project) -> None:
    found, _ = tools(project, config={"kubeconfig": "/etc/kube/config"})
    assert options(found) == ["--kubeconfig=/etc/kube/config"]
    found, platform = tools(project, config={"kubeconfig": yaml.safe_dump(CONFIG)})
    file = platform.scratch / "kubeconfig"
    assert options(found) == [f"--kubeconfig={file}"]
    assert yaml.safe_load(file.read_text()) == CONFIG
    assert file.stat().st_mode & 0o777 == 0o600


def test_encrypted_kubeconfig_is_decrypted_by_the_engine(project: Project) -> None:
    found, platform = tools(project, config={"kubeconfig": {"secure": "v1:x"}})
    assert options(found) == [f"--kubeconfig={platform.scratch / 'kubeconfig'}"]
    assert yaml.safe_load((platform.scratch / "kubeconfig").read_text()) == {"apiVersion": "v1", "kind": "Config"}


def test_a_stated_context_is_the_current_one_of_a_kubeconfig_of_its_own(project: Project) -> None:
    found, platform = tools(project, "staging")
    file = platform.scratch / "kubeconfig"
    assert options(found) == [f"--kubeconfig={file}"]
    assert found.environment["KUBECONFIG"] == str(file)
    assert file.read_text() == "context: --context=staging\n"


@pytest.mark.parametrize("missing", ["pulumi", "kubectl"])
def test_names_a_program_that_is_missing(missing: str, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "bin" / missing).unlink()
    monkeypatch.setenv("PATH", str(project.folder / "bin"))
    with pytest.raises(LocalError, match=rf"^{missing} is not on PATH\. Next: install it\.$"):
        tools(project)
