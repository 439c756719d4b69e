"""Every stack file through ``settings.py`` and ``__main__.py``, without an engine or a cluster."""

import json
from pathlib import Path

import pytest
import yaml

import engine
from mlflow_stack import InvalidArgs, MlflowStackArgs, validate

FILES = sorted(engine.PROJECT.glob("Pulumi.*.yaml"))
DECLARED = yaml.safe_load((engine.PROJECT / "Pulumi.yaml").read_text())["config"]


def text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def config(path: Path) -> dict[str, str]:
    """Return the configuration that the CLI passes to the program: the stack file's over the project's defaults."""
    defaults = {f"mlflow-stack:{key}": text(one["default"]) for key, one in DECLARED.items()}
    return {**defaults, **{key: text(one) for key, one in yaml.safe_load(path.read_text())["config"].items()}}


@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_stack_file_is_accepted_and_exports_what_users_need(path: Path, preview: bool) -> None:
    deployment = engine.run_main(config(path), preview=preview)
    assert set(deployment.outputs) == {
        "url",
        "trackingUri",
        "username",
        "password",
        "passwords",
        "clientEnv",
        "encryptionKeys",
        "modelUrls",
        "modelUris",
        "namespace",
    }
    secret = {name for name, one in deployment.outputs.items() if one["secret"]}
    assert secret == {"password", "passwords", "clientEnv", "encryptionKeys"}
    assert deployment.one("kubernetes").inputs["enableSecretMutable"] == "true"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_stack_file_holds_a_salt_a_secret_or_a_local_image(path: Path) -> None:
    content = path.read_text()
    assert not any(word in content for word in ("encryptionsalt", "secure:", "localhost/"))


def test_dev_is_what_it_says() -> None:
    deployment = engine.run_main(config(engine.PROJECT / "Pulumi.dev.yaml"))
    assert deployment.outputs["namespace"]["value"] == "mlflow-dev"
    claim = deployment.one("PersistentVolumeClaim").inputs["spec"]
    assert claim["resources"] == {"requests": {"storage": "5Gi"}}


def test_secrets_of_the_configuration_are_secret_inputs() -> None:
    values = {"mlflow-stack:users": '["ann"]', "mlflow-stack:passwords": '{"ann": "correct horse"}'}
    deployment = engine.run_main(values, ["mlflow-stack:passwords"])
    assert deployment.one("Secret", "mlflow-client").secret_inputs == {"stringData"}
    assert deployment.outputs["password"] == {"value": "correct horse", "known": True, "secret": True}


def test_keys_of_maps_that_users_choose_are_left_as_they_are() -> None:
    values = {"mlflow-stack:users": '["fileStore"]', "mlflow-stack:passwords": '{"fileStore": "correct horse"}'}
    assert engine.run_main(values, ["mlflow-stack:passwords"]).outputs["username"]["value"] == "fileStore"


def test_keys_in_lists_of_maps_are_fields_too() -> None:
    models = '[{"name": "iris", "uri": "models:/iris@best", "version": 3, "rolloutTimeout": "4m"}]'
    deployment = engine.run_main({"mlflow-stack:models": models, "mlflow-stack:egress": "[]"})
    assert deployment.one("Deployment", "mlflow-iris").timeouts == {"create": "4m", "update": "4m"}
    assert deployment.outputs["modelUris"]["value"] == {"iris": "models:/iris/3"}


def test_text_that_looks_like_json_stays_text() -> None:
    with pytest.raises(InvalidArgs, match=r'maxArtifactSize: must be a size .* \(got "-1"\)'):
        engine.run_main({"mlflow-stack:maxArtifactSize": "-1"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mlflow-stack:replicas": "two"}, 'replicas: must be a whole number (got "two")'),
        ({"mlflow-stack:usrs": '["a"]'}, "usrs: unknown key. Did you mean users?"),
        ({"mlflow-stack:backendStore": '"pvc"'}, 'backendStore: must be a map (got "pvc")'),
        ({"mlflow-stack:backendStore": '{"pvc": {"sise": "1Gi"}}'}, "backendStore.pvc.sise: unknown key. Did you mean"),
    ],
)
def test_bad_configuration_is_named_by_its_key(values: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgs) as refused:
        engine.run_main(values)
    assert message in str(refused.value)


def test_release_reaches_no_component() -> None:
    bare = {"mlflow-stack:name": "mlflow"}
    assert recorded({**bare, "mlflow-stack:release": '["mlflow-data"]'}) == recorded(bare)


def test_what_pulumi_yaml_declares_is_what_the_component_has_with_the_same_defaults() -> None:
    fields = {validate.camel(field) for field in validate.hints(MlflowStackArgs)}
    assert set(DECLARED) - {"name", "release"} <= fields
    assert all(key["description"] for key in DECLARED.values())
    bare = {"mlflow-stack:name": "mlflow"}
    declared = {f"mlflow-stack:{key}": text(one["default"]) for key, one in DECLARED.items()}
    assert recorded(declared) == recorded(bare)


def recorded(values: dict[str, str]) -> list[tuple[str, str, object]]:
    deployment = engine.run_main(values)
    return sorted(
        (resource.type, resource.name, json.dumps(resource.inputs, sort_keys=True))
        for resource in deployment.registrations
    )


def test_the_program_is_wiring_only() -> None:
    assert len((engine.PROJECT / "__main__.py").read_text().splitlines()) < 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_stack_file_asks_for_what_ordinary_nodes_hold(path: Path) -> None:
    deployment = engine.run_main(config(path))
    workloads = [resource for kind in ("Deployment", "StatefulSet", "Job") for resource in deployment.all(kind)]
    assert workloads
    for workload in workloads:
        pod = workload.inputs["spec"]["template"]["spec"]
        reserved = sum(
            validate.bytes_of(container["resources"]["requests"].get("ephemeral-storage", "0"))
            for container in pod["containers"]
        )
        assert reserved <= 4 * 2**30, workload.name
