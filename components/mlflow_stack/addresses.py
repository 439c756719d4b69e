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
    path: str = ""
    """The path that everything is under, MLflow's static prefix: empty, or with a leading and no trailing slash."""

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
    def origin(self) -> str:
        """What a browser sends as Origin: the public address, or without one the Service's."""
        if self.host is None:
            return _service_origin(self.service, self.namespace)
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")

    @property
    def origins(self) -> list[str]:
        """The CORS origins: MLflow answers 403 to a browser's POST from any other, its own included."""
        return [self.origin]

    @property
    def url(self) -> str:
        """What people open."""
        return self.origin + self.path

    @property
    def internal_url(self) -> str:
        """The tracking URI of callers in the cluster."""
        return _service_origin(self.service, self.namespace) + self.path

    def serving_path(self, model: str) -> str:
        """The path that a model's server answers under."""
        return f"{self.path}/serving/{model}"

    def serving_url(self, model: str, node_port: int | None = None) -> str:
        """Where a model of the stack that these addresses belong to answers, without the trailing ``/invocations``.

        ``node_port`` is the model's own, where the stack is reached by one."""
        if self.host is None or (self.port is not None and node_port is None):
            return self.internal_serving_url(model)
        port = "" if node_port is None else f":{node_port}"
        return f"{self.scheme}://{self.host}{port}{self.serving_path(model)}"

    def internal_serving_url(self, model: str) -> str:
        """Where callers in the cluster reach a model of the stack that these addresses belong to."""
        return _service_origin(f"{self.service}-{model}", self.namespace) + self.serving_path(model)


def _service_origin(service: str, namespace: str) -> str:
    return f"http://{service}.{namespace}.svc"
