"""The comment on a change: what is refused, what is acknowledged, and that it fits."""

import pytest
from unit.test_compare import at, one

from preview import words
from preview.compare import Resource, compare
from preview.words import LIMIT, Words

CLAIM = one("PersistentVolumeClaim", "mlflow-data", protect=True)
SALT = one("RandomString", "mlflow-salt-bob")


def password(rotation: int) -> Resource:
    return one("RandomPassword", "mlflow-password-bob", inputs=at("keepers.rotation", str(rotation)))


def told(old: list[Resource], new: list[Resource], *release: str) -> Words:
    return Words(compare(old, new), release)


def test_nothing_changes() -> None:
    same = told([CLAIM], [CLAIM])
    assert same.comment("dev", "`main`") == "### Stack `dev`: nothing changes\n\nCompared with `main`.\n"
    assert same.refused == []


@pytest.mark.parametrize("old", [CLAIM, one("PersistentVolumeClaim", "mlflow-data"), one("Namespace", protect=True)])
def test_data_that_is_deleted_is_refused_until_release_names_it(old: Resource) -> None:
    refused = told([old, SALT], [SALT])
    assert refused.refused == [
        f"**{old.kind} `{old.name}` is deleted, with all in it.** "
        f"If that is meant, add `{old.name}` to `release` in the stack file."
    ]
    released = told([old, SALT], [SALT], old.name)
    assert released.refused == []
    assert (
        f"- 🔴 {old.kind} `{old.name}` leaves the stack as `release` says. The object stays in the cluster"
        in released.comment("dev", "x")
    )


def test_data_that_is_replaced_is_refused_also_when_release_names_it() -> None:
    old, new = (one("PersistentVolumeClaim", protect=True, inputs=at("spec.storageClassName", name)) for name in "ab")
    assert told([old], [new]).refused == told([old], [new], "mlflow").refused
    assert told([old], [new]).refused[0].startswith("**PersistentVolumeClaim `mlflow` is replaced, and what is in it")


def test_protection_that_goes_is_refused() -> None:
    bare = one("PersistentVolumeClaim", "mlflow-data")
    assert (
        told([CLAIM], [bare]).refused[0].startswith("**PersistentVolumeClaim `mlflow-data` is no longer protected.**")
    )
    assert told([CLAIM], [bare], "mlflow-data").refused == []


def test_a_raised_rotation_is_its_own_acknowledgement() -> None:
    raised = told([SALT, password(0)], [SALT, password(1)])
    assert raised.refused == []
    line = "- 🔴 `bob` gets a new password (rotation 0 → 1): whoever uses it needs the new one."
    assert line in raised.comment("dev", "x")


@pytest.mark.parametrize("new", [[SALT, password(1)], [SALT]], ids=["lowered", "given"])
def test_a_password_that_changes_otherwise_is_refused(new: list[Resource]) -> None:
    old = [SALT, password(2)]
    assert told(old, new).refused[0].startswith("**The password of `bob`")
    assert told(old, new, "mlflow-password-bob").refused == []


def test_a_user_who_goes_takes_the_password_along() -> None:
    gone = told([SALT, password(0), CLAIM], [CLAIM])
    assert gone.refused == []
    assert "- User `bob` can no longer come in, within two minutes. Nothing restarts for it." in gone.comment("d", "x")


def test_no_secret_is_shown() -> None:
    old, new = (one("Secret", secret=["stringData"], inputs={"stringData": {"a": f"canary-{value}"}}) for value in "12")
    comment = told([old], [new]).comment("dev", "x")
    assert "`data`: changes (secret, not shown)" in comment
    assert "canary" not in comment


def test_a_long_comment_is_cut_and_keeps_its_summary() -> None:
    old = [one("Service", f"s{number}", inputs=at("spec.x", "1" * 70)) for number in range(1000)]
    new = [one("Service", f"s{number}", inputs=at("spec.x", "2" * 70)) for number in range(1000)]
    comment = told([*old, CLAIM], new).comment("dev", "x")
    assert LIMIT - 1000 < len(comment) <= LIMIT
    assert "### Stack `dev`: 1000 changed, 1 deleted" in comment
    assert "- 🔴 **PersistentVolumeClaim `mlflow-data` is deleted" in comment
    assert "_Cut here: the whole text has " in comment


