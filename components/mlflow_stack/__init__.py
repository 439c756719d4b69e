"""MLflow on Kubernetes and OpenShift as Pulumi components."""

from mlflow_stack.addresses import Addresses
from mlflow_stack.cluster import Need, ObjectKind, Reservation
from mlflow_stack.credentials import Credentials, CredentialsArgs, User, Users, UsersArgs
from mlflow_stack.exposure import ControllerArgs, ExposeArgs, Exposure, ExposureArgs, TlsArgs
from mlflow_stack.keys import EncryptionKeys, EncryptionKeysArgs, EncryptionKeysPlacementArgs
from mlflow_stack.models import AutoscaleArgs, ModelArgs, ModelServer, ModelServerArgs
from mlflow_stack.mysql import DumpsArgs, MariadbArgs, MysqlPlacementArgs, MysqlStore, MysqlStoreArgs
from mlflow_stack.network import EgressArgs, PeerArgs
from mlflow_stack.proxy import AuthProxy, AuthProxyArgs
from mlflow_stack.pvc import PvcArtifacts, PvcArtifactsArgs, PvcPlacementArgs, PvcStore, PvcStoreArgs
from mlflow_stack.s3 import S3Artifacts, S3ArtifactsArgs, S3PlacementArgs
from mlflow_stack.stack import (
    ArtifactStoreArgs,
    BackendStoreArgs,
    MlflowStack,
    MlflowStackArgs,
    accept,
    needs,
    reservations,
)
from mlflow_stack.tracking import TrackingServer, TrackingServerArgs
from mlflow_stack.validate import InvalidArgs
from mlflow_stack.workload import EnvSourceArgs, EnvVarArgs, KeyRefArgs, PodParts, ResourcesArgs

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
