"""Artifacts in an S3 bucket, through MLflow by default."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NotRequired, TypedDict, cast, get_args
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import VolumeArgsDict, VolumeMountArgsDict

from mlflow_stack import identity, kinds, pod, validate
from mlflow_stack.cluster import SECRET, Need
from mlflow_stack.kinds import Transfers
from mlflow_stack.pod import LONGEST_NAME, Context, PodParts, network

KEYS = "/etc/mlflow-stack-s3"
"""Where the keys are mounted."""
KEYS_FILE = "credentials"
"""The file, and the Secret's key: an AWS shared credentials file."""
CA = "/etc/mlflow-stack-s3-ca"
PROGRAMS = "/opt/mlflow-stack-s3"
"""Where the bucket's check and MLflow's plugin are mounted."""

Addressing = Literal["auto", "path", "virtual"]

CHECK_DEADLINE = 120
DEFAULT_REGION = "us-east-1"
DEFAULT_MAX_ARTIFACT_SIZE = "1Gi"
"""Smaller than with a claim, because artifacts pass through ``/tmp``, which the pod reserves on its node."""
DOWNLOAD_BYTES = 2**30
"""Artifacts on their way through ``/tmp`` to clients take this much together, or the size of the largest artifact."""


class S3ArtifactsArgs(TypedDict):
    """Artifacts in a bucket that is there already."""

    bucket: pulumi.Input[str]
    """Name of the bucket."""
    prefix: NotRequired[pulumi.Input[str]]
    """Where in the bucket, such as teams/vision. Default: its root."""
    endpoint_url: NotRequired[pulumi.Input[str]]
    """The S3 server's address with scheme, such as https://a3s.fi. Default: AWS."""
    region: NotRequired[pulumi.Input[str]]
    """The bucket's region. Default: us-east-1."""
    addressing: NotRequired[Addressing]
    """path, virtual or auto: where the bucket's name stands in the request. Default: auto."""
    access_key_id: NotRequired[pulumi.Input[str]]
    """Secret: the access key. Default: none; then existing_secret is needed."""
    secret_access_key: NotRequired[pulumi.Input[str]]
    """Secret: the key that belongs to access_key_id. Default: none."""
    existing_secret: NotRequired[pulumi.Input[str]]
    """Name of a Secret that is there already, with an AWS shared credentials file under the key ``credentials``.
    Default: none."""
    ca: NotRequired[pulumi.Input[str]]
    """Certificates, as PEM text, of the authorities that vouch for the endpoint. Default: the image's own."""
    proxied: NotRequired[bool]
    """Whether artifacts pass through MLflow, so that clients need no keys; without, each client talks to S3 with keys
    of its own. Default: true."""
    presigned: NotRequired[bool]
    """Whether MLflow may hand clients signed addresses of the S3 server for large transfers, which then pass no limit
    of the stack. Default: true, unless the endpoint's host is a name or an address that only the cluster reaches, or
    the endpoint is an Output, whose host is not known yet."""
    bucket_check: NotRequired[bool]
    """Whether ``pulumi up`` writes, reads, lists and deletes a small object before the server starts. Default: true."""


@validate.rules(
    S3ArtifactsArgs,
    defaults={"prefix": "", "region": DEFAULT_REGION, "addressing": "auto", "proxied": True, "bucket_check": True},
)
def _rules(fields: validate.Fields) -> None:
    fields.check("bucket", validate.bucket)
    fields.check("prefix", validate.key_prefix)
    fields.check("endpoint_url", validate.endpoint)
    fields.check("region", validate.region)
    fields.check("addressing", validate.one_of(*get_args(Addressing)))
    fields.check("access_key_id", validate.access_key)
    fields.check("secret_access_key", validate.access_key)
    fields.check("existing_secret", validate.subdomain)
    fields.check("ca", validate.certificates)
    for name in ("access_key_id", "secret_access_key"):
        fields.refuse_together(name, "existing_secret", "one creates, the other adopts")
    given = [name for name in ("access_key_id", "secret_access_key") if name in fields]
    if len(given) == 1:
        (other,) = {"access_key_id", "secret_access_key"} - set(given)
        fields.refuse(other, f"the other half of {fields.spell(given[0])}")
    if not given and "existing_secret" not in fields:
        fields.refuse(
            "access_key_id", f"a key with its {fields.spell('secret_access_key')}, or {fields.spell('existing_secret')}"
        )
    if not fields.get("proxied", True) and "presigned" in fields:
        fields.refuse("presigned", "it left out where proxied is false")


