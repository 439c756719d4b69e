"""Artifact store in an S3 bucket, accessed through MLflow by default."""

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
"""Mount path of the access keys."""
KEYS_FILE = "credentials"
"""Name of the AWS shared credentials file, and of its key in the Secret."""
CA = "/etc/mlflow-stack-s3-ca"
PROGRAMS = "/opt/mlflow-stack-s3"
"""Mount path of the bucket check and of MLflow's plugin."""

Addressing = Literal["auto", "path", "virtual"]
validate.enum(Addressing, "Addressing", "Place of the bucket's name in a request.")

CHECK_DEADLINE = 120
AWS = "https://s3.amazonaws.com"
DEFAULT_REGION = "us-east-1"
DEFAULT_MAX_ARTIFACT_SIZE = "1Gi"
"""Smaller than on a claim, because artifacts pass through ``/tmp``, which the pod reserves on its node."""
DOWNLOAD_BYTES = 2**30
"""Bytes in ``/tmp`` for all downloads together, or the size of the largest artifact if that is more."""


class S3ArtifactsArgs(TypedDict):
    """Artifacts in an existing bucket."""

    bucket: pulumi.Input[str]
    """Name of the bucket."""
    prefix: NotRequired[pulumi.Input[str]]
    """Key prefix in the bucket, such as teams/vision. Default: its root."""
    endpoint_url: NotRequired[pulumi.Input[str]]
    """URL of the S3 server, such as https://a3s.fi. Default: AWS."""
    region: NotRequired[pulumi.Input[str]]
    """Region of the bucket. Default: us-east-1."""
    addressing: NotRequired[Addressing]
    """Place of the bucket's name in requests: path, virtual (in the host name) or auto. Default: auto."""
    access_key_id: NotRequired[pulumi.Input[str]]
    """Secret: access key ID. Default: none; then existing_secret is required."""
    secret_access_key: NotRequired[pulumi.Input[str]]
    """Secret: secret access key for access_key_id. Default: none."""
    existing_secret: NotRequired[pulumi.Input[str]]
    """Name of an existing Secret with an AWS shared credentials file under the key ``credentials``. Default: none."""
    ca: NotRequired[pulumi.Input[str]]
    """CA certificates for the endpoint, as PEM text. Default: the image's own."""
    proxied: NotRequired[bool]
    """Artifacts pass through MLflow, so clients need no S3 keys. If false, each client connects to S3 with its own
    keys. Default: true."""
    presigned: NotRequired[bool]
    """Allow MLflow to give clients presigned URLs of the S3 server for large transfers. These transfers bypass the
    stack's limits. Default: true, unless the endpoint's host is a name or an address that only the cluster reaches, or
    the endpoint is an Output, whose host is not known yet."""
    bucket_check: NotRequired[bool]
    """Make ``pulumi up`` write, read, list and delete a small object before the tracking server starts.
    Default: true."""


@validate.rules(
    S3ArtifactsArgs,
    defaults={"prefix": "", "region": DEFAULT_REGION, "addressing": "auto", "proxied": True, "bucket_check": True},
    secrets=["access_key_id", "secret_access_key"],
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
        fields.refuse_together(name, "existing_secret")
    given = [name for name in ("access_key_id", "secret_access_key") if name in fields.stated]
    if len(given) == 1:
        (other,) = {"access_key_id", "secret_access_key"} - set(given)
        fields.require(other, f"{fields.spell(given[0])} is set")
    if not given and "existing_secret" not in fields.stated:
        fields.require("access_key_id", f"{fields.spell('existing_secret')} is not set")
    if not fields.resolved("proxied") and "presigned" in fields:
        fields.forbid("presigned", "proxied is false")


class S3ArtifactKind(kinds.ArtifactKind):
    """Artifacts in an S3 bucket."""

    default_max_artifact_size = DEFAULT_MAX_ARTIFACT_SIZE

    @classmethod
    def identity_of(cls, server: kinds.Unguarded) -> str:
        roots = (server.env.get(name, "") for name in ("MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_DEFAULT_ARTIFACT_ROOT"))
        root = next((urlsplit(root) for root in roots if root.startswith("s3://")), None)
        if root is None:
            return ""
        return identity.bucket(server.namespace, root.netloc, root.path, server.env.get("MLFLOW_S3_ENDPOINT_URL"))

    def needs(self) -> Sequence[Need]:
        why = "an AWS shared credentials file"
        return self.place.need(SECRET, self.args, "existing_secret", keys=[KEYS_FILE], why=why)

    def scratch_bytes(self, transfers: Transfers) -> int:
        # With `proxied: false` the tracking server fetches files for the UI, and receives only the UI's own uploads.
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
    """Bucket and the access to it."""
    largest: int
    """Size of the largest artifact in bytes."""
    scratch_bytes: int
    """Most bytes of artifacts in the tracking server's ``/tmp`` at once."""


class S3Artifacts(pulumi.ComponentResource):
    """Artifact store in an S3 bucket. MLflow keeps each artifact that passes through it in ``/tmp`` as a whole, so the
    pod's ``/tmp`` grows with the size limits."""

    parts: PodParts
    """Parts of the tracking server's pod."""
    presigned: bool
    """True if the proxy lets MLflow offer transfers by presigned URLs."""
    client_env: Mapping[str, pulumi.Input[str]]
    """Variables that clients need in addition to the tracking URI and a password: none, unless they connect to S3
    themselves."""

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
            # The tracking server must not use the node's own credentials.
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
            egress=[network.to_url(AWS if endpoint is None else endpoint)],
            wait_for=[*wait_for, guard],
        )
        if accepted["bucket_check"]:
            reach = replace(reach, wait_for=[*reach.wait_for, _check(self, name, root, reach, context)])

        serving = {
            "MLFLOW_SERVE_ARTIFACTS": "true",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "MLFLOW_ARTIFACTS_DESTINATION": root,
            # MLflow 3.18 offers presigned URLs only with these. 3.17 always does, and the proxy removes the offer.
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
    """Return the S3 server's settings for MLflow and boto3, which the tracking server and clients share."""
    env: dict[str, pulumi.Input[str]] = {
        "AWS_DEFAULT_REGION": args["region"],
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": args["addressing"],
    }
    if "endpoint_url" in args:
        env["MLFLOW_S3_ENDPOINT_URL"] = args["endpoint_url"]
        # Older servers other than AWS reject checksums in trailers, which are boto3's default.
        env["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
        env["AWS_RESPONSE_CHECKSUM_VALIDATION"] = "when_required"
    return env


def _outside(endpoint: pulumi.Input[str]) -> bool:
    """Return whether the endpoint's name suggests that clients outside the cluster reach it."""
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
    """Return the name of the Secret with the keys, and the resources to wait for."""
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
        # boto3 reads its keys once: changed keys make a new Secret, which replaces the pods.
        opts=pulumi.ResourceOptions(parent=parent, replace_on_changes=["data", "stringData"]),
    )
    return pod.name_of(secret), [secret]


def programs() -> dict[str, str]:
    """Return the bucket check and MLflow's plugin, by path."""
    return {
        **pod.programs("s3_check.py", "s3_spool.py"),
        **pod.plugin("mlflow-stack-s3", "mlflow.artifact_repository", "s3 = s3_spool:Repository"),
    }


def _check(
    parent: S3Artifacts, name: str, root: pulumi.Output[str], reach: PodParts, context: Context
) -> pulumi.Resource:
    """Declare a Job that accesses the bucket as the tracking server does. ``pulumi up`` prints its last line if it
    fails."""
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
