"""Configuration of every program on a node, as texts by file name: pure functions of an instance."""

import configparser
import io
import json
import shlex
from pathlib import Path
from typing import Final

import yaml

from sandbox.paths import Instance

KUBERNETES: Final = "1.34.4"
"""Version that is built. 1.35 refuses cgroup v1 by default."""
ADMINS: Final = "super-admin.conf"
"""Kubeconfig that needs no RBAC rule, unlike the users' kubeconfig."""
USERS: Final = ("kube-proxy", "kube-router")
"""Programs for which kubeadm creates no kubeconfig by default; each is the user `system:<name>`."""
API_READY: Final = "/run/api-ready"
"""File that programs wait for if they need the access rules in the API server."""
OBJECTS_APPLIED: Final = "/run/objects-applied"
"""File that kube-router waits for: without its access rules it would be refused, and retry late."""
IMAGES_LOADED: Final = "/run/images-loaded"
"""File that the kubelet waits for: without the sandbox image every pod would fail once and be retried late."""
COMPONENTS: Final = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kube-router",
)
"""The node's programs, in the order of their dependencies. Their logs have the same names."""

_GATES: Final = {
    "kube-controller-manager": API_READY,
    "kube-scheduler": API_READY,
    "kubelet": IMAGES_LOADED,
    "kube-proxy": API_READY,
    "kube-router": OBJECTS_APPLIED,
}
_ETC: Final = "/etc/kubernetes"
_PKI: Final = f"{_ETC}/pki"
_CONTAINERD: Final = "/run/containerd/containerd.sock"
_PORT: Final = 6443
_MEGABYTE: Final = 2**20


def server(instance: Instance) -> str:
    """Return the URL of the instance's API server."""
    return f"https://{instance.node_address}:{_PORT}"


def files(instance: Instance, pause: str) -> dict[str, str]:
    """Return the files of the node's `/etc/kubernetes` besides keys and kubeconfigs. `pause`: the sandbox image."""
    return {
        "containerd.toml": _containerd(pause),
        "cni/10-node.conflist": _network(instance),
        "kubelet.yaml": _kubelet(instance),
        "resolv.conf": "",
        "supervisord.conf": _supervisord(instance),
    }


def kubeadm(instance: Instance, pki: Path) -> str:
    """Return kubeadm's configuration for keys and kubeconfigs in the folder `pki`. They are valid for ten years."""
    documents = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": instance.node_address, "bindPort": _PORT},
            "nodeRegistration": {"name": instance.cgroup, "criSocket": f"unix://{_CONTAINERD}"},
        },
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "clusterName": instance.cgroup,
            # Explicit, because kubeadm would ask the network for the newest.
            "kubernetesVersion": f"v{KUBERNETES}",
            "certificatesDir": str(pki),
            "certificateValidityPeriod": "87600h",
            "caCertificateValidityPeriod": "87600h",
            "networking": {"podSubnet": instance.pod_cidr, "serviceSubnet": instance.service_cidr},
        },
    ]
    return yaml.safe_dump_all(documents, sort_keys=False)