class S3ArtifactKind(kinds.ArtifactKind):
    """Artifacts in a bucket."""

    default_max_artifact_size = DEFAULT_MAX_ARTIFACT_SIZE

    def needs(self) -> Sequence[Need]:
        why = "an AWS shared credentials file"
        return self.place.need(SECRET, self.args, "existing_secret", keys=[KEYS_FILE], why=why)

    def scratch_bytes(self, transfers: Transfers) -> int:
        # With `proxied: false` the server fetches files for the UI, and receives none but the UI's own.
        uploads = transfers.uploads * transfers.largest if self.args["proxied"] else 0
        return max(transfers.largest, DOWNLOAD_BYTES) + uploads

    def build(
        self, context: Context, backend: kinds.Store, transfers: Transfers, opts: pulumi.ResourceOptions
    ) -> "S3Artifacts":
        inputs: S3ArtifactsInputs = {
            "context": context,
            "artifacts": cast(S3ArtifactsArgs, self.args),
            "largest": transfers.largest,
            "scratch_bytes": self.scratch_bytes(transfers),
        }
        return S3Artifacts(self.name, inputs, opts)


class S3ArtifactsInputs(TypedDict):
    """Inputs of :class:`S3Artifacts`."""

    context: Context
    """Deployment context."""
    artifacts: S3ArtifactsArgs
    """Bucket and access to it."""
    largest: int
    """Bytes of the largest artifact."""
    scratch_bytes: int
    """Bytes of artifacts that pass through the tracking server's ``/tmp`` at most."""


