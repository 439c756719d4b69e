"""Volumes of pods: scratch space, texts and claims."""

from collections.abc import Mapping
from importlib import resources as package

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack.pod.metadata import name_of

SCRATCH = "/tmp"  # noqa: S108 - a volume of the container's own
"""The one path a container may write beside its volumes: an emptyDir of its own."""


def scratch(name: str, size: str) -> tuple[VolumeArgsDict, VolumeMountArgsDict]:
    """A container's own ``/tmp``: on disk and bounded, as memory-backed files would count against its memory."""
    return {"name": name, "empty_dir": {"size_limit": size}}, {"name": name, "mount_path": SCRATCH}


def program(name: str) -> str:
    """The text of a program that containers run."""
    return package.files("mlflow_stack").joinpath("programs", name).read_text(encoding="utf-8")


def programs(*names: str) -> dict[str, str]:
    """Return the texts of programs that containers run, by name."""
    return {name: program(name) for name in names}


def plugin(distribution: str, group: str, entry_point: str) -> dict[str, str]:
    """Return the two files, by path, by which Python finds an entry point in a folder of its path."""
    folder = f"{distribution.replace('-', '_')}-1.dist-info"
    return {
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n",
        f"{folder}/entry_points.txt": f"[{group}]\n{entry_point}\n",
    }


def config_map(
    name: str,
    data: Mapping[str, pulumi.Input[str]],
    *,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> pulumi.Output[str]:
    """Declare an immutable ConfigMap, and return its name."""
    made = k8s.core.v1.ConfigMap(
        name, metadata={"namespace": namespace, "labels": labels}, immutable=True, data=data, opts=opts
    )
    return name_of(made)


def config_volume(volume: str, config_map: pulumi.Input[str]) -> VolumeArgsDict:
    """Return the volume of a ConfigMap's texts, named after their keys."""
    return {"name": volume, "config_map": {"name": config_map, "default_mode": 0o444}}


def text_volume(
    name: str,
    volume: str,
    texts: Mapping[str, pulumi.Input[str]],
    *,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> VolumeArgsDict:
    """Return a volume of texts by their paths, in an immutable ConfigMap.

    :param volume: Name of the volume in the pod.
    """
    keys = {path: path.replace("/", "_") for path in texts}
    data = {keys[path]: text for path, text in texts.items()}
    return {
        "name": volume,
        "config_map": {
            "name": config_map(name, data, namespace=namespace, labels=labels, opts=opts),
            "default_mode": 0o444,
            "items": [{"key": key, "path": path} for path, key in keys.items()],
        },
    }


def claim(
    name: str,
    *,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    size: str,
    storage_class: pulumi.Input[str] | None,
    access_mode: str = "ReadWriteOnce",
    opts: pulumi.ResourceOptions,
) -> k8s.core.v1.PersistentVolumeClaim:
    """A claim of that very name. It holds data: `destroy --exclude-protected` leaves it, and the namespace it is in."""
    spec: k8s.core.v1.PersistentVolumeClaimSpecArgsDict = {
        "access_modes": [access_mode],
        "resources": {"requests": {"storage": size}},
    }
    if storage_class is not None:
        spec["storage_class_name"] = storage_class
    return k8s.core.v1.PersistentVolumeClaim(
        name,
        metadata={
            "name": name,
            "namespace": namespace,
            "labels": labels,
            # A class that binds when the first pod comes would be awaited for ever.
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec=spec,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(protect=True)),
    )
