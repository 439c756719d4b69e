"""No public address: the servers are reachable in the cluster."""

from mlflow_stack.expose.kind import ExposeKind


class Nothing(ExposeKind):
    """No public address."""

    def peers(self) -> None:
        return None
