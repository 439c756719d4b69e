"""Volume of a model's pod, and the steps that fetch the model and install its libraries into it."""

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import ContainerArgsDict, EnvVarArgsDict, VolumeArgsDict, VolumeMountArgsDict

from mlflow_stack import pod, validate
from mlflow_stack.artifacts import s3
from mlflow_stack.pod import PodParts
from mlflow_stack.servers import model as models
from mlflow_stack.servers.model import COMMON_ENV, SCRATCH_SIZE, ModelArgs

VOLUME = "/model"
"""Mount path of the model's volume."""
SCRIPTS = "/opt/mlflow-stack"
REGISTRY = "/etc/mlflow-stack-registry"
"""Mount path of the registry's user and password in the fetch container."""
PROGRAMS = ("model_volume.py", "fetch_model.py", "install_libraries.py", "prediction_size.py", "model_server.py")


def programs(
    name: str, namespace: pulumi.Input[str], labels: Mapping[str, str], opts: pulumi.ResourceOptions
) -> pulumi.Output[str]:
    """Declare the ConfigMap with the programs of a model's containers, and return its name. Several models can share
    it."""
    made = k8s.core.v1.ConfigMap(
        f"{name}-programs",
        metadata={"namespace": namespace, "labels": labels},
        immutable=True,
        data={program: pod.program(program) for program in PROGRAMS},
        opts=opts,
    )
    return pod.name_of(made)


def parts(
    model: ModelArgs,
    *,
    image: pulumi.Input[str],
    scripts: pulumi.Input[str],
    tracking_uri: pulumi.Input[str],
    existing_secret: pulumi.Input[str] | None,
) -> PodParts:
    """Return the model's volume and the steps that fill it.

    :param scripts: Name of the ConfigMap with the programs.
    :param existing_secret: Name of the Secret with the registry's user, if it needs a password.
    """
    size = model["size"]
    scratch, _ = pod.scratch("tmp", SCRATCH_SIZE)
    step_scratch, step_scratch_mount = pod.scratch("step-tmp", SCRATCH_SIZE)
    volumes: list[VolumeArgsDict] = [
        {"name": "model", "empty_dir": {"size_limit": size}},
        {"name": "programs", "config_map": {"name": scripts, "default_mode": 0o444}},
        scratch,
        step_scratch,
    ]
    mounts: list[VolumeMountArgsDict] = [
        {"name": "model", "mount_path": VOLUME},
        {"name": "programs", "mount_path": SCRIPTS, "read_only": True},
        step_scratch_mount,
    ]

    def step(
        name: str, program: str, env: list[EnvVarArgsDict], more: Sequence[VolumeMountArgsDict]
    ) -> ContainerArgsDict:
        return {
            "name": name,
            "image": image,
            "command": ["python", f"{SCRIPTS}/{program}"],
            "args": [],
            "working_dir": pod.SCRATCH,
            "env": [*pod.env({"VOLUME": VOLUME, **COMMON_ENV}), *env],
            "resources": models.step_resources(size),
            "security_context": pod.container_security(),
            "termination_message_policy": "FallbackToLogsOnError",
            "volume_mounts": [*mounts, *more],
        }

    secrets: list[VolumeMountArgsDict] = []
    fetch: dict[str, pulumi.Input[str]] = {
        "MODEL_URI": models.pinned(model.get("uri", ""), model.get("version")),
        "VOLUME_BYTES": str(validate.bytes_of(size)),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "CREDENTIALS": REGISTRY,
        # The step itself retries and logs the reason.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        # Downloads must pass through the tracking server, because the pod cannot connect to a bucket behind it.
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    if existing_secret is not None:
        volumes.append({"name": "registry", "secret": {"secret_name": existing_secret, "default_mode": 0o440}})
        secrets.append({"name": "registry", "mount_path": REGISTRY, "read_only": True})
    if model.get("uri", "").startswith("s3://"):
        fetch |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": model["s3_region"]}
        if "s3_endpoint_url" in model:
            fetch["MLFLOW_S3_ENDPOINT_URL"] = model["s3_endpoint_url"]
        if "s3_existing_secret" in model:
            keys = model["s3_existing_secret"]
            volumes.append({"name": "s3-keys", "secret": {"secret_name": keys, "default_mode": 0o440}})
            secrets.append({"name": "s3-keys", "mount_path": s3.KEYS, "read_only": True})
            fetch["AWS_SHARED_CREDENTIALS_FILE"] = f"{s3.KEYS}/{s3.KEYS_FILE}"
    steps = [step("fetch", "fetch_model.py", pod.env(fetch), secrets)]
    if model["environment"] == "install":
        index = {"INDEX_URL": model["index_url"]} if "index_url" in model else {}
        steps.append(step("install", "install_libraries.py", pod.env(index), []))
    return PodParts(init_containers=steps, volumes=volumes)
