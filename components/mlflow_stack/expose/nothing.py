"""No public address: only in-cluster clients reach the servers."""

from mlflow_stack.expose.kind import ExposeKind


class Nothing(ExposeKind):
    """No public address."""

    def peers(self) -> None:
        return None
