"""State of a pod in one line, from the API server's answers."""

import pytest

from mlflow_stack_cli import follow
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.follow import Blocked, blocked, standing, uncreated

READY = {"ready": True, "state": {"running": {}}}
DONE = {"ready": True, "state": {"terminated": {"exitCode": 0}}}
CREATING = {"ready": False, "state": {"waiting": {"reason": "PodInitializing"}}}


def pod(steps: list[dict], servers: list[dict], **status: object) -> dict:
    named = [
        [{"name": name, **one} for name, one in zip(names, ones, strict=False)]
        for names, ones in ((("fetch", "install"), steps), (("model", "proxy"), servers))
    ]
    limits = [{"name": "model", "resources": {"limits": {"memory": "512Mi"}}}, {"name": "proxy"}]
    return {
        "metadata": {"name": "mlflow-diabetes-1"},
        "spec": {"containers": limits},
        "status": {"initContainerStatuses": named[0], "containerStatuses": named[1], **status},
    }


def crashed(**ended: object) -> dict:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    return {"ready": False, "state": waiting, "lastState": {"terminated": ended}}


@pytest.mark.parametrize(
    ("steps", "servers", "text"),
    [
        ([{"ready": False, "state": {"running": {}}}], [CREATING, CREATING], "fetch: the last line of fetch"),
        ([DONE, {"ready": False, "state": {"running": {}}}], [CREATING], "install: the last line of install"),
        ([DONE, DONE], [{"ready": False, "state": {"running": {}}}, READY], "model: the last line of model"),
        ([DONE], [READY, READY], "ready"),
        ([crashed(exitCode=1, message="trace\nFailed: no answer\n")], [CREATING], "fetch: Failed: no answer"),
        ([DONE], [crashed(exitCode=137, reason="OOMKilled")], "model: needs more memory than its limit, 512Mi"),
        ([DONE], [crashed(exitCode=3)], "model: ended with 3"),
        (
            [{"ready": False, "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}],
            [CREATING],
            "fetch: ErrImagePull no such image",
        ),
        ([], [], "starting"),
    ],
)
def test_a_pod_s_first_container_that_is_not_through_is_what_it_is_at(
    steps: list[dict], servers: list[dict], text: str
) -> None:
    assert standing(pod(steps, servers), lambda _, container: f"the last line of {container}") == text


def test_a_pod_without_a_node_says_why() -> None:
    unscheduled = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient memory"}]
    assert standing(pod([], [], conditions=unscheduled), lambda *_: "") == "0/1 nodes: Insufficient memory"


def waiting(reason: str, message: str = "") -> dict:
    return {"ready": False, "state": {"waiting": {"reason": reason, "message": message}}}


def event(reason: str, message: str, uid: str = "p", kind: str = "Pod", name: str = "a", count: int = 1) -> dict:
    involved = {"kind": kind, "name": name, "uid": uid}
    return {
        "metadata": {"uid": f"{reason}-{uid}"}, "involvedObject": involved,
        "reason": reason, "message": message, "count": count,
    }  # fmt: skip


@pytest.mark.parametrize(
    "reason",
    ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"],
)
def test_a_container_that_cannot_start_is_blocked_in_the_kubelet_s_words(reason: str) -> None:
    assert blocked(pod([waiting(reason, "no such image")], [CREATING]), []) == f"fetch: {reason}: no such image"
    assert blocked(pod([DONE], [waiting(reason, 'secret "keys" not found')]), []) == (
        f'model: {reason}: secret "keys" not found'
    )


def test_a_pod_without_a_node_is_blocked() -> None:
    condition = {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient memory"}
    assert blocked(pod([], [], conditions=[condition]), []) == "Unschedulable: 0/1 nodes: Insufficient memory"


@pytest.mark.parametrize(("mounted", "why"), [("False", 'FailedMount: secret "tls" not found'), ("True", "")])
def test_a_missing_volume_is_told_from_the_events_until_all_are_mounted(mounted: str, why: str) -> None:
    creating = pod([], [CREATING], conditions=[{"type": "PodReadyToStartContainers", "status": mounted}])
    creating["metadata"]["uid"] = "p"
    events = [event("FailedMount", "other", uid="q"), event("FailedMount", 'secret "tls" not found')]
    assert blocked(creating, events) == why


@pytest.mark.parametrize(
    "calm",
    [
        pod([], []),
        pod([DONE], [READY, READY]),
        pod([{"ready": False, "state": {"running": {}}}], [CREATING]),
        pod([DONE], [crashed(exitCode=1)]),
    ],
)
def test_a_pod_that_starts_runs_or_restarts_is_not_blocked(calm: dict) -> None:
    assert blocked(calm, [event("BackOff", "restarting")]) == ""


def test_pods_that_the_cluster_refuses_to_create_are_named_by_their_workload() -> None:
    old = event("FailedCreate", "quota", uid="x", kind="Job", name="schema")
    new = event("FailedCreate", "forbidden: exceeded quota", uid="y", kind="StatefulSet", name="mlflow")
    before = {follow._mark(old)}
    assert uncreated([old, new], before) == {"StatefulSet mlflow": "FailedCreate: forbidden: exceeded quota"}
    assert uncreated([old | {"count": 2}], before) == {"Job schema": "FailedCreate: quota"}


def test_a_reason_is_said_once_and_only_when_it_lasts() -> None:
    stuck = Blocked()
    assert stuck.see({"Pod a": "ErrImagePull: no"}, 0) == []
    assert stuck.see({"Pod a": "ImagePullBackOff: no"}, 19) == []
    assert stuck.see({"Pod a": "ImagePullBackOff: no"}, 20) == ["  Pod a cannot start: ImagePullBackOff: no"]
    assert stuck.see({"Pod a": "ErrImagePull: no"}, 40) == []
    assert stuck.reasons == {"Pod a": "ErrImagePull: no"}
    assert stuck.see({}, 41) == []
    assert stuck.see({"Pod a": "ErrImagePull: no"}, 50) == []
    assert stuck.reasons == {}


def test_a_failure_names_what_could_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(*arguments: object) -> None:
        arguments[-1].reasons = {"Pod a": "schema: ErrImagePull: no such image"}  # type: ignore[attr-defined]

    monkeypatch.setattr(follow, "follow", seen)
    with (
        pytest.raises(LocalError, match=r"^pulumi up failed\.\nPod a could not start: schema: ErrImagePull: no such"),
        follow.following(None, "team", print),  # type: ignore[arg-type]
    ):
        raise LocalError("pulumi up failed.")
