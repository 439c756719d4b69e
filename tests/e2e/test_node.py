"""Effects of a node on its machine, and the fate of its data: on a separate instance."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress
from sandbox.cluster import Node, kubernetes
from sandbox.cluster.programs import ensure
from sandbox.paths import Instance

KINDS = ("net", "mnt", "pid", "uts", "ipc")
# Counters of the kernel, and settings of a link, which appear and disappear with it.
VOLATILE = re.compile(
    r"kernel/(random|ns_last_pid|pty/nr)|fs/(inode-|dentry-|file-nr|aio-nr|quota)|nf_conntrack_count|/mls\d+/"
)
PORT = 30080
WEB = """
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: web}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: web}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: PORT}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      shareProcessNamespace: true
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: web
          image: SHELL
          imagePullPolicy: Never
          command: [/bin/busybox, sh, -c, "echo start >> /data/starts; exec /bin/busybox httpd -f -vv -p 8080 -h /data"]
          securityContext:
            {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"""


@pytest.fixture(scope="module")
def node():
    """Separate node, so that the one of the other tests is not disturbed. It does not run yet."""
    instance = Instance.open("residue")
    node = Node(instance)
    node.clean()
    yield node
    node.clean()
    instance.forget()


@pytest.fixture(scope="module")
def machine(node):
    """Settings of the machine before the node's first start."""
    return settings()


@pytest.fixture(scope="module")
def running(machine, node):
    """Node at its first start, with a web server on a claim."""
    node.up(Progress())
    shell = next(
        name for name in node.run("ctr", "-n", "k8s.io", "images", "list", "-q").stdout.split() if "/shell:" in name
    )
    kubectl(node, "apply", "--filename=-", given=WEB.replace("SHELL", shell).replace("PORT", str(PORT)))
    starts(node)
    return node


def settings():
    """Return the machine's packet filter and sysctls."""
    filters = subprocess.run(
        ["chroot", str(ensure(Progress()).root), "iptables-save"], capture_output=True, text=True, check=True
    )
    sysctls = {}
    for path in Path("/proc/sys").rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o444 and not VOLATILE.search(str(path)):
            try:
                sysctls[str(path)] = path.read_text()
            except (OSError, UnicodeDecodeError):
                continue
    rules = [line for line in filters.stdout.splitlines() if not line.startswith("#")]
    return {"filter": rules, "sysctl": sysctls}


def namespaces(pid):
    return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in KINDS}


