"""Comment on a change: refusals, acknowledgements, and its length limit."""

from dataclasses import replace

import pytest
from unit.test_compare import PREFIX, at, one

from mlflow_stack_cli.previews import words
from mlflow_stack_cli.previews.compare import Resource, compare
from mlflow_stack_cli.previews.words import LIMIT, Words

CLAIM = one("PersistentVolumeClaim", "mlflow-data", protect=True)
USERS = f"{PREFIX}mlflow-stack:index:Users::mlflow"
SALT = one("RandomString", "mlflow-salt-bob", parent=USERS)


def password(rotation: int) -> Resource:
    return one("RandomPassword", "mlflow-password-bob", parent=USERS, inputs=at("keepers.rotation", str(rotation)))


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
        f"**{old.kind} `{old.name}` is deleted with its data.** "
        f"To acknowledge this, add `{old.name}` to `release` in the stack file."
    ]
    released = told([old, SALT], [SALT], old.name)
    assert released.refused == []
    assert (
        f"- 🔴 {old.kind} `{old.name}` is orphaned, as listed in `release`: the object and its data stay in the cluster"
        in released.comment("dev", "x")
    )


def test_data_that_is_replaced_is_refused_also_when_release_names_it() -> None:
    old, new = (one("PersistentVolumeClaim", protect=True, inputs=at("spec.storageClassName", name)) for name in "ab")
    assert told([old], [new]).refused == told([old], [new], "mlflow").refused
    assert (
        told([old], [new])
        .refused[0]
        .startswith("**PersistentVolumeClaim `mlflow` is replaced, and its data is lost.**")
    )


def test_refuses_a_claim_that_shrinks_by_its_key() -> None:
    def of(size: str) -> Resource:
        return one("PersistentVolumeClaim", "mlflow-data", inputs=at("spec.resources.requests.storage", size))

    changed = compare([of("2Gi")], [of("1536Mi")])
    shrunk = Words(changed, ["mlflow-data"], {"mlflow-data": "backendStore.pvc.size"})
    assert shrunk.refused == [
        "**PersistentVolumeClaim `mlflow-data` cannot shrink (2Gi → 1536Mi): Kubernetes refuses it.** "
        "Set `backendStore.pvc.size` to 2Gi or more."
    ]
    assert "is resized in place" not in shrunk.comment("dev", "x")
    assert told([of("2Gi")], [of("2048Mi")]).refused == []
    assert told([of("1536Mi")], [of("2Gi")]).refused == []


def test_says_at_the_end_which_lines_are_refused() -> None:
    assert told([CLAIM], [CLAIM]).verdict == ""
    assert told([CLAIM, SALT, password(2)], [SALT]).verdict == (
        "2 red lines are not acknowledged:\n"
        "  - PersistentVolumeClaim `mlflow-data` is deleted with its data. "
        "To acknowledge this, add `mlflow-data` to `release` in the stack file.\n"
        "  - The password of `bob` is replaced. "
        "To acknowledge this, add `mlflow-password-bob` to `release` in the stack file.\n"
        "Next: follow each line, or revert its change."
    )


def test_protection_that_goes_is_refused() -> None:
    bare = one("PersistentVolumeClaim", "mlflow-data")
    assert (
        told([CLAIM], [bare]).refused[0].startswith("**PersistentVolumeClaim `mlflow-data` is no longer protected.**")
    )
    assert told([CLAIM], [bare], "mlflow-data").refused == []


def test_a_raised_rotation_is_its_own_acknowledgement() -> None:
    raised = told([SALT, password(0)], [SALT, password(1)])
    assert raised.refused == []
    line = "- 🔴 `bob` gets a new password (rotation 0 → 1): its clients need the new one."
    assert line in raised.comment("dev", "x")


@pytest.mark.parametrize("new", [[SALT, password(1)], [SALT]], ids=["lowered", "given"])
def test_a_password_that_changes_otherwise_is_refused(new: list[Resource]) -> None:
    old = [SALT, password(2)]
    assert told(old, new).refused[0].startswith("**The password of `bob`")
    assert told(old, new, "mlflow-password-bob").refused == []


