"""Component as a plugin: a separate process that constructs for this test, which acts as the engine.

tests/e2e shows that a real engine constructs through the plugin.
"""

import subprocess
import sys
import typing
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime import rpc
from pulumi.runtime.proto import (
    engine_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

import engine

TYPE = "mlflow-stack:index:MlflowStack"
LATER = rpc._special_output_value_sig


class Monitor(resource_pb2_grpc.ResourceMonitorServicer, engine_pb2_grpc.EngineServicer):
    """Engine that records registrations."""

    def __init__(self) -> None:
        self.registered: dict[str, dict[str, Any]] = {}

    def SupportsFeature(self, request: Any, context: Any) -> Any:  # noqa: N802
        return resource_pb2.SupportsFeatureResponse(hasSupport=True)

    def RegisterResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.registered[f"{request.type} {request.name}"] = json_format.MessageToDict(request.object)
        made = struct_pb2.Struct()
        made.CopyFrom(request.object)
        if "length" in request.object:
            made["result"] = "x" * 16
        if "metadata" in request.object and "name" not in request.object["metadata"]:
            made["metadata"]["name"] = f"{request.name}-abcd1234"
        return resource_pb2.RegisterResourceResponse(
            urn=f"urn:pulumi:s::p::{request.type}::{request.name}", object=made
        )

    def RegisterResourceOutputs(self, request: Any, context: Any) -> Any:  # noqa: N802
        return empty_pb2.Empty()

    def Log(self, request: Any, context: Any) -> Any:  # noqa: N802
        return empty_pb2.Empty()


@pytest.fixture(scope="module")
def monitor() -> Iterator[tuple[Monitor, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    found = Monitor()
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(found, server)
    engine_pb2_grpc.add_EngineServicer_to_server(found, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found, f"127.0.0.1:{port}"
    server.stop(0)


@pytest.fixture(scope="module")
def plugin(monitor: tuple[Monitor, str]) -> Iterator[provider_pb2_grpc.ResourceProviderStub]:
    command = [sys.executable, str(engine.PROJECT / "components"), monitor[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = typing.cast(Any, process.stdout).readline().strip()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield provider_pb2_grpc.ResourceProviderStub(channel)
        process.terminate()


@pytest.fixture
def construct(plugin: provider_pb2_grpc.ResourceProviderStub, monitor: tuple[Monitor, str]) -> Any:
    def construct(args: dict[str, Any], *, preview: bool = False) -> dict[str, dict[str, Any]]:
        monitor[0].registered.clear()
        inputs = struct_pb2.Struct()
        inputs.update(args)
        plugin.Construct(
            provider_pb2.ConstructRequest(
                type=TYPE,
                name="mlflow",
                inputs=inputs,
                monitorEndpoint=monitor[1],
                project="p",
                stack="s",
                dryRun=preview,
            ),
            timeout=60,
        )
        return monitor[0].registered

    return construct


def later(value: Any) -> dict[str, Any]:
    """Return an Output of another resource, as the engine sends it."""
    sent: dict[str, Any] = {rpc._special_sig_key: LATER, "dependencies": ["urn:pulumi:s::p::t::other"]}
    return sent if value is None else {**sent, "value": value}


def refusal(construct: Any, args: dict[str, Any]) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        construct(args)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, refused.value.details()
    return refused.value.details()


def test_refused_args_are_reported_all_at_once_in_the_spelling_of_other_languages(
    construct: Any, monitor: tuple[Monitor, str]
) -> None:
    args = {
        "users": ["a:b"],
        "expose": {"kind": "loadbalancer"},
        "replicas": 1.5,
        "backendStore": {"mysql": {"hots": "x"}},
    }
    said = refusal(construct, args)
    assert said.startswith("MlflowStack 'mlflow': ")
    assert "  backendStore.mysql.hots: unknown key. Did you mean host?\n" in said
    assert "  replicas: must be a whole number (got 1.5)\n" in said
    assert "Traceback" not in said
    assert "File " not in said
    assert monitor[0].registered == {}


def test_output_of_another_resource_arrives(construct: Any) -> None:
    mysql = {"host": later("10.96.0.7"), "port": later(3307), "password": later("p@ss")}
    made = construct({"backendStore": {"mysql": mysql}, "namespace": "team"})
    (job,) = (one for name, one in made.items() if name == "kubernetes:batch/v1:Job mlflow-schema")
    env = {
        variable["name"]: variable.get("value") for variable in job["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert (env["HOST"], env["PORT"]) == ("10.96.0.7", "3307")


def test_preview_bears_outputs_that_are_not_known(construct: Any) -> None:
    mysql = {"host": later(None), "port": later(None), "password": later(None)}
    made = construct({"backendStore": {"mysql": mysql}, "expose": {"ingress": {}, "host": later(None)}}, preview=True)
    assert "kubernetes:networking.k8s.io/v1:Ingress mlflow" in made


def test_output_is_refused_by_name_where_a_plain_value_is_needed(construct: Any, monitor: tuple[Monitor, str]) -> None:
    said = refusal(construct, {"replicas": later(2), "backendStore": later({"pvc": {}})})
    for key in ("replicas", "backendStore"):
        assert (
            f"  {key}: must be known before the deployment, because it decides what is declared (got an Output)" in said
        )
    assert monitor[0].registered == {}


def test_output_that_turns_out_wrong_is_reported_by_its_key(construct: Any) -> None:
    mysql = {"host": later("mysql://me:hunter2@db"), "password": "p"}
    said = refusal(construct, {"backendStore": {"mysql": mysql}})
    form = "must be a lower-case host name without scheme, port or path, such as mlflow.example.com"
    assert said.startswith(f'backendStore.mysql.host: {form} (got "mysql://***@db")')
    assert "hunter2" not in said
