"""Services that a real stack finds in its environment, as pods on the local node, for stacks whose local overlay lists
them, and for tests."""

import secrets
import subprocess
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final

import yaml

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.programs import failure
from mlflow_stack_cli.progress import Progress
from sandbox import authority
from sandbox.builds import go_binary
from sandbox.cluster import crds
from sandbox.cluster.programs import ensure, program_image
from sandbox.images import Image
from sandbox.paths import Instance

NAMESPACE: Final = "local-services"
VERSITYGW: Final = "1.8.0"
# The last release whose module has the controller. The definitions are newer and compatible with it.
_CERT_MANAGER: Final = "1.11.5"
_FOLDER: Final = Path(__file__).parent
_PROJECT: Final = "mlflow-stack"
_SECONDS: Final = 120


@dataclass(frozen=True)
class Service:
    """Service in the namespace `local-services`, under its own name."""

    name: str
    """Name of the service in overlays."""
    program: Callable[[Progress], Image]
    """Builder of its image."""
    texts: Callable[[Instance, Mapping[str, Any]], dict[str, str]]
    """Variables of its manifest, by the instance and the stack's configuration."""
    definitions: Sequence[str] = ()
    """The modules of `sandbox.cluster.crds` that define what its manifest has beside Kubernetes' own. Default: none."""


def s3_server(progress: Progress) -> Path:
    """Build Versity's S3 gateway for a folder, one static program. Raises `LocalError` if the build fails."""
    package = "github.com/versity/versitygw/cmd/versitygw"
    return go_binary(progress, "versitygw", _FOLDER / "modules" / "versitygw", package, estimate=140)


def _s3(instance: Instance, config: Mapping[str, Any]) -> dict[str, str]:
    """Return a bucket for the stack, and its keys in the stack's namespace, as an administrator would create them."""
    file = instance.root / "s3.yaml"
    if not file.exists():
        fresh = file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(yaml.safe_dump({"access": secrets.token_hex(10), "secret": secrets.token_urlsafe(30)}))
        fresh.replace(file)
    store = config[f"{_PROJECT}:artifactStore"]["s3"]
    return yaml.safe_load(file.read_text()) | {
        "bucket": store["bucket"],
        "client_secret": store["existingSecret"],
        "client_namespace": config[f"{_PROJECT}:existingNamespace"],
    }


def _cert_manager(progress: Progress) -> Image:
    package = "github.com/cert-manager/cert-manager/cmd/controller"
    program = go_binary(progress, "cert-manager", _FOLDER / "modules" / "cert-manager", package, estimate=270)
    return program_image("cert-manager", _CERT_MANAGER, program)


def _authority(instance: Instance, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the certificate and key that the issuer signs with."""
    own = authority.issuer(instance)
    return {"certificate": _base64(own.chain), "key": _base64(own.key)}


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


S3: Final = Service(
    name="s3",
    program=lambda progress: program_image("versitygw", VERSITYGW, s3_server(progress)),
    texts=_s3,
)
CERT_MANAGER: Final = Service(
    name="cert-manager", program=_cert_manager, texts=_authority, definitions=[crds.CERT_MANAGER]
)
_KNOWN: Final = {service.name: service for service in (S3, CERT_MANAGER)}


def named(names: Sequence[str]) -> list[Service]:
    """Return the services of these names. Raises `LocalError` for an unknown one."""
    for name in names:
        if name not in _KNOWN:
            raise LocalError(f"there is no local service {name!r}. Next: choose from {', '.join(sorted(_KNOWN))}.")
    return [_KNOWN[name] for name in names]


def start(
    progress: Progress,
    kubectl: Sequence[str],
    instance: Instance,
    config: Mapping[str, Any],
    services: Sequence[Service],
) -> None:
    """Deploy the services, whose images the node has, and return when they answer. `kubectl`: the command.

    Raises `LocalError` if a service does not become ready.
    """
    for service in services:
        text = Template((_FOLDER / "manifests" / f"{service.name}.yaml").read_text()).substitute(
            service.texts(instance, config),
            namespace=NAMESPACE,
            image=service.program(progress).reference,
            shell=ensure(progress).shell.reference,
        )
        defined = "---\n".join(crds.definitions(progress, module) for module in service.definitions)
        with progress.step(f"local service {service.name}", 5):
            apply = [*kubectl, "apply", "--server-side", "--force-conflicts", "--field-manager=mlflow-stack"]
            if defined:
                _run(service.name, [*apply, "--filename=-"], defined)
                established = ["wait", "--for=condition=Established", f"--timeout={_SECONDS}s", "--filename=-"]
                _run(service.name, [*kubectl, *established], defined)
            _run(service.name, [*apply, "--filename=-"], text)
            wait = ["rollout", "status", f"deployment/{service.name}", f"--namespace={NAMESPACE}"]
            _run(service.name, [*kubectl, *wait, f"--timeout={_SECONDS}s"])


def _run(name: str, argv: Sequence[str], text: str = "") -> None:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalError(failure(f"starting the local service {name}", done.stderr.splitlines(), "`make status`"))