def test_a_user_who_goes_takes_the_password_along() -> None:
    gone = told([SALT, password(0), CLAIM], [CLAIM])
    assert gone.refused == []
    assert "- Revokes access for user `bob` within two minutes, without a restart." in gone.comment("d", "x")


def test_a_generated_password_of_no_user_does_not_go_unseen() -> None:
    old = one("RandomPassword", "mlflow-database-root")
    gone = told([old, CLAIM], [CLAIM])
    assert gone.refused == []
    line = (
        "- 🔴 RandomPassword `mlflow-database-root` is removed from the stack, and its generated password is deleted.\n"
    )
    assert line in gone.comment("dev", "x")


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


def guard(purpose: str, held: str) -> Resource:
    return one("RandomId", f"mlflow-{purpose}-identity", inputs=at("keepers.identity", held), protect=True)


def stores(**identities: str) -> list[Resource]:
    """Return the guards of a stack's stores and the handover."""
    guards = [guard(purpose, held) for purpose, held in identities.items()]
    return [*guards, one("RandomId", "mlflow-identity", inputs={"keepers": identities})]


LEFT, TAKEN = "mysql://old.example.com/mlflow", "mysql://new.example.com/mlflow"
STAYS = f"The runs and registered models recorded so far stay in `{LEFT}`; the tracking server starts on `{TAKEN}`"


def test_refuses_other_data_until_release_lists_what_is_left() -> None:
    old, new = (stores(records=held, artifacts="s3://same") for held in (LEFT, TAKEN))
    wanted = f"**{STAYS}.** To acknowledge this, add `{LEFT}` to `release` in the stack file."
    for names in ([], ["mlflow-records-identity"], ["mysql://other.example.com/mlflow"]):
        assert told(old, new, *names).refused == [wanted]
    acknowledged = told(old, new, LEFT)
    assert acknowledged.refused == []
    assert f"- 🔴 {STAYS}, as listed in `release`.\n" in acknowledged.comment("dev", "x")


def test_refuses_other_artifacts_on_their_own() -> None:
    old, new = (stores(records=LEFT, artifacts=held) for held in ("s3://old", "s3://new?endpoint=http://e"))
    assert told(old, new).refused == [
        "**The artifacts stored so far stay in `s3://old`; the tracking server serves those in "
        "`s3://new?endpoint=http://e`.** To acknowledge this, add `s3://old` to `release` in the stack file."
    ]


def test_refuses_an_acknowledgement_that_is_kept_for_the_next_change() -> None:
    wanted = (
        f"**`release` lists `{TAKEN}`, which the stack uses.** "
        "Remove it: otherwise the next change counts as acknowledged."
    )
    here = stores(records=TAKEN)
    assert told(here, here, TAKEN).refused == [wanted]
    assert told(stores(records=LEFT), here, LEFT, TAKEN).refused == [wanted]
    assert told(here, here, LEFT).refused == []


def test_refuses_the_end_of_a_guard_until_release_lists_its_data() -> None:
    """As with another `name` of the stack, which has different guards of the same data."""
    old, handover = stores(records=LEFT)
    new = replace(old, urn=f"{old.urn}2", name="other-records-identity")
    assert told([old, handover], [new, handover]).refused == [
        "**RandomId `mlflow-records-identity` is removed from the stack.** "
        f"To acknowledge this, add `{LEFT}` to `release` in the stack file."
    ]
    assert told([old, handover], [new, handover], LEFT).refused == []