def server(component: str, *variables: tuple[str, str], image: str = "mlflow:1", **labels: str) -> Resource:
    env = [{"name": name, "value": value} for name, value in variables]
    template = {"spec": {"containers": [{"name": "mlflow", "image": image, "env": env}]}}
    of = {"app.kubernetes.io/instance": "ml", "app.kubernetes.io/component": component}
    metadata = {"namespace": "team", "labels": {**of, **labels}}
    return one("Deployment", inputs={"metadata": metadata, "spec": {"template": template}})


def test_another_version_of_a_model_is_told() -> None:
    old, new = (
        server("model", ("MODEL_URI", f"models:/diabetes/{version}"), **{"mlflow-stack/model": "diabetes"})
        for version in (3, 4)
    )
    comment = told([old], [new]).comment("dev", "x")
    assert "- Restarts the server of model `diabetes`, pod by pod, without an outage." in comment
    assert "- Model `diabetes`: `models:/diabetes/3` → `models:/diabetes/4`." in comment


def test_another_database_is_told() -> None:
    old = server("tracking", ("MLFLOW_BACKEND_STORE_URI", "sqlite:////mlflow/mlflow.db"))
    new = server("tracking", ("MLFLOW_BACKEND_STORE_URI", "mysql+pymysql://canary@host/mlflow"))
    comment = told([old], [new]).comment("dev", "x")
    assert "- **The tracking server starts on another database (sqlite → mysql): the runs and models" in comment


def stored(where: str, image: str) -> Resource:
    return server("tracking", ("MLFLOW_BACKEND_STORE_URI", where), image=image)


MYSQL, SQLITE = "mysql+pymysql://host/mlflow", "sqlite:////mlflow/mlflow.db"


def test_another_mlflow_on_mysql_wants_a_pause() -> None:
    comment = told([stored(MYSQL, "mlflow:1")], [stored(MYSQL, "mlflow:2")]).comment("dev", "x")
    assert (
        "- **Pause the tracking server before this is deployed, unless both images hold the same MLflow**: "
        "`kubectl scale deployment --namespace=team --selector=app.kubernetes.io/instance=ml,"
        "app.kubernetes.io/component=tracking --replicas=0`. Whether the schemas of the two differ was not measured; "
        "where they do, the schema Job refuses while a server is connected. The deploy starts the server again.\n"
        "- Restarts the tracking server, pod by pod, without an outage where it is not paused.\n"
    ) in comment


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((SQLITE, "mlflow:1"), (SQLITE, "mlflow:2")),
        ((SQLITE, "mlflow:1"), (MYSQL, "mlflow:2")),
        ((MYSQL, "mlflow:1"), (f"{MYSQL}?connect_timeout=9", "mlflow:1")),
    ],
    ids=["on a claim", "from a claim", "the same image"],
)
def test_no_pause_is_wanted_otherwise(old: tuple[str, str], new: tuple[str, str]) -> None:
    comment = told([stored(*old)], [stored(*new)]).comment("dev", "x")
    assert "Restarts the tracking server, pod by pod, without an outage.\n" in comment
    assert "Pause" not in comment


def test_pods_are_counted_as_the_scheduler_does() -> None:
    def server(replicas: int, cpu: str) -> Resource:
        def container(cpu: str, memory: str) -> dict:
            return {"name": cpu, "resources": {"requests": {"cpu": cpu, "memory": memory}}}

        pod = {
            "initContainers": [container("1", "1Gi")],
            "containers": [container(cpu, "512Mi"), container("20m", "1Mi")],
        }
        return one("Deployment", inputs={"spec": {"replicas": replicas, "template": {"spec": pod}}})

    comment = told([server(1, "250m")], [server(3, "1500m")]).comment("dev", "x")
    assert "| before | 1 | 1 | 1Gi |" in comment
    assert "| after | 3 | 4560m | 3Gi |" in comment


def test_drift_names_object_and_field_and_is_silent_where_there_is_none() -> None:
    old, new = (one("Service", inputs=at("spec.type", kind)) for kind in ("ClusterIP", "NodePort"))
    assert words.drift(compare([old], [old]), "dev") == ""
    assert words.drift(compare([old, CLAIM], [new]), "dev") == (
        "### Stack `dev`: 2 objects are no longer as deployed\n\n"
        "- PersistentVolumeClaim `mlflow-data` is gone\n"
        "- Service `mlflow`\n"
        "  - `spec.type` is `NodePort`, and `ClusterIP` in the stack\n"
    )
