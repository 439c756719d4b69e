"""Public contract: the package as other languages see it, and the documents generated from it."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pulumi
import pytest
import yaml

import engine
import mlflow_stack
import settings
from mlflow_stack import validate
from mlflow_stack_cli.errors import LocalError
from sandbox import stackfile

COMPONENTS = engine.PROJECT / "components"
MODULES = sorted((COMPONENTS / "mlflow_stack").glob("*.py"))
GENERATE = runpy.run_path(str(engine.PROJECT / "docs" / "generate.py"))
SCHEMA = GENERATE["schema"]()
DOCUMENTS = GENERATE["documents"]()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_generated_documents_are_the_committed_ones(path: Path) -> None:
    assert path.read_text() == DOCUMENTS[path], "run python docs/generate.py and review the diff"


def test_every_input_and_output_is_described() -> None:
    properties = [
        (token, name, value)
        for kind in ("resources", "types")
        for token, one in SCHEMA[kind].items()
        for part in ("inputProperties", "properties")
        for name, value in one.get(part, {}).items()
    ]
    assert len(properties) > 30
    assert [(token, name) for token, name, value in properties if not value.get("description")] == []


def test_the_versions_agree() -> None:
    project = tomllib.loads((COMPONENTS / "pyproject.toml").read_text())["project"]
    assert project["version"] == mlflow_stack.__version__ == SCHEMA["version"]


def test_the_distribution_is_not_taken_for_that_of_a_provider() -> None:
    """Pulumi's Python host and generated SDKs request a plugin for each distribution with this prefix."""
    name = tomllib.loads((COMPONENTS / "pyproject.toml").read_text())["project"]["name"]
    assert not re.match(r"pulumi[-_]", name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_defers_annotations_which_the_analyzer_cannot_read(path: Path) -> None:
    assert "from __future__ import annotations" not in path.read_text()


def test_the_plugin_starts_as_its_own_process() -> None:
    """A plugin's first line is its port. tests/e2e shows that an engine constructs through it."""
    with subprocess.Popen(
        [sys.executable, str(COMPONENTS), "127.0.0.1:1"], stdout=subprocess.PIPE, text=True
    ) as plugin:
        assert plugin.stdout is not None
        port = plugin.stdout.readline().strip()
        plugin.terminate()
    assert port.isdigit(), port


def test_the_schema_is_plain_json() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


STACK_FILES = GENERATE["stack_files"](SCHEMA)


@pytest.mark.parametrize("path", sorted(engine.PROJECT.glob("Pulumi.*.yaml")), ids=lambda path: path.stem)
def test_editors_accept_every_stack_file_and_find_the_schema(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), STACK_FILES)
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=docs/stack-file.schema.json"


MYSQL = {"host": "db.example.com", "password": {"secure": "v1:x"}}
BUCKET = {"bucket": "team", "existingSecret": "keys"}


