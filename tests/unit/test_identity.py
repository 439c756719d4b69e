"""Identity of data: one text for one location, whichever of its names is given."""

import pytest

from mlflow_stack import identity


@pytest.mark.parametrize(
    ("host", "port", "wanted"),
    [
        ("mysql.example.com", 3306, "mysql://mysql.example.com/ml"),
        ("mysql.example.com", 3307, "mysql://mysql.example.com:3307/ml"),
        ("10.1.2.3", 3306, "mysql://10.1.2.3/ml"),
        ("db", 3306, "mysql://db.team/ml"),
        ("db.team", 3306, "mysql://db.team/ml"),
        ("db.team.svc", 3306, "mysql://db.team/ml"),
        ("db.team.svc.cluster.local", 3306, "mysql://db.team/ml"),
    ],
)
def test_names_a_database_in_one_way(host: str, port: int, wanted: str) -> None:
    assert identity.database("mysql", 3306, "team", host, port, "ml") == wanted


def test_quotes_the_name_of_a_database() -> None:
    assert identity.database("mysql", 3306, "team", "a.b", 3306, "my db?") == "mysql://a.b/my%20db%3F"


@pytest.mark.parametrize(
    ("prefix", "endpoint", "wanted"),
    [
        ("", None, "s3://b"),
        ("teams/vision", None, "s3://b/teams/vision"),
        ("", "https://a3s.fi", "s3://b?endpoint=https://a3s.fi"),
        ("", "https://a3s.fi:443", "s3://b?endpoint=https://a3s.fi"),
        ("p", "http://s3.storage.svc:9000", "s3://b/p?endpoint=http://s3.storage:9000"),
        ("", "http://minio:80", "s3://b?endpoint=http://minio.team"),
    ],
)
def test_names_a_bucket_in_one_way(prefix: str, endpoint: str | None, wanted: str) -> None:
    assert identity.bucket("team", "b", prefix, endpoint) == wanted


def test_names_a_claim_with_its_namespace() -> None:
    assert identity.claim("team", "mlflow-data") == "pvc://team/mlflow-data"
