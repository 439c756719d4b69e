"""Specification of a stack: defaults, claims, and args that are validated once."""

import pytest

from mlflow_stack import InvalidArgs, MlflowStackArgs, resolve, validate

DEPLOYED = {"mysql": {"deploy": {"size": "2Gi"}}}


@pytest.mark.parametrize(
    ("args", "claims"),
    [
        ({}, [("backendStore.pvc.size", "team-data", "20Gi")]),
        (
            {"backendStore": DEPLOYED},
            [
                ("backendStore.mysql.dumps.size", "team-dumps", "20Gi"),
                ("backendStore.mysql.deploy.size", "team-database", "2Gi"),
                ("artifactStore.pvc.size", "team-artifacts", "20Gi"),
            ],
        ),
        (
            {"backendStore": {"pvc": {"existingClaim": "old"}}, "existingNamespace": "team"},
            [],
        ),
        (
            {"artifactStore": {"pvc": {"size": "3Gi"}}},
            [("backendStore.pvc.size", "team-data", "20Gi"), ("artifactStore.pvc.size", "team-artifacts", "3Gi")],
        ),
    ],
)
def test_lists_the_claims_that_a_stack_creates(args: dict, claims: list[tuple[str, str, str]]) -> None:
    spec = resolve("team", args, spell=validate.camel)
    assert [(claim.key, claim.name, claim.size) for claim in spec.claims] == claims


def test_fills_in_defaults_at_every_depth() -> None:
    args = resolve("team", {"backend_store": DEPLOYED, "models": [{"name": "iris"}]}).args
    assert args["replicas"] == 1
    assert args["users"] == ["mlflow"]
    assert args["backend_store"]["mysql"]["deploy"]["image"] == "docker.io/library/mariadb:10.11"
    assert args["backend_store"]["mysql"]["dumps"]["size"] == "20Gi"
    assert "host" not in args["backend_store"]["mysql"]


def test_takes_resolved_args_as_they_are() -> None:
    args = resolve("team", {"maxConcurrentUploads": 4}, spell=validate.camel).args
    again = resolve("team", args)
    assert again.args is args
    assert again.place.path("max_artifact_size") == "maxArtifactSize"


def test_resolved_args_cannot_be_changed() -> None:
    args = resolve("team", {}).args
    with pytest.raises(TypeError):
        args["replicas"] = 2


def test_the_default_of_the_largest_artifact_follows_the_store() -> None:
    bucket = {"s3": {"bucket": "team", "access_key_id": "a", "secret_access_key": "b"}}
    assert resolve("team", {}).max_artifact_size == "10Gi"
    assert resolve("team", {"artifact_store": bucket}).max_artifact_size == "1Gi"
    assert resolve("team", {"artifact_store": bucket, "max_artifact_size": "2Gi"}).max_artifact_size == "2Gi"


def test_refuses_two_kinds_of_one_part() -> None:
    with pytest.raises(InvalidArgs, match=r"backend_store\.pvc: must not be set when mysql is set"):
        resolve("team", {"backend_store": {"pvc": {}, **DEPLOYED}})


def test_every_default_is_accepted_by_its_own_rules() -> None:
    args = resolve("team", {}).args
    assert validate.accepted("MlflowStack", "team", MlflowStackArgs, validate.plain(args), longest=40)
