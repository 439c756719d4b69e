"""Queries to a cluster through kubectl."""

import json
import subprocess
from pathlib import Path
from typing import cast

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.yamlfile import Tree


class Cluster:
    """Cluster that is queried through kubectl."""

    def __init__(self, kubectl: Path, kubeconfig: Path | None = None, context: str = "") -> None:
        """Use the cluster and user of `kubeconfig` and `context`; both default to kubectl's own."""
        self.command = [str(kubectl)]
        """kubectl, with the options that select the cluster."""
        self.command += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
        self.command += [f"--context={context}"] if context else []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run kubectl and return the result, whatever its exit status."""
        argv = [*self.command, "--request-timeout=10s", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def get(self, *what: str) -> Tree | None:
        """Return the object, or the list of them, as `kubectl get` knows it; None if there is none.

        Raises `UnreadableError` for any other answer, such as a refusal.
        """
        done = self.run("get", *what, "--output=json")
        if done.returncode == 0:
            return cast(Tree, json.loads(done.stdout))
        if "(NotFound)" in done.stderr:
            return None
        raise UnreadableError(done.stderr.strip())

    def serves(self, api: str) -> bool:
        """Return whether the cluster serves an API, such as `route.openshift.io/v1`.

        Raises `UnreadableError` if the answer is unknown.
        """
        done = self.run("get", "--raw", f"/apis/{api}")
        if done.returncode and "(NotFound)" not in done.stderr:
            raise UnreadableError(done.stderr.strip())
        return done.returncode == 0


class UnreadableError(LocalError):
    """The cluster did not answer whether an object exists."""