@pytest.mark.parametrize(
    "config",
    [
        {"usres": ["a"]},
        {"replicas": "two"},
        {"replicas": True},
        {"platform": "nomad"},
        {"image": "mlflow"},
        {"maxArtifactSize": "10 Gi"},
        {"maxConcurrentUploads": 0},
        {"rolloutTimeout": "soon"},
        {"users": ["a:b"]},
        {"users": "ann"},
        {"release": 5},
        {"release": [1]},
        {"labels": {"team": None}},
        {"namespace": "A b"},
        {"namespace": "a", "existingNamespace": "b"},
        {"passwords": {"ann": "correct horse battery"}},
        {"passwords": {"ann": {"secure": 1}}},
        {"rotation": {"ann": -1}},
        {"backendStore": "pvc"},
        {"backendStore": {"pvc": {"sise": "1Gi"}}},
        {"backendStore": {"pvc": {"size": 1}}},
        {"backendStore": {"pvc": {"accessMode": "ReadOnlyMany"}}},
        {"backendStore": {"pvc": {}, "mysql": MYSQL}},
        {"backendStore": {"mysql": {**MYSQL, "password": "plain"}}},
        {"backendStore": {"mysql": {**MYSQL, "existingSecret": "db"}}},
        {"backendStore": {"mysql": {**MYSQL, "port": 70000}}},
        {"backendStore": {"mysql": {**MYSQL, "host": "mysql://db"}}},
        {"backendStore": {"mysql": MYSQL, "postgres": MYSQL}},
        {"backendStore": {"postgres": {**MYSQL, "sslmode": "allow"}}},
        {"backendStore": {"postgres": {"password": {"secure": "v1:x"}}}},
        {"artifactStore": {"s3": {"existingSecret": "keys"}}},
        {"artifactStore": {"s3": {**BUCKET, "endpointUrl": "a3s.fi"}}},
        {"artifactStore": {"s3": {**BUCKET, "addressing": "host"}}},
        {"artifactStore": {"s3": {"bucket": "team", "accessKeyId": "a", "secretAccessKey": "b"}}},
        {"expose": {"loadBalancer": {}}},
        {"expose": {"ingress": {}}},
        {"expose": {"host": "h"}},
        {"expose": {"host": "h", "ingress": {}, "nodePort": 30500}},
        {"expose": {"host": "h", "nodePort": 80}},
        {"expose": {"host": "h", "nodePort": 30500, "tls": {}}},
        {"expose": {"host": "h", "loadBalancer": {"className": "a b"}}},
        {"expose": {"host": "h", "loadBalancer": {}, "controller": {"cidrs": ["192.0.2.0/24"]}}},
        {"expose": {"host": "h", "nodePort": 30500, "trustedProxies": ["10.0.0.0/8"]}},
        {"expose": {"ingress": {}, "host": "h", "allowFrom": ["192.0.2.1"]}},
        {"expose": {"host": "h", "nodePort": 30500, "allowFrom": []}},
        {"expose": {"ingress": {}, "host": "h", "tls": {"issuerKind": "Other"}}},
        {"expose": {"ingress": {}, "host": "h", "path": "mlflow/"}},
        {"expose": {"ingress": {"className": "NGINX"}, "host": "h"}},
        {"expose": {"ingress": {}, "host": "h", "className": "nginx"}},
        {"expose": {"ingress": {}, "host": "h", "allowFrom": ["192.0.2.0/24"]}},
        {"expose": {"kind": "loadbalancer"}},
        {"expose": {"kind": "ingress"}},
        {"expose": {"kind": "nodeport", "host": "h"}},
        {"expose": {"kind": "none", "host": "h"}},
        {"expose": {"kind": "ingress", "host": "h", "nodePort": 30500}},
        {"models": [{"uri": "models:/iris/1"}]},
        {"models": [{"name": "iris", "uri": "iris"}]},
        {"models": [{"name": "iris", "environment": "conda"}]},
        {"image": {"secure": "v1:x"}},
    ],
    ids=str,
)
def test_editors_refuse_what_the_program_refuses(config: dict) -> None:
    keys = {f"mlflow-stack:{key}": value for key, value in config.items()}
    assert list(jsonschema.Draft202012Validator(STACK_FILES).iter_errors({"config": keys})) != []
    with pytest.raises(LocalError):
        stackfile.judged(keys)


@pytest.mark.parametrize("key", ["replicas", "mlflow-stak:replicas", "aws:region"])
def test_editors_refuse_keys_that_nothing_reads(key: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="does not match any of the regexes"):
        jsonschema.validate({"config": {key: 1}}, STACK_FILES)
    jsonschema.validate({"config": {f"{reader}:x": 1 for reader in settings.READERS}}, STACK_FILES)
    assert GENERATE["READERS"] == settings.READERS


