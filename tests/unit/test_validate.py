"""Invalid input, one row each, with the exact message. tests/program shows that the real engine prints it."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spelling import accepted

from mlflow_stack import InvalidArgs, MlflowStackArgs, validate

CA = (Path(__file__).parents[1] / "components" / "ca.pem").read_text()
CLAIM = {"backend_store": {"pvc": {}}}
SIZE = "must be a size above zero and below 8Ei as a Kubernetes quantity, such as 10Gi"
NUMBER = "must be a whole number"
USER = "must be 1 to 64 letters, digits and . _ @ + -, starting with a letter or a digit"
LOCATION = "must be a URI such as s3://bucket/prefix, or a folder's path such as file:///mlflow/mlruns"
IMAGE = "must be an image with a tag other than latest or a digest, such as registry.example/mlflow:v3.17.2-full"
PASSWORD = "must be 12 to 1024 printable ASCII characters (value not shown)"
NAME = (
    "must consist of lower-case letters, digits and '-', start with a letter and have at most 40 characters, "
    "because the names derived from it have at most 63"
)


EXPOSE_KEYS = (
    "Known keys: allowFrom, annotations, className, controller, gateway, host, ingress, kind, loadBalancer, nodePort, "
    "path, route, tls, trustedProxies."
)
HOST = "must be a lower-case host name without scheme, port or path, such as mlflow.example.com"


def exposed(**fields: object) -> dict:
    return {"expose": {"ingress": {}, "host": "mlflow.example.com", **fields}}


def refusals(args: dict, name: str = "mlflow") -> list[str]:
    with pytest.raises(InvalidArgs) as refused:
        accepted(args, name)
    _, *problems = str(refused.value).splitlines()
    return [problem.strip() for problem in problems]


def s3(**fields: object) -> dict:
    """Return a bucket with its keys and these fields; fields set to None are omitted."""
    keys = {"access_key_id": "key", "secret_access_key": "secret"}
    bucket = {"bucket": "team", **keys, **fields}
    return {"artifact_store": {"s3": {name: value for name, value in bucket.items() if value is not None}}}


def pvc(**fields: object) -> dict:
    return {"backend_store": {"pvc": fields}}


def postgres(**fields: object) -> dict:
    return {"backend_store": {"postgres": {"host": "db.example.com", "password": "p@ss/w:ö r#d%&?", **fields}}}


def mysql(**fields: object) -> dict:
    return {"backend_store": {"mysql": {"host": "db.example.com", "password": "p@ss/w:ö r#d%&?", **fields}}}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"users": ["ann.lee@x.org"], "passwords": {"ann": {"lee@x": {"org": "hunter2hunter2"}}}},
            "passwords.ann: must be text (value not shown). Quote a name with dots: --path "
            "'passwords[\"ann.lee@x.org\"]'",
        ),
        (
            {"users": ["ann.lee@x.org"], "rotation": {"ann": {"lee@x": {"org": 1}}}},
            "rotation.ann: must be a whole number (got a map). Quote a name with dots: --path "
            "'rotation[\"ann.lee@x.org\"]'",
        ),
        (pvc(size="10 Gi"), f'backendStore.pvc.size: {SIZE} (got "10 Gi")'),
        (pvc(size="-1Gi"), f'backendStore.pvc.size: {SIZE} (got "-1Gi")'),
        (pvc(size="Infinity"), f'backendStore.pvc.size: {SIZE} (got "Infinity")'),
        (pvc(size="0"), f'backendStore.pvc.size: {SIZE} (got "0")'),
        (pvc(size="９Gi"), f'backendStore.pvc.size: {SIZE} (got "\\uff19Gi")'),
        (pvc(size=10), "backendStore.pvc.size: must be text (got 10)"),
        (
            pvc(storage_class="Fast"),
            "backendStore.pvc.storageClass: must be an object name: lower-case letters, digits, '-' and '.', at most "
            '253 characters (got "Fast")',
        ),
        (
            pvc(access_mode="ReadOnlyMany"),
            "backendStore.pvc.accessMode: must be one of ReadWriteOnce, ReadWriteOncePod, ReadWriteMany (got "
            '"ReadOnlyMany")',
        ),
        (
            {"existing_namespace": "team", **pvc(size="1Gi", existing_claim="old")},
            "backendStore.pvc.size: must not be set when existingClaim is set",
        ),
        (
            pvc(existing_claim="old"),
            "existingNamespace: required, because backendStore.pvc.existingClaim must already exist in the namespace",
        ),
        (
            pvc(file_store="../etc"),
            "backendStore.pvc.fileStore: must be a folder's path relative to the claim's root, such as mlruns (got "
            '"../etc")',
        ),
        (pvc(sise="1Gi"), "backendStore.pvc.sise: unknown key. Did you mean size?"),
        ({"users": ["a:b"]}, f'users[0]: {USER} (got "a:b")'),
        ({"users": [""]}, f'users[0]: {USER} (got "")'),
        ({"users": ["eve\r\nadmin"]}, f'users[0]: {USER} (got "eve\\r\\nadmin")'),
        ({"users": ["ann", "ann"]}, 'users: must not have a user name twice (got "ann")'),
        ({"users": []}, "users: must have at least one user name (got an empty list)"),
        (
            {"users": ["models"]},
            'users[0]: must not be models, which is the stack\'s own machine user (got "models")',
        ),
        ({"users": "ann"}, 'users: must be a list (got "ann")'),
        ({"users": ["ann"], "passwords": {"ann": "short"}}, f"passwords.ann: {PASSWORD}"),
        ({"users": ["ann"], "passwords": {"ann": "pässword-pässword"}}, f"passwords.ann: {PASSWORD}"),
        ({"users": ["ann"], "passwords": {"ann": "line\nbreak-line-break"}}, f"passwords.ann: {PASSWORD}"),
        (
            {"users": ["ann"], "passwords": {"bob": "correct horse"}},
            'passwords: each key must be a name in users (got "bob")',
        ),
        (
            {"users": ["ann"], "passwords": {"ann": "correct horse"}, "rotation": {"ann": 1}},
            'rotation: each key must be a user with a generated password (got "ann"). '
            "Change this user's password in passwords instead.",
        ),
        ({"replicas": 2}, "replicas: must be 1, because SQLite on a claim allows one writer (got 2)"),
        ({"replicas": 0}, "replicas: must be 1, because SQLite on a claim allows one writer (got 0)"),
        ({"replicas": 1.5}, "replicas: must be a whole number (got 1.5)"),
        ({"replicas": True}, "replicas: must be a whole number (got true)"),
        ({"image": "mlflow"}, f'image: {IMAGE} (got "mlflow")'),
        ({"image": "ghcr.io/mlflow/mlflow:latest"}, f'image: {IMAGE} (got "ghcr.io/mlflow/mlflow:latest")'),
        ({"proxy_image": "a:5000/nginx"}, f'proxyImage: {IMAGE} (got "a:5000/nginx")'),
        ({"platform": "nomad"}, 'platform: must be one of kubernetes, openshift (got "nomad")'),
        ({"max_artifact_size": "1m"}, f'maxArtifactSize: {SIZE} (got "1m")'),
        (
            {"max_concurrent_uploads": 0},
            "maxConcurrentUploads: must be a whole number from 1 to 1000 (got 0)",
        ),
        (
            {"artifact_locations": ["s3://a/../b"]},
            f'artifactLocations[0]: {LOCATION}; this one has a part ".." (got "s3://a/../b")',
        ),
        ({"artifact_locations": ["runs:/a/b"]}, f'artifactLocations[0]: {LOCATION} (got "runs:/a/b")'),
        *(
            (
                {"artifact_locations": ["s3://fine", path]},
                f"artifactLocations[1]: {LOCATION}; a path must be below /mlflow or /mlflow-artifacts, "
                f'where claims are mounted (got "{path}")',
            )
            for path in ("/mlflow", "file:///etc", "/tmp/x", "file:mlruns", "mlruns")
        ),
        (
            {"rollout_timeout": "soon"},
            "rolloutTimeout: must be a duration of at most 168h in whole seconds, minutes or hours, such as 10m (got "
            '"soon")',
        ),
        (
            {"namespace": "a", "existing_namespace": "b"},
            "namespace: must not be set when existingNamespace is set",
        ),
        (
            {"expose": {"host": "mlflow.example.com"}},
            "expose.ingress: required, because none of route, gateway, loadBalancer and nodePort is set",
        ),
        (
            {"expose": {"host": "https://mlflow.example.com", "node_port": 30500}},
            "expose.host: must be a lower-case host name without scheme, port or path, such as mlflow.example.com "
            '(got "https://mlflow.example.com")',
        ),
        ({"expose": {"external_ips": []}}, f"expose.externalIps: unknown key. {EXPOSE_KEYS}"),
        *[
            (exposed(host=host), f'expose.host: {HOST} (got "{host}")')
            for host in (
                "https://mlflow.example.com",
                "mlflow.example.com:8443",
                "mlflow.example.com/ui",
                "Mlflow.example.com",
                "ml_flow.example.com",
                "*.example.com",
                "a" * 64 + ".example.com",
                ".".join(["a" * 61] * 4) + ".abcdef",  # 254 characters
                "mlflow.example.com.",
                "mlflow.example.com;",
                "",
            )
        ],
        (
            exposed(host="192.0.2.7"),
            'expose.host: must be a host name and not an address when ingress is set (got "192.0.2.7")',
        ),
        *[
            (
                exposed(path=path),
                "expose.path: must be a path with a leading and without a trailing slash, such as /mlflow "
                f'(got "{path}")',
            )
            for path in ("mlflow", "/mlflow/", "/", "", "//", "/a//b", "/../x", "/-/ready", "/a b", "/a;b", "/a{b}")
        ],
        (
            exposed(allow_from=["192.0.2.1/24"], trusted_proxies=["10.0.0.0/8"]),
            'expose.allowFrom[0]: must be in canonical form, here 192.0.2.0/24 (got "192.0.2.1/24")',
        ),
        *[
            (
                exposed(trusted_proxies=[text]),
                f'expose.trustedProxies[0]: must be an address range, such as 192.0.2.0/24 (got "{text}")',
            )
            for text in ("1", "192.0.2.7", "192.0.2.0/33", "10.0.0.0/255.0.0.0", "255.255.255.255/32", "all", "")
        ],
        (
            exposed(allow_from=[], trusted_proxies=["10.0.0.0/8"]),
            "expose.allowFrom: must have at least one range (got an empty list). "
            "Remove the key to allow all addresses.",
        ),
        (
            exposed(allow_from=["192.0.2.0/24"], trusted_proxies=[]),
            "expose.trustedProxies: must have at least one range (got an empty list)",
        ),
        *[
            (
                exposed(trusted_proxies=ranges),
                "expose.trustedProxies: must cover only the controllers, because others could claim any address "
                f'by X-Forwarded-For (got "{wide}")',
            )
            for ranges, wide in (
                (["0.0.0.0/0"], "0.0.0.0/0"),
                (["::/0"], "::/0"),
                (["0.0.0.0/1", "128.0.0.0/1"], "0.0.0.0/0"),
                (["10.0.0.0/8", "2000::/3"], "2000::/3"),
                ([f"{n}.0.0.0/8" for n in range(4, 8)], "4.0.0.0/6"),
                ([f"{n}.0.0.0/7" for n in range(0, 256, 4)], "0.0.0.0/7 and 63 more"),
                (["10.0.0.0/8", "64.0.0.0/7", "68.0.0.0/32"], "64.0.0.0/7 and 1 more"),
                (["fc00::/7", "2000::/7", "2400::/8"], "2000::/7 and 1 more"),
            )
        ],
        (exposed(trusted_proxies=[1]), "expose.trustedProxies[0]: must be text (got 1)"),
        (
            exposed(trusted_proxies=["2001:DB8::/32"]),
            'expose.trustedProxies[0]: must be in canonical form, here 2001:db8::/32 (got "2001:DB8::/32")',
        ),
        *[
            (
                {"expose": {**where, "allow_from": ["192.0.2.0/24"]}},
                "expose.trustedProxies: required, because allowFrom is set "
                "and clients would have the controller's address without it",
            )
            for where in (
                {"ingress": {}, "host": "a.example"},
                {"route": {}, "host": "a.example"},
                {"host": "a.example", "gateway": "infra/public"},
            )
        ],
        (
            exposed(tls={"issuer": "a", "secret": "b"}) | {"existing_namespace": "team"},
            "expose.tls.issuer: must not be set when secret is set",
        ),
        (
            exposed(tls={"secret": "b"}),
            "existingNamespace: required, because expose.tls.secret must already exist in the namespace",
        ),
        (
            {"users_existing_secret": "people"},
            "existingNamespace: required, because usersExistingSecret must already exist in the namespace",
        ),
        (
            exposed(tls={"issuer_kind": "Issuer"}),
            "expose.tls.issuerKind: must not be set when issuer is not set",
        ),
        (
            {"expose": {"route": {}, "host": "a.example", "tls": {}}},
            "expose.tls: must not be set when route is set",
        ),
        (
            {"expose": {"host": "a.example", "gateway": "infra/public", "tls": {"issuer": "a"}}},
            "expose.tls: must be an empty map, because the certificate is the Gateway's (got a map)",
        ),
        (
            {"expose": {"host": "a.example", "gateway": "public"}},
            'expose.gateway: must be <namespace>/<name> (got "public")',
        ),
        ({"expose": {"route": {}}}, "expose.host: required, because route is set"),
        (
            {"expose": {"load_balancer": {}, "host": "a.example", "trusted_proxies": ["10.0.0.0/8"]}},
            "expose.trustedProxies: must not be set when loadBalancer is set",
        ),
        (
            {"expose": {"load_balancer": {"class_name": "a b"}, "host": "a.example"}},
            'expose.loadBalancer.className: must be a qualified name, such as app.kubernetes.io/name (got "a b")',
        ),
        (
            {"expose": {"node_port": 30500, "host": "a.example", "tls": {}}},
            "expose.tls: must have an issuer or a secret, because the proxy itself serves the certificate "
            "(got an empty map)",
        ),
        (
            {"expose": {"load_balancer": {}, "host": "a.example", "tls": {"secret": "tls"}}},
            "existingNamespace: required, because expose.tls.secret must already exist in the namespace",
        ),
        (
            {"expose": {"kind": "loadbalancer"}},
            'expose.kind: must be one of none, nodeport, ingress, route, gateway (got "loadbalancer")',
        ),
        ({"expose": {"kind": "gateway", "host": "h"}}, "expose.gateway: required, because kind is gateway"),
        (
            {"expose": {"kind": "none", "host": "a.example"}},
            "expose.host: must not be set when kind is none",
        ),
        (
            {"expose": {"kind": "ingress", "host": "h", "node_port": 30500}},
            "expose.nodePort: must not be set when kind is ingress",
        ),
        (
            {"expose": {"route": {}, "host": "h", "class_name": "nginx"}},
            "expose.className: must not be set when kind is not set. Use ingress.className.",
        ),
        (
            exposed(ingress={"class_name": "NGINX"}),
            "expose.ingress.className: must be an object name: lower-case letters, digits, '-' and '.', "
            'at most 253 characters (got "NGINX")',
        ),
        (
            exposed(kind="ingress", ingress={"class_name": "a"}, class_name="b"),
            "expose.className: must not be set when ingress.className is set",
        ),
        ({"expose": {"kind": "ingress"}}, "expose.host: required, because kind is ingress"),
        ({"expose": {"kind": 5, "class_name": "a", "host": "h"}}, "expose.kind: must be text (got 5)"),
        ({"expose": {"kind": "nodeport", "node_port": "x", "host": "h"}}, f'expose.nodePort: {NUMBER} (got "x")'),
        ({"expose": {"node_port": "30500", "host": "h"}}, f'expose.nodePort: {NUMBER} (got "30500")'),
        ({"expose": {"ingress": "nginx", "host": "h"}}, 'expose.ingress: must be a map (got "nginx")'),
        ({"expose": {"route": True, "host": "h"}}, "expose.route: must be a map (got true)"),
        ({"expose": {"route": {"tls": {}}, "host": "h"}}, "expose.route.tls: unknown key. Remove it."),
        (exposed(allow_from=["192.0.2.0/24"], trusted_proxies=5), "expose.trustedProxies: must be a list (got 5)"),
        (exposed(tls={"issuer_kind": "Issuer", "issuer": 5}), "expose.tls.issuer: must be text (got 5)"),
        (exposed(controller={"cidrs": "a"}), 'expose.controller.cidrs: must be a list (got "a")'),
        ({"internal_from": [{"pod_selector": 5}]}, "internalFrom[0].podSelector: must be a map (got 5)"),
        (exposed(trusted_proxies=[None]), "expose.trustedProxies[0]: must be text (got null)"),
        ({"users_existing_secret": "people", "existing_namespace": 5}, "existingNamespace: must be text (got 5)"),
        (pvc(file_store=5, file_store_mount="/a"), "backendStore.pvc.fileStore: must be text (got 5)"),
        (
            {"artifact_store": {"s3": {"bucket": "team", "access_key_id": 5, "secret_access_key": "s"}}},
            "artifactStore.s3.accessKeyId: must be text (value not shown)",
        ),
        (
            {"models": [{"name": "iris", "uri": 5, "replicas": 2, "s3_region": "a"}]},
            "models[0].uri: must be text (got 5)",
        ),
        (
            {"expose": {"host": "a.example", "node_port": 30500, "trusted_proxies": ["10.0.0.0/8"]}},
            "expose.trustedProxies: must not be set when nodePort is set",
        ),
        (
            exposed(controller={}),
            "expose.controller.namespaceSelector: required, because none of podSelector and cidrs is set",
        ),
        (
            exposed(controller={"pod_selector": {"a b": "x"}}),
            'expose.controller.podSelector: each key must be a qualified name, such as app.kubernetes.io/name (got "a '
            'b")',
        ),
        (
            mysql(host="mysql://db.example.com"),
            f'backendStore.mysql.host: {HOST} (got "mysql://db.example.com")',
        ),
        (
            mysql(host="db.example.com/mlflow"),
            f'backendStore.mysql.host: {HOST} (got "db.example.com/mlflow")',
        ),
        (mysql(port=0), "backendStore.mysql.port: must be a whole number from 1 to 65535 (got 0)"),
        (mysql(port=70000), "backendStore.mysql.port: must be a whole number from 1 to 65535 (got 70000)"),
        (mysql(port="3306x"), 'backendStore.mysql.port: must be a whole number (got "3306x")'),
        (
            mysql(database="ml/flow"),
            "backendStore.mysql.database: must be a database name: 1 to 64 letters, digits, '_' and '-' (got "
            '"ml/flow")',
        ),
        (
            mysql(username="o'neill"),
            "backendStore.mysql.username: must be a database user name: 1 to 80 letters, digits and _ . @ - (got "
            '"o\'neill")',
        ),
        (
            mysql(password="two\nlines"),
            "backendStore.mysql.password: must be 1 to 256 printable characters (value not shown)",
        ),
        (
            {**mysql(existing_secret="db"), "existing_namespace": "team"},
            "backendStore.mysql.password: must not be set when existingSecret is set",
        ),
        (
            {"backend_store": {"mysql": {"host": "db", "existing_secret": "db"}}},
            "existingNamespace: required, because backendStore.mysql.existingSecret must already exist "
            "in the namespace",
        ),
        (
            {"backend_store": {"mysql": {"host": "db"}}},
            "backendStore.mysql.password: required, because existingSecret is not set",
        ),
        (
            {"backend_store": {"mysql": {"password": "x"}}},
            "backendStore.mysql.host: required, because deploy is not set",
        ),
        (
            {"backend_store": {"mysql": {"deploy": {}, "host": "db"}}},
            "backendStore.mysql.host: must not be set when deploy is set",
        ),
        (
            {"backend_store": {"mysql": {"deploy": {"rotation": -1}}}},
            "backendStore.mysql.deploy.rotation: must be a whole number from 0 to 2147483648 (got -1)",
        ),
        (
            mysql(ca="none"),
            'backendStore.mysql.ca: must be PEM certificates, starting with -----BEGIN CERTIFICATE----- (got "none")',
        ),
        (
            mysql(dumps={"image": "mariadb"}),
            f'backendStore.mysql.dumps.image: {IMAGE} (got "mariadb")',
        ),
        (
            {"backend_store": {"postgres": {"password": "x"}}},
            "backendStore.postgres.host: required",
        ),
        (
            {"backend_store": {"postgres": {"host": "db"}}},
            "backendStore.postgres.password: required, because existingSecret is not set",
        ),
        (
            {**postgres(existing_secret="db"), "existing_namespace": "team"},
            "backendStore.postgres.password: must not be set when existingSecret is set",
        ),
        (
            {"backend_store": {"postgres": {"host": "db", "existing_secret": "db"}}},
            "existingNamespace: required, because backendStore.postgres.existingSecret must already exist "
            "in the namespace",
        ),
        (
            postgres(host="postgresql://db.example.com/mlflow"),
            f'backendStore.postgres.host: {HOST} (got "postgresql://db.example.com/mlflow")',
        ),
        (postgres(port=0), "backendStore.postgres.port: must be a whole number from 1 to 65535 (got 0)"),
        (
            postgres(sslmode="verify-full"),
            "backendStore.postgres.ca: required, because sslmode is verify-full",
        ),
        (
            postgres(sslmode="verify-ca"),
            "backendStore.postgres.ca: required, because sslmode is verify-ca",
        ),
        (
            postgres(sslmode="require", ca=CA),
            'backendStore.postgres.sslmode: must be verify-ca or verify-full, because ca is set (got "require")',
        ),
        (
            postgres(sslmode="verify"),
            "backendStore.postgres.sslmode: must be one of disable, prefer, require, verify-ca, verify-full (got "
            '"verify")',
        ),
        (
            postgres(ssl_mode="require"),
            "backendStore.postgres.sslMode: unknown key. Did you mean sslmode?",
        ),
        (
            {"backend_store": {"mysql": {"deploy": {}}, **postgres()["backend_store"]}},
            "backendStore.mysql: must not be set when postgres is set",
        ),
        (
            {**postgres(), "replicas": 2},
            "replicas: must be 1, because several pods can mount a claim with artifacts only if it is ReadWriteMany "
            "(got 2)",
        ),
        (
            {"backend_store": {"pvc": {}, "mysql": {"deploy": {}}}},
            "backendStore.pvc: must not be set when mysql is set",
        ),
        (
            {**mysql(), "replicas": 2},
            "replicas: must be 1, because several pods can mount a claim with artifacts only if it is ReadWriteMany "
            "(got 2)",
        ),
        (
            exposed(node_port=30500),
            "expose.ingress: must not be set when nodePort is set",
        ),
        (
            {"quota": {"limits.memory": "lots"}},
            "quota.limits.memory: must be a Kubernetes quantity above zero and below 8Ei, such as 500m or 10Gi (got "
            '"lots")',
        ),
        (
            {"quota": {"pods": "5"}, "existing_namespace": "team"},
            "quota: must not be set when existingNamespace is set. Set the limits in that namespace instead.",
        ),
        (
            {"internal_from": [{}]},
            "internalFrom[0].namespaceSelector: required, because podSelector is not set. "
            "Pods of the stack's own namespace need no entry.",
        ),
        (
            {"egress": [{"cidr": "169.254.169.254/32", "port": 80}]},
            "egress[0].cidr: must not be link-local, because clouds serve the node's credentials there (got "
            '"169.254.169.254/32")',
        ),
        (
            {"egress": [{"cidr": "192.0.2.0/24", "port": 0}]},
            "egress[0].port: must be a whole number from 1 to 65535 (got 0)",
        ),
        (
            {"resources": {"limits": {"memory": "lots"}}},
            "resources.limits.memory: must be a Kubernetes quantity above zero and below 8Ei, such as 500m or 10Gi "
            '(got "lots")',
        ),
        ({"replica": 1}, "replica: unknown key. Did you mean replicas?"),
        (
            {"labels": {"team": "a b"}},
            "labels.team: must be a label value: at most 63 letters, digits, '-', '_' and '.' (got \"a b\")",
        ),
    ],
)
def test_rejects_invalid_input(args: dict, message: str) -> None:
    assert refusals(args) == [message]


@pytest.mark.parametrize("fields", [{}, {"database": "my-db", "username": "team@server"}, {"port": 3307.0}])
def test_a_database_of_any_usual_name_and_password_is_accepted(fields: dict) -> None:
    validate.accepted("MlflowStack", "mlflow", MlflowStackArgs, mysql(**fields), longest=40)


def test_a_name_server_of_the_node_may_be_named() -> None:
    args = {"egress": [{"cidr": "169.254.20.10/32", "port": 53}]}
    assert accepted(args) == args


@pytest.mark.parametrize("name", ["M", "a" * 41, "9lives", "a_b", ""])
def test_a_name_that_leaves_no_room_is_refused(name: str) -> None:
    assert refusals({}, name) == [f'name: {NAME} (got "{name}")']


def test_reports_all_problems_at_once() -> None:
    args = {"replicas": 2, "users": ["a:b"], "imaeg": "x", "backend_store": {"pvc": {"size": "10 Gi"}}}
    with pytest.raises(InvalidArgs) as refused:
        accepted(args)
    assert str(refused.value) == (
        "MlflowStack 'mlflow': 4 invalid inputs, nothing was declared:\n"
        f'  backendStore.pvc.size: {SIZE} (got "10 Gi")\n'
        "  imaeg: unknown key. Did you mean image?\n"
        "  replicas: must be 1, because SQLite on a claim allows one writer (got 2)\n"
        f'  users[0]: {USER} (got "a:b")'
    )


def test_ints_that_a_plugin_host_made_floats_are_ints_again() -> None:
    args = {
        "replicas": 1.0,
        "expose": {"kind": "nodeport", "host": "h", "node_port": 30500.0},
        "rotation": {"mlflow": 2.0},
    }
    found = accepted(args)
    assert repr(found["replicas"]) == "1"
    assert repr(found["expose"]["node_port"]) == "30500"
    assert repr(found["rotation"]) == "{'mlflow': 2}"


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("1k", 1000), ("1Ki", 1024), ("1.5Gi", 3 * 2**29), ("10Gi", 10 * 2**30)]
)
def test_sizes_in_bytes(text: str, count: int) -> None:
    assert validate.size(text) is None
    assert validate.bytes_of(text) == count


@given(st.text())
def test_no_text_is_accepted_as_a_user_that_htpasswd_or_basic_auth_would_cut(text: str) -> None:
    if validate.user(text) is None:
        assert text.isascii()
        assert text.isprintable()
        assert ":" not in text


@given(
    st.dictionaries(
        st.sampled_from(["passwords", "users", "image", "size", "x"]), st.text() | st.integers() | st.none()
    )
)
def test_no_input_ends_in_anything_but_an_accepted_value_or_a_refusal(args: dict) -> None:
    with suppress(InvalidArgs):
        accepted(args)


@given(st.text(min_size=1))
def test_a_refused_password_is_never_in_the_message(text: str) -> None:
    secret = f"§{text}§"
    problems = refusals({"passwords": {"mlflow": secret}})
    assert problems == [f"passwords.mlflow: {PASSWORD}"]


BUCKET = "must be a bucket name: 3 to 63 lower-case letters, digits, '-' and single '.', and not an IP address"
ENDPOINT = "must be a URL without a path, such as https://s3.example.com or http://minio.minio.svc:9000"
KEY = "must be 1 to 128 printable ASCII characters without spaces (value not shown)"
NO_KEYS = {"access_key_id": None, "secret_access_key": None}
ADOPTED = {"existing_namespace": "team"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (s3(bucket="My_Bucket"), f'artifactStore.s3.bucket: {BUCKET} (got "My_Bucket")'),
        (s3(bucket="a..b"), f'artifactStore.s3.bucket: {BUCKET} (got "a..b")'),
        (s3(bucket="192.168.5.4"), f'artifactStore.s3.bucket: {BUCKET} (got "192.168.5.4")'),
        (s3(bucket="b" * 64), f'artifactStore.s3.bucket: {BUCKET} (got "{"b" * 64}")'),
        (s3(bucket="ab"), f'artifactStore.s3.bucket: {BUCKET} (got "ab")'),
        (s3(bucket=None), "artifactStore.s3.bucket: required"),
        (
            s3(prefix="/teams/"),
            "artifactStore.s3.prefix: must be a path in the bucket without a leading or trailing '/', such as "
            'teams/vision (got "/teams/")',
        ),
        (s3(endpoint_url="a3s.fi"), f'artifactStore.s3.endpointUrl: {ENDPOINT} (got "a3s.fi")'),
        (s3(endpoint_url="s3://b"), f'artifactStore.s3.endpointUrl: {ENDPOINT} (got "s3://b")'),
        (
            s3(endpoint_url="https://a3s.fi/b"),
            f'artifactStore.s3.endpointUrl: {ENDPOINT} (got "https://a3s.fi/b")',
        ),
        (
            s3(endpoint_url="http://s3:70000"),
            f'artifactStore.s3.endpointUrl: {ENDPOINT} (got "http://s3:70000")',
        ),
        (
            s3(region="eu north"),
            'artifactStore.s3.region: must be a region, such as us-east-1 (got "eu north")',
        ),
        (
            s3(addressing="host"),
            'artifactStore.s3.addressing: must be one of auto, path, virtual (got "host")',
        ),
        (s3(secret_access_key=None), "artifactStore.s3.secretAccessKey: required, because accessKeyId is set"),
        (s3(access_key_id=None), "artifactStore.s3.accessKeyId: required, because secretAccessKey is set"),
        (s3(**NO_KEYS), "artifactStore.s3.accessKeyId: required, because existingSecret is not set"),
        (s3(secret_access_key="two words"), f"artifactStore.s3.secretAccessKey: {KEY}"),
        (s3(access_key_id="line\nbreak"), f"artifactStore.s3.accessKeyId: {KEY}"),
        (
            {**ADOPTED, **s3(existing_secret="keys", secret_access_key=None)},
            "artifactStore.s3.accessKeyId: must not be set when existingSecret is set",
        ),
        (
            s3(**NO_KEYS, existing_secret="keys"),
            "existingNamespace: required, because artifactStore.s3.existingSecret must already exist in the namespace",
        ),
        (
            s3(ca="certificate"),
            "artifactStore.s3.ca: must be PEM certificates, starting with -----BEGIN CERTIFICATE----- (got "
            '"certificate")',
        ),
        (
            s3(proxied=False, presigned=True),
            "artifactStore.s3.presigned: must not be set when proxied is false",
        ),
        (s3(proxied="no"), 'artifactStore.s3.proxied: must be true or false (got "no")'),
        (
            {"artifact_store": {"pvc": {}, **s3()["artifact_store"]}},
            "artifactStore.pvc: must not be set when s3 is set",
        ),
        (
            {"artifact_store": {"pvc": {"existing_claim": "old"}}},
            "existingNamespace: required, because artifactStore.pvc.existingClaim must already exist in the namespace",
        ),
        (
            {**ADOPTED, "artifact_store": {"pvc": {"existing_claim": "old", "size": "1Gi"}}},
            "artifactStore.pvc.size: must not be set when existingClaim is set",
        ),
        (
            {**ADOPTED, **pvc(existing_claim="old"), "artifact_store": {"pvc": {"existing_claim": "old"}}},
            "artifactStore: must not be set when it names the claim of backendStore. "
            "Without artifactStore, that claim holds the artifacts as well.",
        ),
    ],
)
def test_artifact_stores_that_cannot_be(args: dict, message: str) -> None:
    assert message in refusals(args)


@pytest.mark.parametrize(
    "args",
    [
        s3(bucket="team.data-2", prefix="teams/vision", endpoint_url="https://a3s.fi"),
        s3(endpoint_url="http://minio.minio.svc:9000", region="regionOne", addressing="path"),
        {**ADOPTED, **s3(**NO_KEYS, existing_secret="keys", proxied=False)},
    ],
)
def test_artifact_stores_that_can_be(args: dict) -> None:
    accepted(args)


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (s3(endpoint_url="https://me:hunter2@s3.example.com"), '"https://***@s3.example.com"'),
        (s3(endpoint_url="https://me:hun/ter2@s3.example.com"), '"https://***@s3.example.com"'),
        (s3(endpoint_url="https://s3.example.com?key=hunter2"), '"https://s3.example.com?***"'),
        (mysql(host="mysql://mlflow:hunter2@db/mlflow"), '"mysql://***@db/mlflow"'),
        (mysql(host="mlflow:hunter2@db"), '"***@db"'),
        (
            {
                "models": [
                    {"name": "a", "uri": "models:/a/1", "environment": "install", "index_url": "https://hunter2@p/x"}
                ]
            },
            '"https://***@p/x"',
        ),
        ({"image": "hunter2:hunter2@registry.example/a"}, '"***@registry.example/a"'),
        ({"users": ["ann smith@example.com"]}, '"ann smith@example.com"'),
        ({"image": "a" * 400}, f'"{"a" * 299}…" (400 characters)'),
    ],
)
def test_shows_rejected_urls_without_credentials(args: dict, shown: str) -> None:
    (problem,) = refusals(args)
    assert problem.endswith(f" (got {shown})")
    assert "hunter2" not in problem


def test_spells_keys_as_the_user_does() -> None:
    args = {
        "backendStore": {},
        "artifact_store": {"s3": {"bucket": "team", "accessKeyId": "a"}},
        "max_artefact_size": 1,
    }
    with pytest.raises(InvalidArgs) as refused:
        validate.accepted("MlflowStack", "mlflow", MlflowStackArgs, args, longest=40)
    assert [line.strip() for line in str(refused.value).splitlines()[1:]] == [
        "artifact_store.s3.accessKeyId: unknown key. Did you mean access_key_id?",
        "artifact_store.s3.access_key_id: required, because existing_secret is not set",
        "backendStore: unknown key. Did you mean backend_store?",
        "max_artefact_size: unknown key. Did you mean max_artifact_size?",
    ]


def test_escapes_control_characters_in_keys() -> None:
    assert refusals({"labels": {"\x1b[2J": 1}}) == ["labels.\\x1b[2J: must be text (got 1)"]


def test_never_shows_a_rejected_secret_key() -> None:
    (problem,) = refusals(s3(secret_access_key="canary canary"))
    assert "canary" not in problem


def test_names_replacements_of_deprecated_keys_in_the_users_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr("pulumi.log.warn", warned.append)
    args = {"expose": {"kind": "ingress", "host": "h", "className": "nginx"}}
    validate.accepted("MlflowStack", "mlflow", MlflowStackArgs, args, longest=40, spell=validate.camel)
    assert warned == [
        "MlflowStack 'mlflow': expose.kind: deprecated. Use one of the keys ingress, route, gateway and nodePort, or "
        "none of them.",
        "MlflowStack 'mlflow': expose.className: deprecated. Use ingress.className.",
    ]


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ({"labels": {5: "a"}}, "labels"),
        (exposed(annotations={5: "a"}), "expose.annotations"),
        ({"passwords": {5: "correct horse"}}, "passwords"),
    ],
)
def test_rejects_map_keys_that_are_no_text(args: dict, key: str) -> None:
    with pytest.raises(InvalidArgs) as refused:
        validate.accepted("MlflowStack", "mlflow", MlflowStackArgs, args, longest=40)
    assert str(refused.value).splitlines()[1:] == [f"  {key}: each key must be text (got 5)"]


def test_rejects_text_that_has_no_encoding() -> None:
    assert refusals(exposed(annotations={"a": "\ud800"})) == ['expose.annotations.a: must be text (got "\\ud800")']
    assert refusals(mysql(ca="\ud800")) == ['backendStore.mysql.ca: must be text (got "\\ud800")']
