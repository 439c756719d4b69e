"""Edit of the state before `make up` releases a protected resource."""

from mlflow_stack_cli.release import let_go

STATE = {
    "version": 3,
    "deployment": {
        "resources": [
            {"urn": "urn:pulumi:dev::p::k:v1:PersistentVolumeClaim::mlflow-data", "protect": True},
            {"urn": "urn:pulumi:dev::p::k:v1:Namespace::mlflow", "protect": True},
            {"urn": "urn:pulumi:dev::p::k:v1:Service::mlflow"},
        ]
    },
}


def test_exactly_the_protected_resources_of_that_name_are_let_go() -> None:
    claim, namespace, service = let_go(STATE, ["mlflow-data"])["deployment"]["resources"]
    assert claim == {"urn": claim["urn"], "retainOnDelete": True}
    assert [namespace, service] == STATE["deployment"]["resources"][1:]
    _, namespace, service = let_go(STATE, ["mlflow"])["deployment"]["resources"]
    assert namespace["retainOnDelete"]
    assert "protect" not in namespace
    assert service == STATE["deployment"]["resources"][2]


def test_releases_a_guard_only_by_the_data_that_it_protects() -> None:
    guard = {
        "urn": "urn:pulumi:dev::p::random:index/randomId:RandomId::mlflow-records-identity",
        "inputs": {"byteLength": 4, "keepers": {"identity": "mysql://db.example.com/mlflow"}},
        "protect": True,
    }
    state = {"deployment": {"resources": [guard]}}
    assert let_go(state, ["mlflow-records-identity", "mysql://other.example.com/mlflow"]) is state
    (found,) = let_go(state, ["mysql://db.example.com/mlflow"])["deployment"]["resources"]
    assert "protect" not in found


def test_the_state_given_is_not_changed_and_is_the_answer_where_nothing_is_to_be_done() -> None:
    let_go(STATE, ["mlflow-data"])
    assert STATE["deployment"]["resources"][0]["protect"]
    assert let_go(STATE, ["gone"]) is STATE
    once = let_go(STATE, ["mlflow-data"])
    assert let_go(once, ["mlflow-data"]) is once
    assert let_go({}, ["mlflow-data"]) == {}
