"""Pods of the stack: parts, labels, security settings, sizes, variables and volumes."""

from mlflow_stack.pod.metadata import Named, label_rules, labels, name_of, selector
from mlflow_stack.pod.parts import Egress, Ingress, PodParts
from mlflow_stack.pod.security import PLATFORMS, USER_ID, Platform, container_security
from mlflow_stack.pod.sizing import STEP_CPU, Floor, ResourcesArgs, resource_rules, resources
from mlflow_stack.pod.storage import SCRATCH, claim, plugin, program, programs, scratch, text_volume
from mlflow_stack.pod.template import annotations, disruption_budget, drained, service_account, spec, spread
from mlflow_stack.pod.variables import EnvSourceArgs, EnvVarArgs, KeyRefArgs, env, env_given, env_needs, env_rules

__all__ = [
    "PLATFORMS",
    "SCRATCH",
    "STEP_CPU",
    "USER_ID",
    "Egress",
    "EnvSourceArgs",
    "EnvVarArgs",
    "Floor",
    "Ingress",
    "KeyRefArgs",
    "Named",
    "Platform",
    "PodParts",
    "ResourcesArgs",
    "annotations",
    "claim",
    "container_security",
    "disruption_budget",
    "drained",
    "env",
    "env_given",
    "env_needs",
    "env_rules",
    "label_rules",
    "labels",
    "name_of",
    "plugin",
    "program",
    "programs",
    "resource_rules",
    "resources",
    "scratch",
    "selector",
    "service_account",
    "spec",
    "spread",
    "text_volume",
]
