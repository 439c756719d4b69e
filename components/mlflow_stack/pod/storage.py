"""Volumes of pods: scratch volumes, ConfigMap files and claims."""

from collections.abc import Mapping
from importlib import resources as package

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack.pod.metadata import name_of

SCRATCH = "/tmp"  # noqa: S108 - the container's own volume
"""Only path outside its volumes that a container may write to: its own emptyDir."""


def scratch(name: str, size: str) -> tuple[VolumeArgsDict, VolumeMountArgsDict]:
    """Return the volume and the mount of a container's ``/tmp``. It is on disk and bounded, because files in memory
    would count against the container's memory."""
    return {"name": name, "empty_dir": {"size_limit": size}}, {"name": name, "mount_path": SCRATCH}


def program(name: str) -> str:
    """Return the text of a program that containers run."""
    return package.files("mlflow_stack").joinpath("programs", name).read_text(encoding="utf-8")


def programs(*names: str) -> dict[str, str]:
    """Return the texts of programs that containers run, by name."""
    return {name: program(name) for name in names}


def plugin(distribution: str, group: str, entry_point: str) -> dict[str, str]:
    """Return, by path, the two files that let Python find an entry point in a folder of its path."""
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
    """Return the volume of a ConfigMap, with a file for each key."""
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
    """Return a volume with text files by path, from an immutable ConfigMap.

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
    """Declare a PersistentVolumeClaim with a fixed name. It is protected because it holds data: `destroy
    --exclude-protected` spares it and its namespace."""
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
            # `pulumi up` would wait forever for a class that binds with the first pod.
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec=spec,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(protect=True)),
    )
