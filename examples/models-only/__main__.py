"""One model, fetched from an external MLflow, behind its own password."""

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import Addresses, ModelServer, Users

config = pulumi.Config()
namespace = config.require("namespace")
cluster = k8s.Provider("cluster", enable_secret_mutable=True)
here = pulumi.ResourceOptions(providers=[cluster])

users = Users("serving", {"users": ["caller"]}, here)
htpasswd = k8s.core.v1.Secret(
    "serving-htpasswd",
    metadata={"name": "serving-htpasswd", "namespace": namespace},
    string_data={"htpasswd": pulumi.Output.concat(users.everyone[0].line, "\n")},
    opts=pulumi.ResourceOptions(provider=cluster),
)
addresses = Addresses("serving", namespace)
ModelServer(
    # The address is named after this, a dash and the model's name.
    "serving-diabetes",
    {
        "namespace": namespace,
        "model": {"name": "diabetes", "uri": config.require("model")},
        "addresses": addresses,
        "htpasswd": "serving-htpasswd",
        "tracking_uri": config.require("trackingUri"),
        "existing_secret": config.require("secret"),
        "wait_for": [htpasswd],
        **(config.get_object("args") or {}),
    },
    here,
)
pulumi.export("url", addresses.internal_serving_url("diabetes"))
pulumi.export("username", users.everyone[0].name)
pulumi.export("password", users.everyone[0].password)
