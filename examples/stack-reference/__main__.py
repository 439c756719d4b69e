"""Training job for the MLflow of another stack, whose outputs state its address."""

from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s

config = pulumi.Config()
mlflow = pulumi.StackReference(config.require("mlflow"))
namespace = mlflow.require_output("namespace")
cluster = k8s.Provider("cluster")
here = pulumi.ResourceOptions(provider=cluster)

# An immutable map with a name for each text, so that another text creates another job.
program = k8s.core.v1.ConfigMap(
    "train",
    metadata={"namespace": namespace},
    immutable=True,
    data={"train.py": Path(__file__).with_name("train.py").read_text()},
    opts=here,
)
k8s.batch.v1.Job(
    "train",
    metadata={"namespace": namespace, "annotations": {"pulumi.com/replaceUnready": "true"}},
    spec={
        "backoff_limit": 0,
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/name": "train"}},
            "spec": {
                "restart_policy": "Never",
                "automount_service_account_token": False,
                "security_context": {
                    "run_as_non_root": True,
                    "run_as_user": 10001,
                    "seccomp_profile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "train",
                        "image": config.require("image"),
                        "command": ["python", "/program/train.py"],
                        # Tracking URI, user and password: all that MLflow's client needs.
                        "env_from": [{"secret_ref": {"name": "mlflow-client"}}],
                        "env": [{"name": "HOME", "value": "/tmp"}],
                        "resources": {
                            "requests": {"cpu": "100m", "memory": "256Mi"},
                            "limits": {"memory": "1Gi"},
                        },
                        "security_context": {
                            "allow_privilege_escalation": False,
                            "read_only_root_filesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        # `pulumi up` prints this if the job fails.
                        "termination_message_policy": "FallbackToLogsOnError",
                        "volume_mounts": [
                            {"name": "program", "mount_path": "/program", "read_only": True},
                            {"name": "tmp", "mount_path": "/tmp"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "program", "config_map": {"name": program.metadata["name"]}},
                    {"name": "tmp", "empty_dir": {"size_limit": "256Mi"}},
                ],
            },
        },
    },
    opts=here,
)
# A secret of the other stack is one here, too.
pulumi.export("clientEnv", mlflow.require_output("clientEnv"))
