"""Identity of the data behind a stack's tracking server, read from its resources."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlflow_stack import artifacts, backend, pod
from mlflow_stack.identity import ARTIFACTS, KEEPER, RECORDS
from mlflow_stack.kinds import Unguarded
from mlflow_stack_cli.previews.compare import Resource

WORKLOADS: Final = frozenset({"Deployment", "StatefulSet"})


def _keepers(one: Resource) -> Mapping[str, str]:
    return (one.inputs.get("keepers") or {}) if one.kind == "RandomId" else {}


def guarded(one: Resource) -> str:
    """Return the identity that a guard holds; empty for any other resource."""
    return _keepers(one).get(KEEPER) or ""


def identities(resources: Sequence[Resource]) -> dict[str, str]:
    """Return the identity of the data by its purpose."""
    handovers = (_keepers(resource) for resource in resources)
    found = {
        purpose: keepers[purpose] for keepers in handovers for purpose in (RECORDS, ARTIFACTS) if keepers.get(purpose)
    }
    return found or _of_the_pod(tracking(resources))


def tracking(resources: Sequence[Resource]) -> Resource | None:
    """Return the tracking server's workload."""
    return next(
        (resource for resource in resources if resource.kind in WORKLOADS and resource.component == pod.TRACKING), None
    )


def secret_of(resources: Sequence[Resource], volume: str) -> str:
    """Return the Secret in a volume of the tracking server's pod; empty if there is none."""
    server = tracking(resources)
    volumes: list[Mapping[str, Any]] = server.pod.get("volumes", []) if server else []
    return next((each["secret"]["secretName"] for each in volumes if each["name"] == volume), "")


def has_schema_job(resources: Sequence[Resource]) -> bool:
    """Return whether a Job creates or upgrades the database's schema while tracking servers may run."""
    return any(resource.kind == "Job" and resource.component == pod.SCHEMA for resource in resources)


def mlflow(server: Resource | None) -> Mapping[str, Any]:
    """Return the tracking server's own container."""
    containers: list[Mapping[str, Any]] = server.pod.get("containers", []) if server else []
    none: Mapping[str, Any] = {}
    return next((container for container in containers if container["name"] == "mlflow"), none)


def variables(server: Resource | None) -> Mapping[str, str]:
    """Return the environment of the tracking server's own container."""
    env: list[Mapping[str, str]] = mlflow(server).get("env", [])
    return {variable["name"]: variable.get("value", "") for variable in env}


def address(server: Resource | None) -> str:
    """Return the tracking server's address for clients; empty if there is none."""
    env = variables(server)
    return env.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "").split(",")[0] + env.get("MLFLOW_STATIC_PREFIX", "")


def _of_the_pod(server: Resource | None) -> dict[str, str]:
    """Return the identities for a stack that was deployed before guards existed."""
    env = variables(server)
    if server is None or not env:
        return {}
    volumes: list[Mapping[str, Any]] = server.pod.get("volumes", [])
    running = Unguarded(
        server.inputs["metadata"].get("namespace", ""),
        env,
        {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in volumes
            if "persistentVolumeClaim" in volume
        },
    )
    found: dict[str, str] = {}
    for kind in backend.KINDS.values():
        if records := kind.identity_of(running):
            found |= {RECORDS: records} | ({ARTIFACTS: records} if kind.volume else {})
    for kind in artifacts.KINDS.values():
        if stored := kind.identity_of(running):
            found[ARTIFACTS] = stored
    return found