class S3Artifacts(pulumi.ComponentResource):
    """The artifact store in a bucket. MLflow holds each artifact that passes through it in ``/tmp`` as a whole, so that
    the pod's ``/tmp`` grows with the sizes that are allowed."""

    parts: PodParts
    """What the tracking server's pod needs."""
    presigned: bool
    """Whether the proxy may let MLflow announce transfers by signed addresses."""
    client_env: Mapping[str, pulumi.Input[str]]
    """What clients need beside the tracking URI and a password: nothing, unless they talk to S3 themselves."""

    def __init__(
        self,
        name: str,
        args: S3ArtifactsInputs,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        accepted = validate.resolved("S3Artifacts", name, S3ArtifactsArgs, args["artifacts"], longest=LONGEST_NAME)
        context = args["context"]
        super().__init__("mlflow-stack:index:S3Artifacts", name, {}, opts)
        labels = pod.labels(name, "artifact-store", context.labels)
        namespace, child = context.namespace, pulumi.ResourceOptions(parent=self)
        proxied = accepted["proxied"]
        endpoint = accepted.get("endpoint_url")
        self.presigned = accepted.get("presigned", endpoint is None or _outside(endpoint))
        root = pulumi.Output.all(accepted["bucket"], accepted["prefix"]).apply(
            lambda place: "/".join(["s3:/", *filter(None, place)])
        )
        data = pulumi.Output.all(namespace, accepted["bucket"], accepted["prefix"], endpoint).apply(
            lambda place: identity.bucket(*place)
        )
        guard = identity.guard(name, identity.ARTIFACTS, data, opts)
        connection = _connection(accepted)
        self.client_env = {} if proxied else connection

        keys, wait_for = _keys(self, name, accepted, context.namespace, labels)
        volumes: list[VolumeArgsDict] = [
            {"name": "s3-keys", "secret": {"secret_name": keys, "default_mode": 0o440}},
        ]
        mounts: list[VolumeMountArgsDict] = [{"name": "s3-keys", "mount_path": KEYS, "read_only": True}]
        access = {
            **connection,
            "AWS_SHARED_CREDENTIALS_FILE": f"{KEYS}/{KEYS_FILE}",
            # The node's own credentials are none of the server's.
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if "ca" in accepted:
            volumes.append(
                pod.text_volume(
                    f"{name}-s3-ca", "s3-ca", {"ca.crt": accepted["ca"]}, namespace=namespace, labels=labels, opts=child
                )
            )
            mounts.append({"name": "s3-ca", "mount_path": CA, "read_only": True})
            access["AWS_CA_BUNDLE"] = f"{CA}/ca.crt"
        reach = PodParts(
            env=pod.env(access),
            volumes=[
                *volumes,
                pod.text_volume(
                    f"{name}-s3-scripts", "s3-scripts", programs(), namespace=namespace, labels=labels, opts=child
                ),
            ],
            mounts=[*mounts, {"name": "s3-scripts", "mount_path": PROGRAMS, "read_only": True}],
            egress=[network.to_url("https://s3.amazonaws.com" if endpoint is None else endpoint)],
            wait_for=[*wait_for, guard],
        )
        if accepted["bucket_check"]:
            reach = replace(reach, wait_for=[*reach.wait_for, _check(self, name, root, reach, context)])

        serving = {
            "MLFLOW_SERVE_ARTIFACTS": "true",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "MLFLOW_ARTIFACTS_DESTINATION": root,
            # MLflow 3.18 offers signed addresses only with these; the proxy withholds the offer that 3.17 always makes.
            "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": str(self.presigned).lower(),
            "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": str(self.presigned).lower(),
        }
        if not proxied:
            serving = {"MLFLOW_SERVE_ARTIFACTS": "false", "MLFLOW_DEFAULT_ARTIFACT_ROOT": root}
        spool = {"SPOOL_LARGEST": str(args["largest"]), "SPOOL_BYTES": str(max(args["largest"], DOWNLOAD_BYTES))}
        self.parts = PodParts(
            env=[*reach.env, *pod.env({**serving, **spool})],
            volumes=reach.volumes,
            mounts=reach.mounts,
            egress=reach.egress,
            python_path=[PROGRAMS],
            wait_for=reach.wait_for,
            identity={identity.ARTIFACTS: data},
            scratch_bytes=args["scratch_bytes"],
        )
        self.register_outputs({})


def _connection(args: S3ArtifactsArgs) -> dict[str, pulumi.Input[str]]:
    """Which S3 server and how, for MLflow and for boto3: what server and clients have in common."""
    env: dict[str, pulumi.Input[str]] = {
        "AWS_DEFAULT_REGION": args["region"],
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": args["addressing"],
    }
    if "endpoint_url" in args:
        env["MLFLOW_S3_ENDPOINT_URL"] = args["endpoint_url"]
        # Checksums in trailers, boto3's default, are refused by older servers that are not AWS's.
        env["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
        env["AWS_RESPONSE_CHECKSUM_VALIDATION"] = "when_required"
    return env


def _outside(endpoint: pulumi.Input[str]) -> bool:
    """Return whether clients outside the cluster reach the endpoint, as far as its name tells."""
    if not isinstance(endpoint, str):
        return False
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".svc", ".cluster.local", ".internal", ".local"))


def _keys(
    parent: S3Artifacts, name: str, args: S3ArtifactsArgs, namespace: pulumi.Input[str], labels: Mapping[str, str]
) -> tuple[pulumi.Input[str], list[pulumi.Resource]]:
    """The Secret with the keys, by its name, and what to wait for."""
    if "existing_secret" in args:
        return args["existing_secret"], []
    pair = pulumi.Output.secret([args.get("access_key_id", ""), args.get("secret_access_key", "")])
    secret = k8s.core.v1.Secret(
        f"{name}-s3",
        metadata={"namespace": namespace, "labels": labels},
        immutable=True,
        string_data={
            KEYS_FILE: pair.apply(
                lambda pair: f"[default]\naws_access_key_id = {pair[0]}\naws_secret_access_key = {pair[1]}\n"
            )
        },
        # boto3 reads its keys once: other keys are another Secret, with which the pods are replaced.
        opts=pulumi.ResourceOptions(parent=parent, replace_on_changes=["data", "stringData"]),
    )
    return pod.name_of(secret), [secret]


def programs() -> dict[str, str]:
    """Return the bucket's check and MLflow's plugin, by path."""
    return {
        **pod.programs("s3_check.py", "s3_spool.py"),
        **pod.plugin("mlflow-stack-s3", "mlflow.artifact_repository", "s3 = s3_spool:Repository"),
    }


def _check(
    parent: S3Artifacts, name: str, root: pulumi.Output[str], reach: PodParts, context: Context
) -> pulumi.Resource:
    """Declare a Job that uses the bucket as the server will; ``pulumi up`` prints its last line if it fails."""
    scratch, scratch_mount = pod.scratch("check-tmp", "64Mi")
    check = pod.step(
        "check",
        context.image,
        ("python", f"{PROGRAMS}/s3_check.py"),
        env=[*reach.env, *pod.env({"S3_ROOT": root, "HOME": pod.SCRATCH})],
        resources=pod.resources(
            None, {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "64Mi"}, {"memory": "256Mi"}
        ),
        mounts=[*reach.mounts, scratch_mount],
    )
    parts = PodParts(volumes=[*reach.volumes, scratch], egress=reach.egress, wait_for=reach.wait_for)
    limits = pod.JobLimits(deadline_seconds=CHECK_DEADLINE)
    return pod.job(name, pod.BUCKET_CHECK, context, check, parts, limits, parent)