@pytest.mark.parametrize(
    "config",
    [
        {"passwords": {"mlflow": {"secure": "v1:y"}}},
        {"backendStore": {"mysql": {**MYSQL, "port": 3307, "database": "ml-flow", "username": "a@b"}}},
        {"backendStore": {"postgres": {**MYSQL, "sslmode": "require"}}},
        {
            "artifactStore": {
                "s3": {"bucket": "a.b", "accessKeyId": {"secure": "x"}, "secretAccessKey": {"secure": "y"}}
            }
        },
        {
            "artifactStore": {"s3": {**BUCKET, "endpointUrl": "http://minio.minio.svc:9000"}},
            "existingNamespace": "team",
        },
        {"expose": {"host": "192.0.2.7", "nodePort": 30500, "allowFrom": ["2001:db8::/32"]}},
        {"expose": {"host": "a.example", "gateway": "infra/public", "path": "/a/b", "tls": {}}},
        {
            "expose": {
                "host": "a.example",
                "loadBalancer": {"className": "service.k8s.aws/nlb"},
                "tls": {"issuer": "le"},
            }
        },
        {"expose": {}},
        {"expose": {"kind": "ingress", "host": "a.example", "className": "nginx"}},
        {"expose": {"kind": "none"}},
        {"image": "localhost:5000/a/mlflow@sha256:" + "a" * 64, "maxArtifactSize": "1.5Gi", "rolloutTimeout": "90s"},
        {"models": [{"name": "iris", "uri": "models:/iris@best", "version": 3, "autoscale": {"maxReplicas": 3}}]},
    ],
    ids=str,
)
def test_editors_accept_what_the_program_accepts(config: dict) -> None:
    keys = {f"mlflow-stack:{key}": value for key, value in config.items()}
    jsonschema.validate({"config": keys, "encryptionsalt": "v1:x"}, STACK_FILES)
    stackfile.judged(keys)


def test_a_value_that_is_one_of_a_few_is_so_in_every_schema() -> None:
    """No other text is accepted for it."""

    def literals(kind: type, at: str = "") -> Iterator[tuple[str, Any]]:
        for name, hint in validate.hints(kind).items():
            plain = validate.plain_type(hint)
            if typing.get_origin(plain) in (list, Sequence):
                plain = typing.get_args(plain)[0]
            if typing.get_origin(plain) is typing.Literal:
                yield f"{at}.{name}", plain
            elif typing.is_typeddict(plain):
                yield from literals(plain, f"{at}.{name}")

    found = dict(literals(mlflow_stack.MlflowStackArgs))
    assert set(found.values()) == set(validate.ENUMS)
    for literal, enum in validate.ENUMS.items():
        words = [value["value"] for value in SCHEMA["types"][f"mlflow-stack:index:{enum.title}"]["enum"]]
        assert tuple(words) == typing.get_args(literal)
        assert STACK_FILES["$defs"][enum.title]["enum"] == words


def test_secrets_are_secret_in_the_schema() -> None:
    resource = SCHEMA["resources"]["mlflow-stack:index:MlflowStack"]
    inputs = {**SCHEMA["types"], "": {"properties": resource["inputProperties"]}}
    secret = {
        f"{token.rpartition(':')[2]}.{name}"
        for token, one in inputs.items()
        for name, field in one.get("properties", {}).items()
        if field.get("secret")
    }
    databases = {"MysqlStoreArgs.password", "PostgresStoreArgs.password"}
    bucket = {"S3ArtifactsArgs.accessKeyId", "S3ArtifactsArgs.secretAccessKey"}
    assert secret == {".passwords", *databases, *bucket}
    outputs = {name for name, field in resource["properties"].items() if field.get("secret")}
    assert outputs == {"password", "passwords", "clientEnv", "encryptionKeys"}


def test_the_readme_program_passes_a_strict_type_checker(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", (engine.PROJECT / "README.md").read_text(), re.M | re.S)
    (tmp_path / "__main__.py").write_text(program)
    # Installed as by pip, unlike the editable install of this checkout.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    shutil.copytree(COMPONENTS / "mlflow_stack", packages / "mlflow_stack")
    (packages / "shared.pth").write_text(f"{Path(pulumi.__file__).parents[1]}\n")
    checked = {"include": ["__main__.py"], "strict": ["."], "venvPath": ".", "venv": "venv"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(checked))
    pyright = Path(sys.executable).with_name("pyright")
    done = subprocess.run([pyright, "--project", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