def on(uri: str, claim: str = "", kind: str = "Deployment", **env: str) -> Resource:
    """Tracking server from before guards existed."""
    found = server("tracking", ("MLFLOW_BACKEND_STORE_URI", uri), *env.items())
    pod = found.inputs["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}] if claim else []
    return replace(found, type=f"kubernetes:apps/v1:{kind}", urn=found.urn.replace("Deployment", kind))


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        (on("mysql+pymysql://a.b:3307/ml?x=1"), on("mysql+pymysql://c.d:3306/ml"), ["mysql://a.b:3307/ml"]),
        (on("mysql+pymysql://db:3306/ml"), on("mysql+pymysql://db:3306/other"), ["mysql://db.team/ml"]),
        (on("sqlite:////mlflow/mlflow.db", "c"), on("mysql+pymysql://c.d:3306/ml"), ["pvc://team/c", "pvc://team/c"]),
        (
            on("mysql+pymysql://a.b:3306/ml", MLFLOW_ARTIFACTS_DESTINATION="s3://bin/p"),
            on("mysql+pymysql://a.b:3306/ml", MLFLOW_DEFAULT_ARTIFACT_ROOT="s3://bin"),
            ["s3://bin/p"],
        ),
        (
            on(
                "mysql+pymysql://a.b:3306/ml",
                MLFLOW_ARTIFACTS_DESTINATION="s3://bin",
                MLFLOW_S3_ENDPOINT_URL="http://a.b",
            ),
            on("mysql+pymysql://a.b:3306/ml", MLFLOW_ARTIFACTS_DESTINATION="s3://bin"),
            ["s3://bin?endpoint=http://a.b"],
        ),
    ],
)
def test_reads_the_identity_of_a_stack_from_before_it_had_guards(old: Resource, new: Resource, left: list[str]) -> None:
    found = told([old], [new])
    assert [line.split("`")[1] for line in found.refused] == left
    assert "- **Pause the tracking server before this is deployed**: `kubectl scale deployment" in found.comment(
        "d", "x"
    )
    assert told([old], [new], *left).refused == []


def test_a_single_pod_from_before_guards_needs_no_pause() -> None:
    old, new = (on("sqlite:////mlflow/mlflow.db", claim, kind="StatefulSet") for claim in "ab")
    comment = told([old], [new]).comment("dev", "x")
    assert "Pause" not in comment
    assert "- Restarts the tracking server, with a short outage.\n" in comment


def test_says_that_a_server_goes_with_its_data() -> None:
    old = [guard("records", LEFT), replace(stored(MYSQL, "mlflow:1"), replace_with=("urn::handover",))]
    new = [
        guard("records", TAKEN),
        old[1],
        handover := Resource("urn::handover", "random:index:RandomId", "mlflow-identity"),
    ]
    old.append(replace(handover, inputs={"keepers": {"records": LEFT}}))
    new[2] = replace(handover, inputs={"keepers": {"records": TAKEN}})
    comment = told(old, new).comment("dev", "x")
    assert (
        "- Replaces the tracking server: an outage, because the old pods stop before the new ones start.\n" in comment
    )
    assert "- Deployment `mlflow`\n" in comment.partition("#### Replaced")[2]
    assert "Pause" not in comment


def stored(where: str, image: str) -> Resource:
    return server("tracking", ("MLFLOW_BACKEND_STORE_URI", where), image=image)


JOB = one("Job", "mlflow-schema", inputs=at("metadata.labels", {"app.kubernetes.io/component": "schema"}))
MYSQL, SQLITE = "mysql+pymysql://host/mlflow", "sqlite:////mlflow/mlflow.db"


def test_another_mlflow_on_mysql_wants_a_pause() -> None:
    comment = told([stored(MYSQL, "mlflow:1"), JOB], [stored(MYSQL, "mlflow:2"), JOB]).comment("dev", "x")
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
        ([stored(SQLITE, "mlflow:1")], [stored(SQLITE, "mlflow:2")]),
        ([stored(MYSQL, "mlflow:1"), JOB], [stored(f"{MYSQL}?connect_timeout=9", "mlflow:1"), JOB]),
    ],
    ids=["on a claim", "the same image"],
)
def test_no_pause_is_wanted_otherwise(old: list[Resource], new: list[Resource]) -> None:
    comment = told(old, new).comment("dev", "x")
    assert "Restarts the tracking server, pod by pod, without an outage.\n" in comment
    assert "Pause" not in comment


def container(**amounts: str) -> dict:
    resources = {"requests": {name.replace("_", "-"): amount for name, amount in amounts.items()}}
    return {"name": "server", "resources": resources}


def reserving(kind: str, pod: dict, name: str = "mlflow", **spec: object) -> Resource:
    of = {"metadata": {"name": f"{name}-1"}, "spec": {"template": {"spec": pod}, **spec}}
    return replace(one(kind, name, inputs=of), type=f"kubernetes:apps/v1:{kind}")


