"""MLflow on Kubernetes and OpenShift as Pulumi components."""

from mlflow_stack.access.credentials import Credentials, CredentialsArgs, User, Users, UsersArgs
from mlflow_stack.access.proxy import AuthProxy, AuthProxyArgs
from mlflow_stack.addresses import Addresses
from mlflow_stack.artifacts.claim import PvcArtifacts, PvcArtifactsArgs
from mlflow_stack.artifacts.s3 import S3Artifacts, S3ArtifactsArgs, S3PlacementArgs
from mlflow_stack.backend.mysql import DumpsArgs, MariadbArgs, MysqlPlacementArgs, MysqlStore, MysqlStoreArgs
from mlflow_stack.backend.sqlite import PvcStore, PvcStoreArgs
from mlflow_stack.cluster import Need, ObjectKind, Reservation
from mlflow_stack.exposure import ControllerArgs, ExposeArgs, Exposure, ExposureArgs, TlsArgs
from mlflow_stack.pod import EnvSourceArgs, EnvVarArgs, KeyRefArgs, PodParts, ResourcesArgs
from mlflow_stack.pod.claims import PvcPlacementArgs
from mlflow_stack.pod.network import EgressArgs, PeerArgs
from mlflow_stack.servers.encryption_keys import EncryptionKeys, EncryptionKeysArgs, EncryptionKeysPlacementArgs
from mlflow_stack.servers.model import AutoscaleArgs, ModelArgs, ModelServer, ModelServerArgs
from mlflow_stack.servers.tracking import TrackingServer, TrackingServerArgs
from mlflow_stack.stack import (
    ArtifactStoreArgs,
    BackendStoreArgs,
    MlflowStack,
    MlflowStackArgs,
    accept,
    needs,
    reservations,
)
from mlflow_stack.validate import InvalidArgs

__version__ = "0.1.0"

__all__ = [
    "Addresses",
    "ArtifactStoreArgs",
    "AuthProxy",
    "AuthProxyArgs",
    "AutoscaleArgs",
    "BackendStoreArgs",
    "ControllerArgs",
    "Credentials",
    "CredentialsArgs",
    "DumpsArgs",
    "EgressArgs",
    "EncryptionKeys",
    "EncryptionKeysArgs",
    "EncryptionKeysPlacementArgs",
    "EnvSourceArgs",
    "EnvVarArgs",
    "ExposeArgs",
    "Exposure",
    "ExposureArgs",
    "InvalidArgs",
    "KeyRefArgs",
    "MariadbArgs",
    "MlflowStack",
    "MlflowStackArgs",
    "ModelArgs",
    "ModelServer",
    "ModelServerArgs",
    "MysqlPlacementArgs",
    "MysqlStore",
    "MysqlStoreArgs",
    "Need",
    "ObjectKind",
    "PeerArgs",
    "PodParts",
    "PvcArtifacts",
    "PvcArtifactsArgs",
    "PvcPlacementArgs",
    "PvcStore",
    "PvcStoreArgs",
    "Reservation",
    "ResourcesArgs",
    "S3Artifacts",
    "S3ArtifactsArgs",
    "S3PlacementArgs",
    "TlsArgs",
    "TrackingServer",
    "TrackingServerArgs",
    "User",
    "Users",
    "UsersArgs",
    "__version__",
    "accept",
    "needs",
    "reservations",
]
