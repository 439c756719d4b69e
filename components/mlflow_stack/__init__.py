"""MLflow on Kubernetes and OpenShift as Pulumi components."""

from mlflow_stack.access.credentials import Credentials, CredentialsArgs, User, Users, UsersArgs
from mlflow_stack.access.proxy import AuthProxy, AuthProxyArgs
from mlflow_stack.addresses import Addresses
from mlflow_stack.artifacts import ArtifactStoreArgs
from mlflow_stack.artifacts.claim import PvcArtifacts, PvcArtifactsArgs, PvcArtifactsInputs
from mlflow_stack.artifacts.s3 import S3Artifacts, S3ArtifactsArgs, S3ArtifactsInputs
from mlflow_stack.backend import BackendStoreArgs
from mlflow_stack.backend.mariadb import MariadbArgs
from mlflow_stack.backend.mysql import MysqlStore, MysqlStoreArgs, MysqlStoreInputs
from mlflow_stack.backend.postgres import PostgresStore, PostgresStoreArgs, PostgresStoreInputs
from mlflow_stack.backend.sql import DumpsArgs
from mlflow_stack.backend.sqlite import PvcStore, PvcStoreArgs, PvcStoreInputs
from mlflow_stack.cluster import Claim, Need, ObjectKind, Reservation
from mlflow_stack.expose import (
    ControllerArgs,
    ExposeArgs,
    ExposureArgs,
    IngressArgs,
    LoadBalancerArgs,
    RouteArgs,
    TlsArgs,
)
from mlflow_stack.expose.exposure import Exposure
from mlflow_stack.pod import (
    AffinityArgs,
    Context,
    DnsConfigArgs,
    DnsOptionArgs,
    EnvFromArgs,
    EnvSourceArgs,
    EnvVarArgs,
    HostAliasArgs,
    KeyRefArgs,
    LabelRequirementArgs,
    LabelSelectorArgs,
    LocalReferenceArgs,
    NodeAffinityArgs,
    NodeRequirementArgs,
    NodeSelectorArgs,
    NodeSelectorTermArgs,
    PodAffinityArgs,
    PodAffinityTermArgs,
    PodArgs,
    PodParts,
    PreferredNodesArgs,
    ResourcesArgs,
    ServiceAccountArgs,
    TolerationArgs,
    TopologySpreadConstraintArgs,
    WeightedPodAffinityTermArgs,
)
from mlflow_stack.pod.network import EgressArgs, PeerArgs
from mlflow_stack.servers.encryption_keys import EncryptionKeys, EncryptionKeysArgs, EncryptionKeysInputs
from mlflow_stack.servers.model import AutoscaleArgs, ModelArgs
from mlflow_stack.servers.model_server import ModelServer, ModelServerArgs
from mlflow_stack.servers.tracking import TrackingArgs, TrackingServer, TrackingServerArgs
from mlflow_stack.spec import MlflowStackArgs, Spec, observers, resolve
from mlflow_stack.stack import MlflowStack
from mlflow_stack.validate import InvalidArgs

__version__ = "0.1.0"

__all__ = [
    "Addresses",
    "AffinityArgs",
    "ArtifactStoreArgs",
    "AuthProxy",
    "AuthProxyArgs",
    "AutoscaleArgs",
    "BackendStoreArgs",
    "Claim",
    "Context",
    "ControllerArgs",
    "Credentials",
    "CredentialsArgs",
    "DnsConfigArgs",
    "DnsOptionArgs",
    "DumpsArgs",
    "EgressArgs",
    "EncryptionKeys",
    "EncryptionKeysArgs",
    "EncryptionKeysInputs",
    "EnvFromArgs",
    "EnvSourceArgs",
    "EnvVarArgs",
    "ExposeArgs",
    "Exposure",
    "ExposureArgs",
    "HostAliasArgs",
    "IngressArgs",
    "InvalidArgs",
    "KeyRefArgs",
    "LabelRequirementArgs",
    "LabelSelectorArgs",
    "LoadBalancerArgs",
    "LocalReferenceArgs",
    "MariadbArgs",
    "MlflowStack",
    "MlflowStackArgs",
    "ModelArgs",
    "ModelServer",
    "ModelServerArgs",
    "MysqlStore",
    "MysqlStoreArgs",
    "MysqlStoreInputs",
    "Need",
    "NodeAffinityArgs",
    "NodeRequirementArgs",
    "NodeSelectorArgs",
    "NodeSelectorTermArgs",
    "ObjectKind",
    "PeerArgs",
    "PodAffinityArgs",
    "PodAffinityTermArgs",
    "PodArgs",
    "PodParts",
    "PostgresStore",
    "PostgresStoreArgs",
    "PostgresStoreInputs",
    "PreferredNodesArgs",
    "PvcArtifacts",
    "PvcArtifactsArgs",
    "PvcArtifactsInputs",
    "PvcStore",
    "PvcStoreArgs",
    "PvcStoreInputs",
    "Reservation",
    "ResourcesArgs",
    "RouteArgs",
    "S3Artifacts",
    "S3ArtifactsArgs",
    "S3ArtifactsInputs",
    "ServiceAccountArgs",
    "Spec",
    "TlsArgs",
    "TolerationArgs",
    "TopologySpreadConstraintArgs",
    "TrackingArgs",
    "TrackingServer",
    "TrackingServerArgs",
    "User",
    "Users",
    "UsersArgs",
    "WeightedPodAffinityTermArgs",
    "__version__",
    "observers",
    "resolve",
]