def claim(size: str, name: str = "mlflow-data") -> Resource:
    return one("PersistentVolumeClaim", name, inputs=at("spec.resources.requests.storage", size))


def table(old: list[Resource], new: list[Resource]) -> list[str]:
    return [line for line in told(old, new).comment("dev", "x").splitlines() if line.startswith("| ")]


def test_pods_are_counted_as_the_scheduler_does() -> None:
    def server(replicas: int, cpu: str) -> Resource:
        pod = {
            "initContainers": [container(cpu="1", memory="1Gi", ephemeral_storage="2Gi")],
            "containers": [
                container(cpu=cpu, memory="512Mi", ephemeral_storage="3500Mi"),
                container(cpu="20m", memory="1Mi", ephemeral_storage="84Mi"),
            ],
        }
        return reserving("Deployment", pod, replicas=replicas)

    assert table([server(1, "250m")], [server(3, "1500m")]) == [
        "| reserved | pods | CPU | memory | ephemeral storage | claims |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| before | 1 | 1 | 1Gi | 3584Mi | 0 |",
        "| after | 3 | 4560m | 3Gi | 10752Mi | 0 |",
    ]


def test_a_step_that_fetches_more_than_its_server_holds_counts() -> None:
    pod = {"initContainers": [container(ephemeral_storage="40Gi")], "containers": [container(ephemeral_storage="2Gi")]}
    assert table([], [reserving("Deployment", pod)])[-1] == "| after | 1 | 0 | 0 | 40Gi | 0 |"


def test_a_limit_without_a_request_counts_as_the_request() -> None:
    """As the API server fills it in, and as the preflight check counts it."""
    limited = {"name": "server", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}
    pod = {"containers": [limited, container(memory="1Gi")], "initContainers": [{"name": "step"}]}
    assert table([], [reserving("Deployment", pod)])[-1] == "| after | 1 | 500m | 2Gi | 0 | 0 |"


def test_claims_count_by_themselves_and_for_each_pod_of_a_template() -> None:
    template = {"spec": {"resources": {"requests": {"storage": "5Gi"}}}}

    def database(replicas: int) -> Resource:
        return reserving("StatefulSet", {}, replicas=replicas, volumeClaimTemplates=[template, template])

    assert table([claim("20Gi"), database(1)], [claim("50Gi"), claim("1536Mi", "more"), database(3)])[2:] == [
        "| before | 1 | 0 | 0 | 0 | 30Gi |",
        "| after | 3 | 0 | 0 | 0 | 83456Mi |",
    ]


def test_a_size_is_exact_in_its_shortest_unit() -> None:
    sizes = ("1", "1536Mi", "0.5Gi", "50G", "1e3", "3Ti", "1000Mi")
    assert [table([claim("2Ki")], [claim(size)])[-1].split(" | ")[-1] for size in sizes] == [
        *("1 |", "1536Mi |", "512Mi |", "50G |", "1k |", "3Ti |", "1000Mi |")
    ]


def test_autoscaled_servers_count_by_their_least_number() -> None:
    server = reserving("Deployment", {"containers": [container(cpu="100m", memory="1Gi")]}, "model")

    def scaled(least: int) -> Resource:
        spec = {"scaleTargetRef": {"name": "model-1"}, "minReplicas": least, "maxReplicas": 9}
        return one("HorizontalPodAutoscaler", "model", inputs={"spec": spec})

    assert table([server, scaled(1)], [server, scaled(4)])[2:] == [
        "| before | 1 | 100m | 1Gi | 0 | 0 |",
        "| after | 4 | 400m | 4Gi | 0 | 0 |",
    ]


def test_drift_names_object_and_field_and_is_silent_where_there_is_none() -> None:
    old, new = (one("Service", inputs=at("spec.type", kind)) for kind in ("ClusterIP", "NodePort"))
    assert words.drift(compare([old], [old]), "dev") == ""
    assert words.drift(compare([old, CLAIM], [new]), "dev") == (
        "### Stack `dev`: 2 objects are no longer as deployed\n\n"
        "- PersistentVolumeClaim `mlflow-data` is gone\n"
        "- Service `mlflow`\n"
        "  - `spec.type` is `NodePort`, and `ClusterIP` in the stack\n"
    )
