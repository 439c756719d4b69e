"""Configuration of a node, as texts."""

import base64
import configparser
import ipaddress
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from mlflow_stack.pod import network
from sandbox.authority import Certificate
from sandbox.cluster import config, node
from sandbox.cluster.programs import Programs
from sandbox.images import Image
from sandbox.paths import Instance

INSTANCE = Instance("alpha", 7)
PAUSE = "localhost/mlflow-stack/pause:1"


def image(name):
    return Image(f"localhost/mlflow-stack/{name}:1", Path(f"{name}.tar"))


@pytest.fixture
def texts():
    return config.files(INSTANCE, PAUSE)


@pytest.fixture
def objects():
    programs = Programs(
        root=Path("root"),
        binaries=Path("bin"),
        router=Path("router"),
        supervisor=Path("supervisor"),
        pause=image("pause"),
        coredns=image("coredns"),
        provisioner=image("provisioner"),
        shell=image("shell"),
        traefik=image("traefik"),
        gateway_api="",
    )
    return list(yaml.safe_load_all(node.manifests(INSTANCE, programs, Certificate("a certificate", "a key"))))


def commands(texts):
    parser = configparser.RawConfigParser()
    parser.read_string(texts["supervisord.conf"])
    return {name: parser[f"program:{name}"] for name in config.COMPONENTS}


def test_every_component_is_supervised_and_logs_under_its_name(texts):
    for name, program in commands(texts).items():
        assert program["autorestart"] == "true"
        assert program["stdout_logfile"] == f"/var/log/{name}.log"
        assert program["redirect_stderr"] == "true"


def test_admission_authorization_and_networks(texts):
    command = commands(texts)["kube-apiserver"]["command"].split()

    assert "--authorization-mode=Node,RBAC" in command
    assert "--enable-admission-plugins=NodeRestriction" in command
    assert not any(word.startswith("--disable-admission-plugins") for word in command)
    assert "--service-cluster-ip-range=10.215.7.0/24" in command
    assert "--advertise-address=10.213.7.2" in command


def test_does_not_change_the_machine_s_connection_tracking(texts):
    command = commands(texts)["kube-proxy"]["command"]

    assert "--conntrack-max-per-core=0" in command
    assert "--cluster-cidr=10.214.7.0/24" in command


def test_data_is_synced_to_disk(texts):
    assert "no-fsync" not in commands(texts)["etcd"]["command"]


def test_containerd(texts):
    cri = tomllib.loads(texts["containerd.toml"])["plugins"]["io.containerd.grpc.v1.cri"]

    assert cri["sandbox_image"] == PAUSE
    assert cri["disable_apparmor"]
    assert not cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"]


def test_kubelet_has_its_cgroup_its_dns_and_keeps_every_image(texts):
    kubelet = yaml.safe_load(texts["kubelet.yaml"])

    assert kubelet["cgroupRoot"] == "/mlflow-stack-alpha"
    assert kubelet["clusterDNS"] == ["10.215.7.10"]
    assert kubelet["imageGCHighThresholdPercent"] == 100
    assert not kubelet["authentication"]["anonymous"]["enabled"]


def test_pods_have_the_instance_s_range(texts):
    network = json.loads(texts["cni/10-node.conflist"])

    assert network["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.214.7.0/24"}]]


def test_kubeadm_is_told_everything_it_would_ask_the_network_for():
    init, cluster = yaml.safe_load_all(config.kubeadm(INSTANCE, Path("/x/pki")))

    assert init["localAPIEndpoint"]["advertiseAddress"] == "10.213.7.2"
    assert init["nodeRegistration"]["name"] == "mlflow-stack-alpha"
    assert cluster["kubernetesVersion"] == f"v{config.KUBERNETES}"
    assert cluster["certificatesDir"] == "/x/pki"


def test_two_instances_share_no_network(texts):
    other = Instance("beta", 8)

    def networks(text):
        return {ipaddress.ip_network(found, strict=False) for found in re.findall(r"10\.\d+\.\d+\.\d+(?:/\d+)?", text)}

    ours = networks("\n".join(texts.values()))
    theirs = networks("\n".join(config.files(other, PAUSE).values()))
    assert ours
    assert not any(our.overlaps(two) for our in ours for two in theirs)


def test_manifests_are_complete_and_name_local_images_only(objects):
    rendered = yaml.safe_dump_all(objects)

    assert "${" not in rendered
    assert "$VOL_DIR" in rendered
    images = set(re.findall(r"image: ([\w./:-]+)", rendered))
    assert images == {f"localhost/mlflow-stack/{name}:1" for name in ("coredns", "provisioner", "shell", "traefik")}
    services = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "Service"}
    assert services["kube-dns"]["clusterIP"] == "10.215.7.10"
    assert services["traefik"]["externalIPs"] == ["10.213.7.2"]


def test_ingress_has_the_instance_s_certificate_believes_nobody_and_does_not_call_home(objects):
    secret = next(item for item in objects if item["kind"] == "Secret")
    assert {name: base64.b64decode(value) for name, value in secret["data"].items()} == {
        "tls.crt": b"a certificate",
        "tls.key": b"a key",
    }
    deployment = next(
        item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] == "traefik"
    )
    command = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
    assert "--global.checknewversion=false" in command
    assert "--global.sendanonymoususage=false" in command
    assert not any("forwardedheaders" in word for word in command)
    (gateway,) = (item for item in objects if item["kind"] == "Gateway")
    assert gateway["spec"]["listeners"][0]["hostname"] == "*.alpha.mlflow.test"


def test_policies_are_enforced_by_a_program_that_does_nothing_else(texts):
    command = commands(texts)["kube-router"]["command"]

    assert "--run-firewall=true --run-router=false --run-service-proxy=false --enable-cni=false" in command
    assert "--service-cluster-ip-range=10.215.7.0/24" in command
    # Behind the filter of its rules for bridges.
    assert "PATH=/run/kube-router:" in command


def test_name_servers_listen_where_policies_allow_names_to_be_asked(objects):
    deployment = next(
        item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] == "coredns"
    )
    ports = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert {port["containerPort"] for port in ports} <= set(network.DNS_PORTS)


def test_storage_class_is_the_default_and_waits_for_a_pod(objects):
    (storage,) = (item for item in objects if item["kind"] == "StorageClass")

    assert storage["metadata"]["name"] == "local-path"
    assert storage["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert storage["volumeBindingMode"] == "WaitForFirstConsumer"
    assert storage["allowVolumeExpansion"] is True


def test_own_pods_are_restricted(objects):
    for deployment in (item for item in objects if item["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["imagePullPolicy"] == "Never"
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
