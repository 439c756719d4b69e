"""Where a server is found: every name, origin and URL that follows from its Service, namespace and public address."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Addresses:
    """One server's names, from which the security lists of MLflow and nginx follow."""

    service: str
    """The Service's name."""
    namespace: str
    """The Service's namespace."""
    host: str | None = None
    """The public host name or address; None where there is none."""
    port: int | None = None
    """The public port, where it is not the scheme's own."""
    scheme: str = "http"
    """The public scheme."""

    @property
    def internal_hosts(self) -> list[str]:
        """The Service's names that resolve in the cluster, shortest first."""
        name = f"{self.service}.{self.namespace}"
        return [self.service, name, f"{name}.svc", f"{name}.svc.cluster.local"]

    @property
    def public_hosts(self) -> list[str]:
        """The names that the public port answers to."""
        return [] if self.host is None else [self.host]

    @property
    def allowed_hosts(self) -> list[str]:
        """MLflow's Host allow-list: the list replaces MLflow's own and matches the port as text, so each name stands
        twice. No pod ranges: MLflow's patterns are textual, and ``10.*`` would admit ``10.example.com``."""
        hosts = [*self.public_hosts, *self.internal_hosts, "localhost", "127.0.0.1"]
        return [form for host in hosts for form in (host, f"{host}:*")]

    @property
    def url(self) -> str:
        """What people open: the public address, or without one the Service's."""
        if self.host is None:
            return self.internal_url
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")

    @property
    def internal_url(self) -> str:
        """The tracking URI of callers in the cluster."""
        return f"http://{self.service}.{self.namespace}.svc"

    @property
    def origins(self) -> list[str]:
        """The CORS origins: MLflow answers 403 to a browser's POST from any other, its own included."""
        return [self.url]