def _containerd(pause: str) -> str:
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{_CONTAINERD}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# A profile would be loaded into the machine's kernel.
disable_apparmor = true
# Processes of the node may not have the right to lower it.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{_ETC}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def _network(instance: Instance) -> str:
    # A bridge would need the module br_netfilter, which changes how the machine's own bridges work.
    plugins = [
        {
            "type": "ptp",
            "mtu": 1500,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": instance.pod_cidr}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "0.4.0", "name": "node", "plugins": plugins}, indent=1) + "\n"


def _kubelet(instance: Instance) -> str:
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{_PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{instance.cgroup}",
        "clusterDNS": [instance.dns_address],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{_CONTAINERD}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "resolvConf": f"{_ETC}/resolv.conf",
        # The disk is the machine's: its usage says nothing about this node. A deleted image could not be pulled again,
        # since no registry has it.
        "evictionHard": dict.fromkeys(("imagefs.available", "nodefs.available", "nodefs.inodesFree"), "0%")
        | {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
    }
    return yaml.safe_dump(document, sort_keys=False)


def _supervisord(instance: Instance) -> str:
    parser = configparser.RawConfigParser()
    parser["supervisord"] = {
        "user": "root",
        "logfile": "/var/log/supervisord.log",
        "logfile_maxbytes": str(5 * _MEGABYTE),
        "logfile_backups": "1",
        "pidfile": "/run/supervisord.pid",
    }
    parser["unix_http_server"] = {"file": "/run/supervisor.sock"}
    parser["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    parser["supervisorctl"] = {"serverurl": "unix:///run/supervisor.sock"}
    commands = _commands(instance)
    for priority, name in enumerate(COMPONENTS):
        parser[f"program:{name}"] = {
            "command": shlex.join(_gated(commands[name], _GATES.get(name))).replace("%", "%%"),
            "priority": str(priority),
            "autorestart": "true",
            # Waits 1, 2, 3, … seconds between attempts, then gives up until the next `make up`.
            "startretries": "5",
            "startsecs": "2",
            "stopwaitsecs": "5",
            "redirect_stderr": "true",
            "stdout_logfile": f"/var/log/{name}.log",
            "stdout_logfile_maxbytes": str(20 * _MEGABYTE),
            "stdout_logfile_backups": "1",
        }
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _gated(command: list[str], gate: str | None) -> list[str]:
    if gate is None:
        return command
    return ["sh", "-c", f"until [ -e {gate} ]; do sleep 0.1; done; exec {shlex.join(command)}"]


def _commands(instance: Instance) -> dict[str, list[str]]:
    return {
        # etcd syncs to disk: data survives a crash of the machine, not only of the process.
        "etcd": [
            "etcd",
            "--name=node",
            "--data-dir=/var/lib/etcd",
            "--listen-client-urls=https://127.0.0.1:2379",
            "--advertise-client-urls=https://127.0.0.1:2379",
            "--listen-peer-urls=https://127.0.0.1:2380",
            "--initial-advertise-peer-urls=https://127.0.0.1:2380",
            "--initial-cluster=node=https://127.0.0.1:2380",
            "--client-cert-auth",
            f"--trusted-ca-file={_PKI}/etcd/ca.crt",
            f"--cert-file={_PKI}/etcd/server.crt",
            f"--key-file={_PKI}/etcd/server.key",
            "--peer-client-cert-auth",
            f"--peer-trusted-ca-file={_PKI}/etcd/ca.crt",
            f"--peer-cert-file={_PKI}/etcd/peer.crt",
            f"--peer-key-file={_PKI}/etcd/peer.key",
            "--auto-compaction-retention=1",
        ],
        "containerd": ["containerd", f"--config={_ETC}/containerd.toml"],
        "kube-apiserver": [
            "kube-apiserver",
            f"--advertise-address={instance.node_address}",
            f"--secure-port={_PORT}",
            "--etcd-servers=https://127.0.0.1:2379",
            f"--etcd-cafile={_PKI}/etcd/ca.crt",
            f"--etcd-certfile={_PKI}/apiserver-etcd-client.crt",
            f"--etcd-keyfile={_PKI}/apiserver-etcd-client.key",
            f"--client-ca-file={_PKI}/ca.crt",
            f"--tls-cert-file={_PKI}/apiserver.crt",
            f"--tls-private-key-file={_PKI}/apiserver.key",
            f"--kubelet-client-certificate={_PKI}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={_PKI}/apiserver-kubelet-client.key",
            # The node's name is not resolvable.
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={_PKI}/sa.pub",
            f"--service-account-signing-key-file={_PKI}/sa.key",
            f"--service-cluster-ip-range={instance.service_cidr}",
            "--authorization-mode=Node,RBAC",
            # PodSecurity is enabled by default.
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--requestheader-client-ca-file={_PKI}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={_PKI}/front-proxy-client.crt",
            f"--proxy-client-key-file={_PKI}/front-proxy-client.key",
        ],
        "kube-controller-manager": [
            "kube-controller-manager",
            *(f"--{use}kubeconfig={_ETC}/controller-manager.conf" for use in ("", "authentication-", "authorization-")),
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--root-ca-file={_PKI}/ca.crt",
            f"--service-account-private-key-file={_PKI}/sa.key",
            f"--cluster-signing-cert-file={_PKI}/ca.crt",
            f"--cluster-signing-key-file={_PKI}/ca.key",
            "--allocate-node-cidrs",
            f"--cluster-cidr={instance.pod_cidr}",
            "--node-cidr-mask-size=24",
            f"--service-cluster-ip-range={instance.service_cidr}",
        ],
        "kube-scheduler": [
            "kube-scheduler",
            *(f"--{use}kubeconfig={_ETC}/scheduler.conf" for use in ("", "authentication-", "authorization-")),
            "--leader-elect=false",
        ],
        "kubelet": [
            "kubelet",
            f"--config={_ETC}/kubelet.yaml",
            f"--kubeconfig={_ETC}/kubelet.conf",
            f"--hostname-override={instance.cgroup}",
            f"--node-ip={instance.node_address}",
            # The log level that reports changed sysctls; kube-proxy must not change any.
            "-v=2",
        ],
        "kube-proxy": [
            "kube-proxy",
            f"--kubeconfig={_ETC}/kube-proxy.conf",
            f"--cluster-cidr={instance.pod_cidr}",
            f"--hostname-override={instance.cgroup}",
            "--proxy-mode=iptables",
            # All limits of connection tracking are the machine's.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ],
        # Enforces NetworkPolicies only.
        "kube-router": [
            "env",
            # A filter in front of Debian's iptables-restore, see init.sh.
            "PATH=/run/kube-router:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "/opt/kube-router/kube-router",
            f"--kubeconfig={_ETC}/kube-router.conf",
            f"--hostname-override={instance.cgroup}",
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--enable-cni=false",
            "--health-port=0",
            f"--service-cluster-ip-range={instance.service_cidr}",
        ],
    }
