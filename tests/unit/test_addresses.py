"""Addresses of a stack that follow from one host."""

from mlflow_stack import Addresses


def test_addresses_without_a_public_address() -> None:
    names = Addresses("mlflow", "team")
    assert names.url == "http://mlflow.team.svc"
    assert names.public_hosts == []
    assert names.internal_hosts == ["mlflow", "mlflow.team", "mlflow.team.svc", "mlflow.team.svc.cluster.local"]
    assert names.origins == ["http://mlflow.team.svc"]


def test_with_a_public_address() -> None:
    names = Addresses("mlflow", "team", host="mlflow.example.com", port=30500)
    assert names.url == "http://mlflow.example.com:30500"
    assert names.origins == ["http://mlflow.example.com:30500"]
    assert names.internal_url == "http://mlflow.team.svc"
    assert names.allowed_hosts == [
        "mlflow.example.com",
        "mlflow.example.com:*",
        "mlflow",
        "mlflow:*",
        "mlflow.team",
        "mlflow.team:*",
        "mlflow.team.svc",
        "mlflow.team.svc:*",
        "mlflow.team.svc.cluster.local",
        "mlflow.team.svc.cluster.local:*",
        "localhost",
        "localhost:*",
        "127.0.0.1",
        "127.0.0.1:*",
    ]


def test_under_a_path_over_tls() -> None:
    names = Addresses("mlflow", "team", host="mlflow.example.com", scheme="https", path="/ml")
    assert names.url == "https://mlflow.example.com/ml"
    assert names.origins == ["https://mlflow.example.com"]
    assert names.internal_url == "http://mlflow.team.svc/ml"
    assert names.serving_url("iris") == "https://mlflow.example.com/ml/serving/iris"
    assert names.internal_serving_url("iris") == "http://mlflow-iris.team.svc/ml/serving/iris"


def test_a_model_without_a_port_of_its_own_is_reached_in_the_cluster() -> None:
    names = Addresses("mlflow", "team", host="mlflow.example.com", port=30500)
    assert names.serving_url("iris", 30501) == "http://mlflow.example.com:30501/serving/iris"
    assert names.serving_url("iris") == "http://mlflow-iris.team.svc/serving/iris"
    assert Addresses("mlflow", "team").serving_url("iris") == "http://mlflow-iris.team.svc/serving/iris"
    own = Addresses("mlflow", "team", host="mlflow.example.com", routes_models=False)
    assert own.serving_url("iris") == "http://mlflow-iris.team.svc/serving/iris"
