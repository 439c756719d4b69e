"""Minimal cost of a preview: as many resources as a stack has, all empty."""

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random as random

config = pulumi.Config()
provider = k8s.Provider("kubernetes")
for number in range(config.require_int("components")):
    pulumi.ComponentResource("bare:index:Nothing", f"component-{number}", {}, None)
for number in range(config.require_int("random")):
    random.RandomString(f"random-{number}", length=16)
for number in range(config.require_int("kubernetes")):
    k8s.core.v1.ConfigMap(
        f"map-{number}",
        metadata={"name": f"map-{number}", "namespace": config.require("namespace")},
        data={"key": "value"},
        opts=pulumi.ResourceOptions(provider=provider),
    )
