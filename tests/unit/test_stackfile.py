"""Values in an instance's stack file, and the fate of values set there by hand."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlflow_stack_cli import yamlfile
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.stackfile import read
from sandbox import stackfile
from sandbox.paths import Instance
from sandbox.stackfile import Hand, StackFile, apply, gather, merge

OVERLAY = {"p:image": "localhost/a:1", "p:expose": {"nodePort": 30500}}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFile:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setattr(stackfile, "PROJECT", project)
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path / "data"))
    write(
        project / "Pulumi.dev.yaml", {"p:size": "5Gi", "p:store": {"pvc": {"size": "1Gi", "class": "a"}}, "p:list": [1]}
    )
    return StackFile(Instance.open("one"), "dev")


def write(path: Path, config: dict[str, Any], **other: Any) -> None:
    path.write_text(yaml.safe_dump({"config": config, **other}))


def edit(file: StackFile, **values: Any) -> None:
    """Edit a file as `pulumi config set` does: one key, the rest unchanged; None removes a key."""
    content = yaml.safe_load(file.path.read_text())
    for name, value in values.items():
        key = f"p:{name}"
        if value is None:
            del content["config"][key]
        else:
            content["config"][key] = value
    file.path.write_text(yaml.safe_dump(content))


def test_overlay_wins_over_the_tracked_file_and_both_are_there(file: StackFile) -> None:
    file.remake({"p:store": {"pvc": {"class": "local"}}, "p:list": [2], **OVERLAY})
    assert file.config == {
        "p:size": "5Gi",
        "p:store": {"pvc": {"size": "1Gi", "class": "local"}},
        "p:list": [2],
        **OVERLAY,
    }


def test_nothing_of_an_address_in_another_cluster_is_left(file: StackFile) -> None:
    elsewhere = {"route": {}, "host": "mlflow.example.com", "allowFrom": ["192.0.2.0/24"]}
    here = {"ingress": {}, "host": "dev.mlflow.test"}
    write(stackfile.PROJECT / "Pulumi.dev.yaml", {"mlflow-stack:expose": elsewhere})
    file.remake({"mlflow-stack:expose": here})
    assert file.config == {"mlflow-stack:expose": here}
    file.remake({})
    assert file.config == {"mlflow-stack:expose": elsewhere}


def test_an_own_overlay_file_wins_over_the_platforms(file: StackFile) -> None:
    folder = stackfile.PROJECT / "sandbox" / "overlays"
    folder.mkdir(parents=True)
    write(folder / "dev.yaml", {"p:image": "other:2"})
    file.remake(OVERLAY)
    assert file.config["p:image"] == "other:2"


def test_a_second_merge_changes_no_byte(file: StackFile) -> None:
    file.remake(OVERLAY, {"encryptionsalt": "v1:salt"})
    folder = file.path.parent
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    file.remake(OVERLAY)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_keeps_pulumis_own_formatting(file: StackFile) -> None:
    file.remake(OVERLAY)
    edited = f"# mine\n{file.path.read_text()}"
    file.path.write_text(edited)
    file.remake(OVERLAY)
    assert file.path.read_text() == edited


def test_what_was_set_by_hand_wins_and_survives_changes_below(file: StackFile) -> None:
    file.remake(OVERLAY)
    edit(file, size="9Gi", image="mine:1", fresh="x")
    file.remake(OVERLAY | {"p:image": "localhost/a:2"})
    write(file.tracked, {"p:size": "6Gi", "p:other": True})
    file.remake(OVERLAY | {"p:image": "localhost/a:3"})
    assert file.config == {
        "p:size": "9Gi",
        "p:other": True,
        "p:image": "mine:1",
        "p:expose": OVERLAY["p:expose"],
        "p:fresh": "x",
    }


def test_a_field_set_by_hand_leaves_its_neighbours_to_the_tracked_file(file: StackFile) -> None:
    file.remake({})
    edit(file, store={"pvc": {"size": "7Gi", "class": "a"}})
    write(file.tracked, {"p:store": {"pvc": {"size": "2Gi", "class": "b"}}})
    file.remake({})
    assert file.config == {"p:store": {"pvc": {"size": "7Gi", "class": "b"}}}


def test_taking_away_a_key_set_by_hand_brings_back_what_is_below(file: StackFile) -> None:
    file.remake({})
    edit(file, size="9Gi", fresh="x")
    file.remake({})
    edit(file, size=None, fresh=None)
    file.remake({})
    assert file.config["p:size"] == "5Gi"
    assert "p:fresh" not in file.config


def test_a_tracked_key_taken_away_by_hand_stays_away_until_set_again(file: StackFile) -> None:
    file.remake({})
    edit(file, size=None)
    file.remake({})
    file.remake({})
    assert "p:size" not in file.config
    edit(file, size="4Gi")
    file.remake({})
    assert file.config["p:size"] == "4Gi"


def test_the_salt_stays_and_comes_back_with_a_lost_file(file: StackFile) -> None:
    file.remake(OVERLAY, {"encryptionsalt": "v1:salt"})
    assert file.salted
    file.path.unlink()
    assert file.salted
    file.remake(OVERLAY)
    assert yaml.safe_load(file.path.read_text())["encryptionsalt"] == "v1:salt"


def test_a_secret_set_by_hand_replaces_a_map_as_one_value(file: StackFile) -> None:
    file.remake({})
    edit(file, store={"secure": "v1:abc"})
    write(file.tracked, {"p:store": {"pvc": {"size": "2Gi"}}})
    file.remake({})
    assert file.config["p:store"] == {"secure": "v1:abc"}


def test_only_the_owner_may_read_what_is_written(file: StackFile) -> None:
    file.remake(OVERLAY)
    assert {path.stat().st_mode & 0o777 for path in file.path.parent.iterdir()} == {0o600}


def test_an_unknown_stack_is_refused_by_naming_the_known_ones(file: StackFile) -> None:
    with pytest.raises(
        LocalError, match=r"^Pulumi\.prod\.yaml does not exist\. Next: choose a STACK of dev, or write the file\.$"
    ):
        StackFile(file.instance, "prod").remake({})


def test_a_broken_file_is_named(file: StackFile) -> None:
    file.tracked.write_text("a:\n- [")
    with pytest.raises(LocalError, match=r"Pulumi\.dev\.yaml:2 is not valid YAML: expected the node content"):
        file.remake({})
    file.tracked.write_text("[]")
    with pytest.raises(LocalError, match=r"Pulumi\.dev\.yaml does not contain a map"):
        file.remake({})


leaves = st.integers(0, 3) | st.text("ab", max_size=2) | st.lists(st.integers(0, 1), max_size=2)
trees = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        leaves, lambda under: st.dictionaries(st.sampled_from("abc"), under, min_size=1, max_size=3), max_leaves=8
    ),
    max_size=3,
)


@given(below=trees, current=trees)
def test_what_was_gathered_from_any_edit_gives_that_edit_again(below: dict[str, Any], current: dict[str, Any]) -> None:
    assert apply(below, gather(Hand(), below, current)) == current


@given(below=trees, first=trees, second=trees)
def test_a_second_edit_stands_unless_it_takes_away(
    below: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    hand = gather(Hand(), below, first)
    wanted = merge(first, second)
    assert apply(below, gather(hand, first, wanted)) == wanted


@given(below=trees, above=trees)
def test_merging_the_same_again_changes_nothing(below: dict[str, Any], above: dict[str, Any]) -> None:
    once = merge(below, above)
    assert merge(once, above) == once


def test_the_local_overlay_names_services_beside_its_configuration(file: StackFile) -> None:
    assert file.services == []
    overlays = stackfile.PROJECT / "sandbox" / "overlays"
    overlays.mkdir(parents=True)
    write(overlays / "dev.yaml", {"p:store": {"s3": {"endpoint": "http://s3"}}}, services=["s3"])
    assert file.services == ["s3"]
    assert file.declared["p:store"] == {"pvc": {"size": "1Gi", "class": "a"}, "s3": {"endpoint": "http://s3"}}
    file.remake({})
    assert file.config == file.declared


@pytest.mark.parametrize("services", [5, "s3", {"s3": {}}, [5]])
def test_rejects_services_that_are_no_names(file: StackFile, services: Any) -> None:
    overlay = stackfile.PROJECT / "sandbox" / "overlays" / "dev.yaml"
    overlay.parent.mkdir(parents=True)
    write(overlay, {}, services=services)
    with pytest.raises(LocalError) as refused:
        file.remake({})
    message = "services: must be a list of names, such as [s3]. Next: correct it."
    assert str(refused.value) == f"{overlay}: {message}"


AMBIGUOUS = "programs read this value differently. Quote it for text, or write a plain number."


@pytest.mark.parametrize(
    "text",
    [
        *("12345e6", "1e3", "y", "N", "yes", "off", "True", "0o14", "014", "0x1F", "0b1", "1_000", "1:30", "+5", ".5"),
        *("5.", "2001-01-01", "2001-1-1 1:2:3", ".inf", ".NaN", "<<", "="),
    ],
)
def test_rejects_values_that_the_engine_reads_differently(tmp_path: Path, text: str) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text(f"config:\n  p:users: [ann,\n    {text}]\n")
    with pytest.raises(LocalError) as refused:
        read(file, "mlflow-stack")
    assert str(refused.value).splitlines() == [
        f"{file}:3: {AMBIGUOUS}",
        "Next: fix the errors above, then run the same command again.",
    ]


@given(st.text() | st.sampled_from(["12345e6", "y", "0o14", "1:30", "2001-01-01", "null", "", "<<", "5", "true"]))
def test_text_that_is_written_is_text_for_every_reader(text: str) -> None:
    written = yamlfile.dump({"a": text})
    assert yaml.safe_load(written) == {"a": text}
    assert yamlfile.loads(written, "written") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("5", 5), ("-3", -3), ("1.5", 1.5), ("true", True), ("'5'", "5"), ("!!str 5", "5")),
        *((text, text) for text in ("10Gi", "500m", "1.29.4", "192.0.2.0/24", "localhost:5000/a:1")),
    ],
)
def test_reads_plain_values(text: str, value: object) -> None:
    assert yamlfile.loads(f"a: {text}", "it") == {"a": value}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"config:\n  p:a:\n  p:b: ~\n  p:c: null\n", ":2: no value. Give one or remove the key."),
        (b"config:\n  p:a: &x [*x]\n", ":2: it is part of itself."),
        (b"config:\n  p:a: !!binary aGk=\n", ":2: the tag tag:yaml.org,2002:binary is not supported."),
        (b"config:\n  p:a: !!python/object:os.system x\n", ":2: the tag tag:yaml.org,2002:python/object:os.system is"),
        (b"config:\n  p:a: 1\n  p:a: 2\n", ":3: the key p:a must be set once."),
        (b"config:\n  p:a: {1: 2}\n", ":2: a key that is no text. Quote it."),
        (b"config: [1]\n", ": config: must be a map of keys. Next: correct it."),
        (b"config: replicas\n", ": config: must be a map of keys. Next: correct it."),
        (b"- config\n", " does not contain a map. Next: correct or remove it."),
        (
            b"services: [s3]\nconfig: {}\n",
            ": services: unknown key. Next: write the keys of the program under config.",
        ),
        (b"confg:\n  p:a: 1\n", ": confg: unknown key. Next: write the keys of the program under config."),
        (
            b"environment: [shared]\nconfig: {}\n",
            ": environment: not supported, because previews and render do not see what Pulumi ESC adds. Next: write ",
        ),
        (b"config:\n  p:a: \xff\n", " is not UTF-8 text (byte 15). Next: save it as UTF-8."),
        (b"config:\n  p:a: " + b"[" * 5000, " is not valid YAML: it is nested too deeply. Next: correct or remove it."),
        (b"config: {a: b\nc", ":2 is not valid YAML: expected ',' or '}', but got '<stream end>'. Next: correct or"),
        (b"a: 1\n---\nb: 1\n", ":2 is not valid YAML: but found another document. Next: correct or remove it."),
        (
            b"config:\n  replicas: 1\n  mlflow-stack:config:replicas: 2\n",
            ": mlflow-stack:replicas: must be set once (got it with and without its namespace). Next: remove one.",
        ),
    ],
)
def test_rejects_files_that_mean_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_bytes(content)
    with pytest.raises(LocalError) as refused:
        read(file, "mlflow-stack")
    assert str(refused.value).startswith(f"{file}{message}")


def test_rejects_aliases_that_stand_for_more_than_fits(tmp_path: Path) -> None:
    lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 10)]
    with pytest.raises(LocalError, match="too many values"):
        yamlfile.loads("\n".join(lines), "it")


def test_a_key_without_a_namespace_is_the_projects(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text("config:\n  replicas: 2\n  mlflow-stack:config:users: [ann]\n  kubernetes:context: x\n")
    assert read(file, "mlflow-stack")["config"] == {
        "mlflow-stack:replicas": 2,
        "mlflow-stack:users": ["ann"],
        "kubernetes:context": "x",
    }


def test_an_empty_configuration_is_none(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    for text in ("", "config:\n", "config: {}\n", "# nothing\n"):
        file.write_text(text)
        assert read(file, "mlflow-stack")["config"] == {}


def problems(config: Any) -> list[str]:
    with pytest.raises(LocalError) as refused:
        stackfile.judged({f"mlflow-stack:{key}": value for key, value in config.items()})
    _, _, *lines, last = str(refused.value).splitlines()
    assert last == "Next: fix the errors above, then run the same command again."
    return [line.strip() for line in lines]


ENCRYPT = "must be encrypted (value not shown). Encrypt it: pulumi config set --secret --path"
SHOWN = "must be plain text, because objects of the cluster show it (value not shown)"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"release": 5}, "release: must be a list (got 5)"),
        ({"release": [5]}, "release[0]: must be text (got 5)"),
        ({"name": {"a": 1}}, "name: "),
        ({"expose": "[" * 100_000}, 'expose: must be a map (got "[[['),
        ({"expose": "ingress"}, 'expose: must be a map (got "ingress")'),
        ({"backendStore": {"mysql": "db"}}, 'backendStore.mysql: must be a map (got "db")'),
        ({"backend_store": {}}, "backend_store: unknown key. Did you mean backendStore?"),
        ({"users": ["ann"], "passwords": {"ann": "x"}}, f"passwords.ann: {ENCRYPT} 'passwords.ann'"),
        (
            {"users": ["a.b@c"], "passwords": {"a.b@c": "correct horse"}},
            f"""passwords["a.b@c"]: {ENCRYPT} 'passwords["a.b@c"]'""",
        ),
        (
            {"backendStore": {"mysql": {"host": "db", "password": "x"}}},
            f"backendStore.mysql.password: {ENCRYPT} 'backendStore.mysql.password'",
        ),
        (
            {"artifactStore": {"s3": {"bucket": "abc", "accessKeyId": {"secure": "v1:x"}, "secretAccessKey": "y"}}},
            f"artifactStore.s3.secretAccessKey: {ENCRYPT} 'artifactStore.s3.secretAccessKey'",
        ),
        ({"image": {"secure": "v1:x"}}, f"image: {SHOWN}"),
        ({"labels": {"team": {"secure": "v1:x"}}}, f"labels.team: {SHOWN}"),
        (
            {"users": ["ann"], "passwords": {"secure": "v1:x"}},
            "passwords: must be a map (value not shown)",
        ),
    ],
)
def test_rejects_what_the_program_does_not_accept(config: dict[str, Any], message: str) -> None:
    assert any(line.startswith(message) for line in problems(config)), problems(config)


def test_says_which_key_nothing_reads() -> None:
    with pytest.raises(LocalError, match=r"mlflow-stak:replicas: unknown key\. Begin it with mlflow-stack:"):
        stackfile.judged({"mlflow-stak:replicas": 2})
    stackfile.judged({"kubernetes:context": "x", "pulumi:tags": {"a": "b"}})


def test_reads_settings_with_encrypted_values() -> None:
    found = stackfile.judged(
        {
            "mlflow-stack:users": ["ann"],
            "mlflow-stack:passwords": {"ann": {"secure": "v1:x"}},
            "mlflow-stack:labels": {"password": "a-label"},
            "mlflow-stack:release": ["mlflow-data"],
            "mlflow-stack:name": "team",
        }
    )
    assert (found.name, found.release, found.args["users"]) == ("team", ["mlflow-data"], ["ann"])


def test_keys_set_by_hand_are_listed_without_secrets(file: StackFile) -> None:
    file.remake(OVERLAY)
    assert file.by_hand == {}
    edit(file, size="9Gi", fresh={"secure": "v1:abc"}, list=None)
    assert file.by_hand == {"p:list": "removed", "p:size": '"9Gi"', "p:fresh": "[secret]"}
    file.remake(OVERLAY)
    assert file.by_hand == {"p:list": "removed", "p:size": '"9Gi"', "p:fresh": "[secret]"}


def test_a_key_that_is_forgotten_has_the_tracked_value_again(file: StackFile) -> None:
    file.remake(OVERLAY, {"encryptionsalt": "v1:salt"})
    edit(file, size="9Gi", list=None, store={"pvc": {"size": "7Gi", "class": "b"}})
    assert file.forget(lambda key: key == "p:store.pvc.size") == ["p:store.pvc.size"]
    file.remake(OVERLAY)
    assert file.config["p:store"] == {"pvc": {"size": "1Gi", "class": "b"}}
    assert file.by_hand == {"p:list": "removed", "p:size": '"9Gi"', "p:store.pvc.class": '"b"'}
    assert file.forget(lambda _: True) == ["p:list", "p:size", "p:store.pvc.class"]
    file.remake(OVERLAY)
    assert file.by_hand == {}
    assert file.config["p:list"] == [1]
    assert file.salted


def test_forgetting_what_was_not_set_changes_no_byte(file: StackFile) -> None:
    file.remake(OVERLAY)
    before = {path: path.read_bytes() for path in file.path.parent.iterdir()}
    assert file.forget(lambda _: True) == []
    assert {path: path.read_bytes() for path in file.path.parent.iterdir()} == before
