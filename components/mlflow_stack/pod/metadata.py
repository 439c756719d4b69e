"""Labels, selectors and names of objects."""

from collections.abc import Mapping
from typing import Protocol

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import validate

LONGEST_NAME = 40
"""Longest name of a component: 63 characters less the suffixes that Kubernetes appends to a StatefulSet's pods, and the
engine to those."""
TRACKING = "tracking"
"""Component label of the tracking server."""
MODEL = "model"
"""Component label of the model servers."""
DATABASE = "database"
"""Component label of a deployed database server."""
SCHEMA = "schema"
"""Component label of the schema Job, and name of the init container of a store without one."""
BUCKET_CHECK = "bucket-check"
"""Component label of the bucket check."""
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"
MODEL_LABEL = "mlflow-stack/model"
"""Label of a model server's objects: the model's name."""
NAME_LABEL = "app.kubernetes.io/name"
PART_OF_LABEL = "app.kubernetes.io/part-of"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
OWN_LABELS = (NAME_LABEL, INSTANCE_LABEL, COMPONENT_LABEL, PART_OF_LABEL, MANAGED_BY_LABEL, MODEL_LABEL)
"""Labels that the stack sets."""


def labels(instance: str, component: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the labels of an object. The additional labels cannot override the stack's own."""
    return {
        **(extra or {}),
        **selector(instance, component),
        PART_OF_LABEL: "mlflow",
        MANAGED_BY_LABEL: "pulumi",
    }


def selector(instance: str, component: str) -> dict[str, str]:
    """Return the labels that select a pod. They have no version, because a selector cannot be changed in place."""
    return {
        NAME_LABEL: "mlflow",
        INSTANCE_LABEL: instance,
        COMPONENT_LABEL: component,
    }


def label_rules(fields: validate.Fields) -> None:
    """Check the labels that a user adds to objects."""
    fields.check_keys("labels", validate.label_key)
    fields.check_each("labels", validate.label_value)


class Named(Protocol):
    """Object with metadata."""

    @property
    def metadata(self) -> pulumi.Output[k8s.meta.v1.outputs.ObjectMeta]:
        """Metadata of the object, with its name."""
        ...


def name_of(made: Named) -> pulumi.Output[str]:
    """Return the object's name in the cluster."""
    return made.metadata.apply(lambda metadata: metadata.name or "")
