"""Addresses of a server: host names, origins and URLs that follow from its Service, namespace and public address."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Addresses:
    """Names of one server. The host and origin allow-lists of MLflow and nginx follow from them."""

    service: str
    """Name of the Service."""
    namespace: str
    """Namespace of the Service."""
    host: str | None = None
    """Public host name or address; None without a public address."""
    port: int | None = None
    """Public port, if it is not the scheme's default."""
    scheme: str = "http"
    """Scheme of the public address."""
    path: str = ""
    """Path prefix of every URL, which is MLflow's static prefix: empty, or with a leading and no trailing slash."""
    routes_models: bool = True
    """True if the public address leads to the model servers by path. A public address with a port does not."""

    @property
    def internal_hosts(self) -> list[str]:
        """Names of the Service that resolve in the cluster, shortest first."""
        name = f"{self.service}.{self.namespace}"
        return [self.service, name, f"{name}.svc", f"{name}.svc.cluster.local"]

    @property
    def public_hosts(self) -> list[str]:
        """Host names that the public port accepts."""
        return [] if self.host is None else [self.host]

    @property
    def allowed_hosts(self) -> list[str]:
        """Host allow-list of MLflow. It replaces MLflow's default and compares the port as text, so each name is listed
        without and with a port. It has no pod address ranges: MLflow's patterns are textual, and ``10.*`` would accept
        ``10.example.com``."""
        hosts = [*self.public_hosts, *self.internal_hosts, "localhost", "127.0.0.1"]
        return [form for host in hosts for form in (host, f"{host}:*")]

    @property
    def origin(self) -> str:
        """Origin header of a browser: the public address, or the Service's address if there is none."""
        if self.host is None:
            return _service_origin(self.service, self.namespace)
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")

    @property
    def origins(self) -> list[str]:
        """Allowed CORS origins. MLflow answers 403 to a browser's POST from any other origin, even its own."""
        return [self.origin]

    @property
    def url(self) -> str:
        """URL for users."""
        return self.origin + self.path

    @property
    def internal_url(self) -> str:
        """Tracking URI of in-cluster clients."""
        return _service_origin(self.service, self.namespace) + self.path

    def serving_path(self, model: str) -> str:
        """Return the path prefix of a model server."""
        return f"{self.path}/serving/{model}"

    def serving_url(self, model: str, node_port: int | None = None) -> str:
        """Return the URL of a model of the stack with these addresses, without the trailing ``/invocations``.

        ``node_port`` is the model's own port, if the public address does not lead to the model servers.
        """
        by_path = self.routes_models and self.port is None
        if self.host is None or (node_port is None and not by_path):
            return self.internal_serving_url(model)
        port = "" if node_port is None else f":{node_port}"
        return f"{self.scheme}://{self.host}{port}{self.serving_path(model)}"

    def internal_serving_url(self, model: str) -> str:
        """Return the in-cluster URL of a model of the stack with these addresses."""
        return _service_origin(f"{self.service}-{model}", self.namespace) + self.serving_path(model)


def _service_origin(service: str, namespace: str) -> str:
    return f"http://{service}.{namespace}.svc"
