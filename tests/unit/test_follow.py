"""What a pod is at, in a line, from what the API server says of it."""

import pytest

from local.follow import standing

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
