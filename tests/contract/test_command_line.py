"""Command `mlflow-stack` of an installed wheel, in a copy of examples/reuse-python outside the repository.

Without an engine and a cluster: stand-ins for `kubectl` and `pulumi` record their calls. tests/e2e/test_examples.py
runs the same commands on a real node.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import engine

UV = Path(sys.executable).with_name("uv")
NODE = {
    "metadata": {"name": "n1"},
    "status": {"allocatable": {"cpu": "4", "memory": "16Gi", "ephemeral-storage": "40Gi"}},
}
CLASS = {"metadata": {"name": "a", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}
ANSWERS = {
    "--raw /version": {},
    "nodes": {"items": [NODE]},
    "storageclass": {"items": [CLASS]},
}
KUBECTL = """#!{python}
import json, os, sys
words = [word for word in sys.argv[1:] if not word.startswith(("--output", "--request-timeout"))]
with open(os.environ["CALLS"], "a") as calls:
    calls.write("kubectl " + " ".join(sys.argv[1:]) + "\\n")
answers = json.loads(os.environ["ANSWERS"])
asked = " ".join(words[words.index("get") + 1 :])
if asked in answers:
    sys.exit(print(json.dumps(answers[asked])))
sys.exit("Error from server (NotFound): not found")
"""

PULUMI = """#!{python}
import os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write("pulumi " + " ".join(sys.argv[1:]) + "\\n")
sys.exit(print(os.environ["STACKS"]) if sys.argv[1:3] == ["stack", "ls"] else 1)
"""


@dataclass
class Consumer:
    """Separate project, with the wheel in its environment."""

    folder: Path
    programs: Path

    def configure(self, **args: object) -> None:
        config = {"reuse-python:namespace": "vision", "reuse-python:args": args}
        (self.folder / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config}))

    def run(
        self,
        *arguments: str,
        cwd: Path | None = None,
        answers: dict[str, object] | None = None,
        stacks: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{self.programs}{os.pathsep}/usr/bin:/bin",
            "HOME": str(self.programs),
            "CALLS": str(self.programs / "calls"),
            "ANSWERS": json.dumps({**ANSWERS, **(answers or {})}),
            "STACKS": json.dumps([{"name": name} for name in stacks]),
        }
        command = [self.folder / "venv" / "bin" / "mlflow-stack", *arguments]
        return subprocess.run(command, cwd=cwd or self.folder, env=env, capture_output=True, text=True, check=False)

    def calls(self) -> list[str]:
        return (self.programs / "calls").read_text().splitlines()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Consumer:
    scratch = tmp_path_factory.mktemp("consumer")
    sources = shutil.copytree(engine.PROJECT / "components", scratch / "components")
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", scratch, sources], check=True)
    (wheel,) = scratch.glob("*.whl")
    folder = shutil.copytree(engine.PROJECT / "examples" / "reuse-python", scratch / "vision")
    subprocess.run([UV, "venv", "--quiet", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    lock = engine.PROJECT / "requirements.lock"
    installed = [UV, "pip", "install", "--quiet", "--python", python, "--constraint", lock, f"{wheel}[cli]"]
    subprocess.run(installed, check=True)
    programs = scratch / "bin"
    programs.mkdir()
    for name, text in {"kubectl": KUBECTL, "pulumi": PULUMI}.items():
        (programs / name).write_text(text.format(python=sys.executable))
        (programs / name).chmod(0o755)
    consumer = Consumer(folder, programs)
    consumer.configure()
    (folder / ".gitignore").write_text("venv/\n__pycache__/\n")
    git = ("git", "-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "Start"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return consumer


@pytest.fixture
def consumer(project: Consumer) -> Consumer:
    project.configure()
    (project.programs / "calls").write_text("")
    return project


def test_renders_every_object_of_the_program(consumer: Consumer, tmp_path: Path) -> None:
    done = consumer.run("render", "--out", str(tmp_path / "objects"))
    assert (done.returncode, done.stderr) == (0, "")
    found = {path.name.partition("-")[0] for path in (tmp_path / "objects" / "vision").iterdir()}
    assert {"persistentvolumeclaim", "service", "statefulset", "secret"} <= found


def test_preview_against_a_revision_says_nothing_of_no_change(consumer: Consumer) -> None:
    done = consumer.run("preview", "--base", "HEAD")
    assert (done.returncode, done.stdout) == (0, "### Stack `dev`: nothing changes\n\nCompared with `HEAD`.\n")


def test_preview_refuses_a_change_that_loses_data(consumer: Consumer) -> None:
    consumer.configure(backend_store={"pvc": {"existing_claim": "other"}})
    done = consumer.run("preview", "--base", "HEAD")
    assert done.returncode == 3
    assert "The runs and registered models recorded so far stay in `pvc://vision/mlflow-data`" in done.stdout
    assert done.stderr.startswith("error: 3 red lines are not acknowledged:")


def test_preview_accepts_the_loss_that_release_acknowledges(consumer: Consumer) -> None:
    consumer.configure(backend_store={"pvc": {"existing_claim": "other"}})
    file = consumer.folder / "Pulumi.dev.yaml"
    content = yaml.safe_load(file.read_text())
    content["config"]["release"] = ["mlflow-data", "pvc://vision/mlflow-data"]
    file.write_text(yaml.safe_dump(content))
    done = consumer.run("preview", "--base", "HEAD")
    assert done.returncode == 0, done.stderr
    assert "as listed in `release`" in done.stdout


def test_preflight_names_what_the_cluster_lacks_as_the_program_spells_it(consumer: Consumer) -> None:
    consumer.configure(backend_store={"pvc": {"existing_claim": "other"}}, users_existing_secret="people")
    done = consumer.run("preflight")
    assert done.returncode == 1
    lines = [line.strip().partition(";")[0] for line in done.stderr.splitlines()]
    assert lines[1:4] == [
        "existing_namespace: Namespace vision is not in the cluster",
        "users_existing_secret: Secret people is not in namespace vision",
        "backend_store.pvc.existing_claim: PersistentVolumeClaim other is not in namespace vision",
    ]


def test_preflight_passes_a_cluster_with_what_is_named(consumer: Consumer) -> None:
    done = consumer.run("preflight", answers={"namespace vision": {}})
    assert (done.returncode, done.stderr) == (0, "the cluster has what the stack names\n")


def test_preflight_names_a_claim_that_cannot_grow(consumer: Consumer) -> None:
    consumer.configure(backend_store={"pvc": {"size": "30Gi"}})
    claim = {
        "metadata": {"labels": {"app.kubernetes.io/instance": "mlflow"}},
        "spec": {"resources": {"requests": {"storage": "20Gi"}}, "storageClassName": "a"},
    }
    there = {"namespace vision": {}, "persistentvolumeclaim mlflow-data --namespace=vision": claim}
    done = consumer.run("preflight", answers={**there, "storageclass a": {}})
    assert done.returncode == 1
    assert "backend_store.pvc.size: 30Gi is more than the 20Gi of the claim mlflow-data" in done.stderr


def test_kubectl_is_asked_in_the_context_of_the_stack_file(consumer: Consumer) -> None:
    file = consumer.folder / "Pulumi.dev.yaml"
    file.write_text(file.read_text() + "  kubernetes:context: kind\n")
    consumer.run("preflight")
    calls = consumer.calls()
    assert calls
    assert all(call.startswith("kubectl --context=kind ") for call in calls)
    done = consumer.run("--context", "other", "preflight")
    assert "kubernetes:context: the stack file names another context (got kind, --context names other)" in done.stderr


def test_up_changes_nothing_if_the_cluster_lacks_what_is_named(consumer: Consumer) -> None:
    done = consumer.run("up", stacks=["dev"])
    assert done.returncode == 1
    assert "existing_namespace: Namespace vision is not in the cluster" in done.stderr
    assert [call for call in consumer.calls() if call.startswith("pulumi")] == [
        "pulumi stack ls --json --non-interactive"
    ]
    assert all(" get " in call for call in consumer.calls() if call.startswith("kubectl"))


def test_up_names_the_command_that_makes_the_stack(consumer: Consumer) -> None:
    done = consumer.run("up", stacks=["prod"])
    assert done.stderr == "error: stack dev of project reuse-python does not exist. Next: `pulumi stack init dev`.\n"


def test_folder_is_an_option_and_a_folder_below_it_will_do(consumer: Consumer, tmp_path: Path) -> None:
    done = consumer.run("--cwd", str(consumer.folder), "preview", "--base", "HEAD", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = consumer.run("preview", "--base", "HEAD", cwd=tmp_path)
    assert done.stderr == "error: . is not in a Pulumi project. Next: name the folder of one with --cwd.\n"


def test_names_the_stacks_that_exist(consumer: Consumer) -> None:
    done = consumer.run("--stack", "prod", "preflight")
    assert done.returncode == 1
    assert "Pulumi.prod.yaml does not exist (there are: dev). Next: `pulumi stack init prod`." in done.stderr


def test_pin_names_the_extra_that_it_needs(consumer: Consumer) -> None:
    consumer.configure(models=[{"name": "iris", "uri": "models:/iris@champion"}])
    file = consumer.folder / "Pulumi.dev.yaml"
    before = file.read_text()
    command = [consumer.folder / "venv" / "bin" / "mlflow-stack", "pin"]
    env = {"PATH": f"{consumer.programs}{os.pathsep}/usr/bin:/bin", "MLFLOW_TRACKING_URI": "http://localhost:1"}
    done = subprocess.run(command, cwd=consumer.folder, env=env, capture_output=True, text=True, check=False)
    assert (
        done.stderr == "error: pin requires MLflow to ask the registry. Next: `pip install 'mlflow-stack[cli,pin]'`.\n"
    )
    assert file.read_text() == before


def test_the_command_line_imports_nothing_of_the_sandbox() -> None:
    texts = [path.read_text() for path in (engine.PROJECT / "components" / "mlflow_stack_cli").rglob("*.py")]
    assert texts
    assert not [
        text for text in texts if "import sandbox" in text or "from sandbox" in text or "import settings" in text
    ]
