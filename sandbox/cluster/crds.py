"""Custom resource definitions, from the Go modules of their authors."""

import json
from pathlib import Path
from typing import Final

from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.programs import run
from mlflow_stack_cli.progress import Progress
from sandbox.builds import go, go_environment, locked

CERT_MANAGER: Final = "github.com/cert-manager/cert-manager"
"""Certificate, Issuer and the like; used by a local service."""
GATEWAY_API: Final = "sigs.k8s.io/gateway-api"
"""Gateway, HTTPRoute and the like, of the standard channel."""
ROUTE: Final = "github.com/openshift/api"
"""OpenShift's Route; no controller here acts on it."""

_MODULE: Final = Path(__file__).parent / "modules" / "crds"
_FILES: Final = {
    CERT_MANAGER: "deploy/crds/*.yaml",
    GATEWAY_API: "config/crd/standard/*.yaml",
    ROUTE: "route/v1/zz_generated.crd-manifests/routes.crd.yaml",
}


def definitions(progress: Progress, module: str) -> str:
    """Return the definitions of one module, as YAML, in the version of the committed go.mod and go.sum.

    Raises `LocalError` if the module is not available.
    """
    version = next(line.split()[1] for line in (_MODULE / "go.mod").read_text().splitlines() if module in line)
    kept = cache_dir() / "crds" / f"{module.replace('/', '-')}-{version}.yaml"
    with locked(kept):
        if not kept.exists():
            with progress.step(f"definitions of {module}", 5):
                told = run(
                    [str(go()), "mod", "download", "-json", module],
                    what=f"downloading {module}",
                    next_step="check that the Go module proxy (`go env GOPROXY`) answers, then run this again",
                    cwd=_MODULE,
                    env=go_environment(),
                )
            files = sorted(Path(json.loads(told)["Dir"]).glob(_FILES[module]))
            fresh = kept.with_suffix(".new")
            fresh.write_text("---\n".join(file.read_text() for file in files))
            fresh.replace(kept)
    return kept.read_text()