def left(instance, spaces):
    """Return the traces of a node on the machine, except its data and its empty cgroups."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if namespaces(process.name) & spaces:
                found.append(f"process {process.name} in a namespace: {(process / 'cmdline').read_text()}")
            if f"/{instance.cgroup}/" in (process / "cgroup").read_text():
                found.append(f"process {process.name} in a cgroup: {(process / 'cmdline').read_text()}")
        except OSError:  # it has ended
            continue
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(instance.root) in line]
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    found += [line for line in links.splitlines() if line.startswith(f"{instance.link}@")]
    routes = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    ranges = tuple(f"10.{number}.{instance.index}." for number in (213, 214, 215))
    return found + [line for line in routes.splitlines() if any(network in line for network in ranges)]


def cgroups(instance):
    # Unlike rglob, os.walk passes over cgroups of other nodes that end meanwhile.
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if Path(folder).name == instance.cgroup]


def eventually(probe, seconds=60):
    """Return the first true answer of a probe; fail with its last error or an assertion after that time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := probe():
                return answer
            assert time.monotonic() < deadline
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def starts(node):
    """Return how often the web server has started, as recorded on its claim."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"http://{node.instance.node_address}:{PORT}/starts"
    return len(eventually(lambda: direct.open(url, timeout=2).read()).splitlines())


def kubectl(node, *words, given=None):
    argv = [str(kubernetes(Progress()) / "kubectl"), f"--kubeconfig={node.instance.kubeconfig}", *words]
    return subprocess.run(argv, input=given, capture_output=True, text=True, check=True).stdout


def test_a_running_node_does_not_change_the_machine_s_settings(running, machine):
    assert settings() == machine
    log = running.logs("kubelet", 1_000_000)
    assert "Starting kubelet main sync loop" in log
    # Everything that the kubelet would change: overcommit, panic and keys belong to the whole machine.
    assert "Updating kernel flag" not in log


def test_the_client_s_address_is_seen_through_a_node_port(running):
    assert starts(running) == 1
    assert running.instance.machine_address in kubectl(running, "logs", "--namespace=web", "deployment/web")


def test_nothing_beyond_the_machine_has_a_route(running):
    routes = running.run("ip", "route").stdout
    assert "10.213." in routes
    assert "default" not in routes


def test_cluster_names_resolve_and_others_do_not_exist(running):
    def lookup(name):
        words = ("exec", "--namespace=web", "deployment/web", "--", "/bin/busybox", "nslookup", name)
        argv = [str(kubernetes(Progress()) / "kubectl"), f"--kubeconfig={running.instance.kubeconfig}", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    assert kubectl(
        running, "get", "service", "web", "--namespace=web", "--output=jsonpath={.spec.clusterIP}"
    ) in lookup("web.web.svc.cluster.local")
    assert "NXDOMAIN" in lookup("mlflow.example")


def test_the_same_instance_of_another_data_folder_is_refused(running, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    other = Node(Instance(running.instance.name, running.instance.index))
    namesake = Node(Instance("somebody", running.instance.index))
    other.instance.root.mkdir(parents=True)
    namesake.instance.root.mkdir(parents=True)

    with pytest.raises(LocalError, match="belongs to the node in"):
        other.up(Progress())
    with pytest.raises(LocalError, match="belongs to the node in"):
        other.down()
    with pytest.raises(LocalError, match=f"{running.instance.link} belongs to the node in"):
        namesake.up(Progress())

    monkeypatch.undo()
    assert running.running()
    assert starts(running) == 1


def test_up_of_a_running_node_changes_nothing(running):
    first = running.pid()

    running.up(Progress())

    assert running.pid() == first
    assert starts(running) == 1


def test_a_component_that_dies_is_started_again(running):
    def scheduler():
        return running.run("sh", "-c", "for f in /proc/[0-9]*/comm; do grep -q ^kube-scheduler $f && echo $f; done")

    before = scheduler().stdout
    running.run("sh", "-c", f"kill -9 {before.split('/')[2]}")

    eventually(lambda: scheduler().stdout not in ("", before))


def test_killed_node_leaves_nothing_and_comes_back_with_its_data(running):
    instance, pid = running.instance, running.pid()
    spaces = namespaces(pid) - namespaces(os.getpid())
    assert len(spaces) == len(KINDS)
    assert left(instance, spaces)
    assert cgroups(instance)

    os.kill(pid, signal.SIGKILL)

    eventually(lambda: not left(instance, spaces), seconds=10)
    assert not running.running()
    running.up(Progress())
    eventually(lambda: starts(running) == 2)


def test_down_leaves_data_and_nothing_else(running, machine):
    instance, spaces = running.instance, namespaces(running.pid()) - namespaces(os.getpid())

    running.down()

    assert left(instance, spaces) == []
    assert cgroups(instance) == []
    assert settings() == machine
    assert [path.read_text() for path in instance.node.glob("volumes/*/starts")] == ["start\n" * 2]
    running.down()  # again: nothing to do


def test_start_that_fails_names_the_component_and_leaves_nothing_running(running):
    instance = running.instance
    database = instance.node / "etcd/member/snap/db"
    good = database.read_bytes()
    database.write_bytes(b"not a database")

    with pytest.raises(LocalError) as failure:
        running.up(Progress())

    assert "etcd is in state FATAL" in str(failure.value)
    assert "cannot open database" in str(failure.value)
    assert "Next:" in str(failure.value)
    assert left(instance, set()) == []
    assert cgroups(instance) == []
    database.write_bytes(good)
    running.up(Progress())
    eventually(lambda: starts(running) == 3)


def test_clean_leaves_no_data(running):
    instance = running.instance

    running.clean()

    assert left(instance, set()) == []
    assert cgroups(instance) == []
    assert not instance.node.exists()
    assert not instance.kubeconfig.exists()
