"""Invalid input, one row each, with the exact message. tests/program shows that the real engine prints it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spelling import accepted

from mlflow_stack import InvalidArgs, MlflowStackArgs, validate

CLAIM = {"backend_store": {"pvc": {}}}
SIZE = "wanted a size above zero and below 8Ei as a Kubernetes quantity, such as 10Gi"
USER = "wanted 1 to 64 of letters, digits and . _ @ + -, starting with a letter or a digit"
LOCATION = "wanted a URI such as s3://bucket/prefix, or the path of a folder such as file:///mlflow/mlruns"
IMAGE = "wanted an image with a tag other than latest, or with a digest, such as registry.example/mlflow:v3.17.2-full"
PASSWORD = "the value (not shown) is not accepted; wanted 12 to 1024 printable ASCII characters"
NAME = (
    "wanted lower-case letters, digits and '-', starting with a letter, at most 40 characters, "
    "so that the names made from it fit into 63"
)


EXPOSE_KEYS = (
    "known are allowFrom, annotations, className, controller, gateway, host, ingress, kind, nodePort, path, route, "
    "tls, trustedProxies"
)
HOST = "wanted a host name in lower case without scheme, port or path, such as mlflow.example.com"


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


def mysql(**fields: object) -> dict:
    return {"backend_store": {"mysql": {"host": "db.example.com", "password": "p@ss/w:ö r#d%&?", **fields}}}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"users": ["ann.lee@x.org"], "passwords": {"ann": {"lee@x": {"org": "hunter2hunter2"}}}},
            "passwords.ann: the value (not shown) is not accepted; wanted text. "
            """A name with dots is quoted: --path 'passwords["ann.lee@x.org"]'""",
        ),
        (
            {"users": ["ann.lee@x.org"], "rotation": {"ann": {"lee@x": {"org": 1}}}},
            "rotation.ann: a map is not accepted; wanted a whole number. "
            """A name with dots is quoted: --path 'rotation["ann.lee@x.org"]'""",
        ),
        (pvc(size="10 Gi"), f'backendStore.pvc.size: "10 Gi" is not accepted; {SIZE}'),
        (pvc(size="-1Gi"), f'backendStore.pvc.size: "-1Gi" is not accepted; {SIZE}'),
        (pvc(size="Infinity"), f'backendStore.pvc.size: "Infinity" is not accepted; {SIZE}'),
        (pvc(size="0"), f'backendStore.pvc.size: "0" is not accepted; {SIZE}'),
        (pvc(size="９Gi"), f'backendStore.pvc.size: "\\uff19Gi" is not accepted; {SIZE}'),
        (pvc(size=10), "backendStore.pvc.size: 10 is not accepted; wanted text"),
        (
            pvc(storage_class="Fast"),
            'backendStore.pvc.storageClass: "Fast" is not accepted; wanted an object\'s name: lower-case letters, '
            "digits, '-' and '.', at most 253 characters",
        ),
        (
            pvc(access_mode="ReadOnlyMany"),
            'backendStore.pvc.accessMode: "ReadOnlyMany" is not accepted; '
            "wanted one of ReadWriteOnce, ReadWriteOncePod, ReadWriteMany",
        ),
        (
            {"existing_namespace": "team", **pvc(size="1Gi", existing_claim="old")},
            "backendStore.pvc.size: given together with existingClaim; a claim that is there already has its own",
        ),
        (
            pvc(existing_claim="old"),
            "existingNamespace: missing; a value, as a claim cannot exist in a namespace that is only made now",
        ),
        (
            pvc(file_store="../etc"),
            'backendStore.pvc.fileStore: "../etc" is not accepted; '
            "wanted a folder's path from the claim's root, such as mlruns",
        ),
        (pvc(sise="1Gi"), "backendStore.pvc.sise: unknown key; did you mean size?"),
        ({"users": ["a:b"]}, f'users[0]: "a:b" is not accepted; {USER}'),
        ({"users": [""]}, f'users[0]: "" is not accepted; {USER}'),
        ({"users": ["eve\r\nadmin"]}, f'users[0]: "eve\\r\\nadmin" is not accepted; {USER}'),
        ({"users": ["ann", "ann"]}, 'users: "ann" is not accepted; wanted each user name once'),
        ({"users": []}, "users: a list is not accepted; wanted at least one user name"),
        (
            {"users": ["models"]},
            'users[0]: "models" is not accepted; wanted another name: models is the stack\'s own machine user',
        ),
        ({"users": "ann"}, 'users: "ann" is not accepted; wanted a list'),
        ({"users": ["ann"], "passwords": {"ann": "short"}}, f"passwords.ann: {PASSWORD}"),
        ({"users": ["ann"], "passwords": {"ann": "pässword-pässword"}}, f"passwords.ann: {PASSWORD}"),
        ({"users": ["ann"], "passwords": {"ann": "line\nbreak-line-break"}}, f"passwords.ann: {PASSWORD}"),
        (
            {"users": ["ann"], "passwords": {"bob": "correct horse"}},
            'passwords: the key "bob" is not accepted; wanted a name that is in users',
        ),
        (
            {"users": ["ann"], "passwords": {"ann": "correct horse"}, "rotation": {"ann": 1}},
            'rotation: the key "ann" is not accepted; '
            "wanted a user without a password of its own, as only generated ones are renewed",
        ),
        ({"replicas": 2}, "replicas: 2 is not accepted; wanted 1, as SQLite on a claim has one writer"),
        ({"replicas": 0}, "replicas: 0 is not accepted; wanted 1, as SQLite on a claim has one writer"),
        ({"replicas": 1.5}, "replicas: 1.5 is not accepted; wanted a whole number"),
        ({"replicas": True}, "replicas: true is not accepted; wanted a whole number"),
        ({"image": "mlflow"}, f'image: "mlflow" is not accepted; {IMAGE}'),
        ({"image": "ghcr.io/mlflow/mlflow:latest"}, f'image: "ghcr.io/mlflow/mlflow:latest" is not accepted; {IMAGE}'),
        ({"proxy_image": "a:5000/nginx"}, f'proxyImage: "a:5000/nginx" is not accepted; {IMAGE}'),
        ({"platform": "nomad"}, 'platform: "nomad" is not accepted; wanted one of kubernetes, openshift'),
        ({"max_artifact_size": "1m"}, f'maxArtifactSize: "1m" is not accepted; {SIZE}'),
        (
            {"max_concurrent_uploads": 0},
            "maxConcurrentUploads: 0 is not accepted; wanted a whole number from 1 to 1000",
        ),
        (
            {"artifact_locations": ["s3://a/../b"]},
            f'artifactLocations[0]: "s3://a/../b" is not accepted; {LOCATION} (has a part "..")',
        ),
        ({"artifact_locations": ["runs:/a/b"]}, f'artifactLocations[0]: "runs:/a/b" is not accepted; {LOCATION}'),
        *(
            (
                {"artifact_locations": ["s3://fine", path]},
                f'artifactLocations[1]: "{path}" is not accepted; {LOCATION}; a path is a folder below /mlflow or '
                "/mlflow-artifacts, where claims are mounted",
            )
            for path in ("/mlflow", "file:///etc", "/tmp/x", "file:mlruns", "mlruns")
        ),
        (
            {"rollout_timeout": "soon"},
            'rolloutTimeout: "soon" is not accepted; '
            "wanted a duration of at most 168h in whole seconds, minutes or hours, such as 10m",
        ),
        (
            {"namespace": "a", "existing_namespace": "b"},
            "namespace: given together with existingNamespace; one creates, the other adopts",
        ),
        (
            {"expose": {"host": "mlflow.example.com"}},
            "expose.ingress: missing; a value, or one of route, gateway and nodePort",
        ),
        (
            {"expose": {"host": "https://mlflow.example.com", "node_port": 30500}},
            'expose.host: "https://mlflow.example.com" is not accepted; '
            "wanted a host name in lower case without scheme, port or path, such as mlflow.example.com",
        ),
        ({"expose": {"load_balancer": {}}}, f"expose.loadBalancer: unknown key; {EXPOSE_KEYS}"),
        *[
            (exposed(host=host), f'expose.host: "{host}" is not accepted; {HOST}')
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
            'expose.host: "192.0.2.7" is not accepted; wanted a name and no address with ingress',
        ),
        *[
            (
                exposed(path=path),
                f'expose.path: "{path}" is not accepted; '
                "wanted a path with a leading and no trailing slash, such as /mlflow",
            )
            for path in ("mlflow", "/mlflow/", "/", "", "//", "/a//b", "/../x", "/-/ready", "/a b", "/a;b", "/a{b}")
        ],
        (
            exposed(allow_from=["192.0.2.1/24"], trusted_proxies=["10.0.0.0/8"]),
            'expose.allowFrom[0]: "192.0.2.1/24" is not accepted; '
            "wanted a range as networks are written; did you mean 192.0.2.0/24?",
        ),
        *[
            (
                exposed(trusted_proxies=[text]),
                f'expose.trustedProxies[0]: "{text}" is not accepted; '
                "wanted a range of addresses, such as 192.0.2.0/24",
            )
            for text in ("1", "192.0.2.7", "192.0.2.0/33", "10.0.0.0/255.0.0.0", "255.255.255.255/32", "all", "")
        ],
        (
            exposed(allow_from=[], trusted_proxies=["10.0.0.0/8"]),
            "expose.allowFrom: a list is not accepted; wanted at least one range; without the key there is no limit",
        ),
        (
            exposed(allow_from=["192.0.2.0/24"], trusted_proxies=[]),
            "expose.trustedProxies: a list is not accepted; "
            "wanted at least one range; without the key there is no limit",
        ),
        *[
            (
                exposed(trusted_proxies=ranges),
                f'expose.trustedProxies: "{wide}" is not accepted; wanted the addresses of the controllers alone: '
                "others could claim any address by X-Forwarded-For",
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
        (exposed(trusted_proxies=[1]), "expose.trustedProxies[0]: 1 is not accepted; wanted text"),
        (
            exposed(trusted_proxies=["2001:DB8::/32"]),
            'expose.trustedProxies[0]: "2001:DB8::/32" is not accepted; '
            "wanted a range as networks are written; did you mean 2001:db8::/32?",
        ),
        *[
            (
                {"expose": {**where, "allow_from": ["192.0.2.0/24"]}},
                "expose.trustedProxies: missing; "
                "a value with allowFrom: without it all clients have the controller's address",
            )
            for where in (
                {"ingress": {}, "host": "a.example"},
                {"route": {}, "host": "a.example"},
                {"host": "a.example", "gateway": "infra/public"},
            )
        ],
        (
            exposed(tls={"issuer": "a", "secret": "b"}) | {"existing_namespace": "team"},
            "expose.tls.issuer: given together with secret; one asks for a certificate, the other has it",
        ),
        (
            exposed(tls={"secret": "b"}),
            "existingNamespace: missing; a value, as a Secret cannot exist in a namespace that is only made now",
        ),
        (
            {"users_existing_secret": "people"},
            "existingNamespace: missing; a value, as a Secret cannot exist in a namespace that is only made now",
        ),
        (
            exposed(tls={"issuer_kind": "Issuer"}),
            'expose.tls.issuerKind: "Issuer" is not accepted; wanted it left out without issuer',
        ),
        (
            {"expose": {"route": {}, "host": "a.example", "tls": {}}},
            "expose.tls: a map is not accepted; wanted it left out with route",
        ),
        (
            {"expose": {"host": "a.example", "gateway": "infra/public", "tls": {"issuer": "a"}}},
            "expose.tls: a map is not accepted; wanted an empty map, as the certificate is the Gateway's",
        ),
        (
            {"expose": {"host": "a.example", "gateway": "public"}},
            'expose.gateway: "public" is not accepted; wanted namespace/name',
        ),
        ({"expose": {"route": {}}}, "expose.host: missing; a value with route"),
        (
            {"expose": {"kind": "loadbalancer"}},
            'expose.kind: "loadbalancer" is not accepted; wanted one of none, nodeport, ingress, route, gateway',
        ),
        ({"expose": {"kind": "gateway", "host": "h"}}, "expose.gateway: missing; a value, as kind is gateway"),
        (
            {"expose": {"kind": "none", "host": "a.example"}},
            'expose.host: "a.example" is not accepted; wanted it left out, as kind is none',
        ),
        (
            {"expose": {"kind": "ingress", "host": "h", "node_port": 30500}},
            "expose.nodePort: 30500 is not accepted; wanted it left out, as kind is ingress",
        ),
        (
            {"expose": {"route": {}, "host": "h", "class_name": "nginx"}},
            'expose.className: "nginx" is not accepted; wanted it left out without kind: use ingress.className',
        ),
        (
            {"expose": {"host": "a.example", "node_port": 30500, "trusted_proxies": ["10.0.0.0/8"]}},
            "expose.trustedProxies: a list is not accepted; wanted it left out with nodePort",
        ),
        (
            exposed(controller={}),
            "expose.controller.namespaceSelector: missing; a value, or one of podSelector and cidrs",
        ),
        (
            exposed(controller={"pod_selector": {"a b": "x"}}),
            'expose.controller.podSelector: the key "a b" is not accepted; wanted a key such as app.kubernetes.io/name',
        ),
        (
            mysql(host="mysql://db.example.com"),
            f'backendStore.mysql.host: "mysql://db.example.com" is not accepted; {HOST}',
        ),
        (
            mysql(host="db.example.com/mlflow"),
            f'backendStore.mysql.host: "db.example.com/mlflow" is not accepted; {HOST}',
        ),
        (mysql(port=0), "backendStore.mysql.port: 0 is not accepted; wanted a whole number from 1 to 65535"),
        (mysql(port=70000), "backendStore.mysql.port: 70000 is not accepted; wanted a whole number from 1 to 65535"),
        (mysql(port="3306x"), 'backendStore.mysql.port: "3306x" is not accepted; wanted a whole number'),
        (
            mysql(database="ml/flow"),
            'backendStore.mysql.database: "ml/flow" is not accepted; '
            "wanted a database's name: 1 to 64 of letters, digits, '_' and '-'",
        ),
        (
            mysql(username="o'neill"),
            'backendStore.mysql.username: "o\'neill" is not accepted; '
            "wanted a database user's name: 1 to 80 of letters, digits and _ . @ -",
        ),
        (
            mysql(password="two\nlines"),
            "backendStore.mysql.password: the value (not shown) is not accepted; "
            "wanted 1 to 256 characters that can be printed",
        ),
        (
            {**mysql(existing_secret="db"), "existing_namespace": "team"},
            "backendStore.mysql.password: given together with existingSecret; one creates, the other adopts",
        ),
        (
            {"backend_store": {"mysql": {"host": "db", "existing_secret": "db"}}},
            "existingNamespace: missing; a value, as a Secret cannot exist in a namespace that is only made now",
        ),
        (
            {"backend_store": {"mysql": {"host": "db"}}},
            "backendStore.mysql.password: missing; a password, or existingSecret",
        ),
        (
            {"backend_store": {"mysql": {"password": "x"}}},
            "backendStore.mysql.host: missing; a host name, or deploy",
        ),
        (
            {"backend_store": {"mysql": {"deploy": {}, "host": "db"}}},
            "backendStore.mysql.host: given together with deploy; a server that this stack deploys has its own",
        ),
        (
            {"backend_store": {"mysql": {"deploy": {"rotation": -1}}}},
            "backendStore.mysql.deploy.rotation: -1 is not accepted; wanted a whole number from 0 to 2147483648",
        ),
        (
            mysql(ca="none"),
            'backendStore.mysql.ca: "none" is not accepted; '
            "wanted certificates as PEM text, from -----BEGIN CERTIFICATE----- on",
        ),
        (
            mysql(dumps={"image": "mariadb"}),
            f'backendStore.mysql.dumps.image: "mariadb" is not accepted; {IMAGE}',
        ),
        (
            {"backend_store": {"pvc": {}, "mysql": {"deploy": {}}}},
            "backendStore.pvc: given together with mysql; runs have one store; none means pvc",
        ),
        (
            {**mysql(), "replicas": 2},
            "replicas: 2 is not accepted; "
            "wanted 1, as one pod alone may mount a claim with artifacts that is not ReadWriteMany",
        ),
        (
            exposed(node_port=30500),
            "expose.ingress: given together with nodePort; an address has one kind",
        ),
        (
            {"quota": {"limits.memory": "lots"}},
            'quota.limits.memory: "lots" is not accepted; '
            "wanted a Kubernetes quantity above zero and below 8Ei, such as 500m or 10Gi",
        ),
        (
            {"quota": {"pods": "5"}, "existing_namespace": "team"},
            "quota: given together with existingNamespace; whoever made the namespace sets its limits",
        ),
        (
            {"internal_from": [{}]},
            "internalFrom[0].namespaceSelector: missing; "
            "a value, or podSelector; the pods of the own namespace may connect anyway",
        ),
        (
            {"egress": [{"cidr": "169.254.169.254/32", "port": 80}]},
            'egress[0].cidr: "169.254.169.254/32" is not accepted; '
            "wanted a range that is not link-local, where clouds hand out the node's own credentials",
        ),
        (
            {"egress": [{"cidr": "192.0.2.0/24", "port": 0}]},
            "egress[0].port: 0 is not accepted; wanted a whole number from 1 to 65535",
        ),
        (
            {"resources": {"limits": {"memory": "lots"}}},
            "resources.limits.memory: "
            '"lots" is not accepted; wanted a Kubernetes quantity above zero and below 8Ei, such as 500m or 10Gi',
        ),
        ({"replica": 1}, "replica: unknown key; did you mean replicas?"),
        (
            {"labels": {"team": "a b"}},
            "labels.team: "
            "\"a b\" is not accepted; wanted a label's value: at most 63 of letters, digits, '-', '_' and '.'",
        ),
    ],
)
def test_bad_input_is_refused_by_key_value_and_what_is_wanted(args: dict, message: str) -> None:
    assert refusals(args) == [message]


@pytest.mark.parametrize("fields", [{}, {"database": "my-db", "username": "team@server"}, {"port": 3307.0}])
def test_a_database_of_any_usual_name_and_password_is_accepted(fields: dict) -> None:
    validate.accepted("MlflowStack", "mlflow", MlflowStackArgs, mysql(**fields), longest=40)


def test_a_name_server_of_the_node_may_be_named() -> None:
    args = {"egress": [{"cidr": "169.254.20.10/32", "port": 53}]}
    assert accepted(args) == args


@pytest.mark.parametrize("name", ["M", "a" * 41, "9lives", "a_b", ""])
def test_a_name_that_leaves_no_room_is_refused(name: str) -> None:
    assert refusals({}, name) == [f'name: "{name}" is not accepted; {NAME}']


def test_all_mistakes_are_told_at_once() -> None:
    args = {"replicas": 2, "users": ["a:b"], "imaeg": "x", "backend_store": {"pvc": {"size": "10 Gi"}}}
    with pytest.raises(InvalidArgs) as refused:
        accepted(args)
    assert str(refused.value) == (
        "MlflowStack 'mlflow': 4 inputs are not accepted, nothing was declared:\n"
        f'  backendStore.pvc.size: "10 Gi" is not accepted; {SIZE}\n'
        "  imaeg: unknown key; did you mean image?\n"
        "  replicas: 2 is not accepted; wanted 1, as SQLite on a claim has one writer\n"
        f'  users[0]: "a:b" is not accepted; {USER}'
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


BUCKET = "wanted a bucket's name: 3 to 63 of lower-case letters, digits, '-' and single '.', and no IP address"
ENDPOINT = (
    "wanted an address with its scheme and without a path, such as https://s3.example.com or "
    "http://minio.minio.svc:9000"
)
KEY = "the value (not shown) is not accepted; wanted 1 to 128 printable ASCII characters without blanks"
NO_KEYS = {"access_key_id": None, "secret_access_key": None}
ADOPTED = {"existing_namespace": "team"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (s3(bucket="My_Bucket"), f'artifactStore.s3.bucket: "My_Bucket" is not accepted; {BUCKET}'),
        (s3(bucket="a..b"), f'artifactStore.s3.bucket: "a..b" is not accepted; {BUCKET}'),
        (s3(bucket="192.168.5.4"), f'artifactStore.s3.bucket: "192.168.5.4" is not accepted; {BUCKET}'),
        (s3(bucket="b" * 64), f'artifactStore.s3.bucket: "{"b" * 64}" is not accepted; {BUCKET}'),
        (s3(bucket="ab"), f'artifactStore.s3.bucket: "ab" is not accepted; {BUCKET}'),
        (s3(bucket=None), "artifactStore.s3.bucket: missing; it is required"),
        (
            s3(prefix="/teams/"),
            'artifactStore.s3.prefix: "/teams/" is not accepted; '
            "wanted a path in the bucket without leading or trailing '/', such as teams/vision",
        ),
        (s3(endpoint_url="a3s.fi"), f'artifactStore.s3.endpointUrl: "a3s.fi" is not accepted; {ENDPOINT}'),
        (s3(endpoint_url="s3://b"), f'artifactStore.s3.endpointUrl: "s3://b" is not accepted; {ENDPOINT}'),
        (
            s3(endpoint_url="https://a3s.fi/b"),
            f'artifactStore.s3.endpointUrl: "https://a3s.fi/b" is not accepted; {ENDPOINT}',
        ),
        (
            s3(endpoint_url="http://s3:70000"),
            f'artifactStore.s3.endpointUrl: "http://s3:70000" is not accepted; {ENDPOINT}',
        ),
        (
            s3(region="eu north"),
            'artifactStore.s3.region: "eu north" is not accepted; wanted a region, such as us-east-1',
        ),
        (
            s3(addressing="host"),
            'artifactStore.s3.addressing: "host" is not accepted; wanted one of auto, path, virtual',
        ),
        (s3(secret_access_key=None), "artifactStore.s3.secretAccessKey: missing; the other half of accessKeyId"),
        (s3(access_key_id=None), "artifactStore.s3.accessKeyId: missing; the other half of secretAccessKey"),
        (s3(**NO_KEYS), "artifactStore.s3.accessKeyId: missing; a key with its secretAccessKey, or existingSecret"),
        (s3(secret_access_key="two words"), f"artifactStore.s3.secretAccessKey: {KEY}"),
        (s3(access_key_id="line\nbreak"), f"artifactStore.s3.accessKeyId: {KEY}"),
        (
            {**ADOPTED, **s3(existing_secret="keys", secret_access_key=None)},
            "artifactStore.s3.accessKeyId: given together with existingSecret; one creates, the other adopts",
        ),
        (
            s3(**NO_KEYS, existing_secret="keys"),
            "existingNamespace: missing; a value, as a Secret cannot exist in a namespace that is only made now",
        ),
        (
            s3(ca="certificate"),
            'artifactStore.s3.ca: "certificate" is not accepted; '
            "wanted certificates as PEM text, from -----BEGIN CERTIFICATE----- on",
        ),
        (
            s3(proxied=False, presigned=True),
            "artifactStore.s3.presigned: true is not accepted; wanted it left out where proxied is false",
        ),
        (s3(proxied="no"), 'artifactStore.s3.proxied: "no" is not accepted; wanted true or false'),
        (
            {"artifact_store": {"pvc": {}, **s3()["artifact_store"]}},
            "artifactStore.pvc: given together with s3; artifacts have one store",
        ),
        (
            {"artifact_store": {"pvc": {"existing_claim": "old"}}},
            "existingNamespace: missing; a value, as a claim cannot exist in a namespace that is only made now",
        ),
        (
            {**ADOPTED, "artifact_store": {"pvc": {"existing_claim": "old", "size": "1Gi"}}},
            "artifactStore.pvc.size: given together with existingClaim; a claim that is there already has its own",
        ),
        (
            {**ADOPTED, **pvc(existing_claim="old"), "artifact_store": {"pvc": {"existing_claim": "old"}}},
            "artifactStore: a map is not accepted; wanted it left out, as a pod mounts a claim once; "
            "the backend store's holds artifacts, too",
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
def test_refused_urls_are_shown_without_their_passwords(args: dict, shown: str) -> None:
    (problem,) = refusals(args)
    assert f": {shown} is not accepted" in problem
    assert "hunter2" not in problem


def test_keys_are_named_in_the_spelling_of_their_writer() -> None:
    args = {
        "backendStore": {},
        "artifact_store": {"s3": {"bucket": "team", "accessKeyId": "a"}},
        "max_artefact_size": 1,
    }
    with pytest.raises(InvalidArgs) as refused:
        validate.accepted("MlflowStack", "mlflow", MlflowStackArgs, args, longest=40)
    assert [line.strip() for line in str(refused.value).splitlines()[1:]] == [
        "artifact_store.s3.accessKeyId: unknown key; did you mean access_key_id?",
        "artifact_store.s3.access_key_id: missing; a key with its secret_access_key, or existing_secret",
        "backendStore: unknown key; did you mean backend_store?",
        "max_artefact_size: unknown key; did you mean max_artifact_size?",
    ]


def test_keys_that_terminals_act_on_are_escaped() -> None:
    assert refusals({"labels": {"\x1b[2J": 1}}) == ["labels.\\x1b[2J: 1 is not accepted; wanted text"]


def test_a_refused_key_is_never_shown() -> None:
    (problem,) = refusals(s3(secret_access_key="canary canary"))
    assert "canary" not in problem
