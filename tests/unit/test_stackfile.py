"""Which value stands in an instance's stack file, and what becomes of what was set there by hand."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from local import stackfile
from local.errors import LocalError
from local.paths import Instance
from local.stackfile import Hand, StackFile, apply, gather, merge

OVERLAY = {"p:image": "localhost/a:1", "p:expose": {"kind": "nodeport", "nodePort": 30500}}


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
    """As `pulumi config set` does: one key, the rest as it stands; None takes a key away."""
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
    elsewhere = {"kind": "route", "host": "mlflow.example.com", "allowFrom": ["192.0.2.0/24"]}
    here = {"kind": "ingress", "host": "dev.mlflow.test"}
    write(stackfile.PROJECT / "Pulumi.dev.yaml", {"mlflow-stack:expose": elsewhere})
    file.remake({"mlflow-stack:expose": here})
    assert file.config == {"mlflow-stack:expose": here}
    file.remake({})
    assert file.config == {"mlflow-stack:expose": elsewhere}


def test_an_own_overlay_file_wins_over_the_platforms(file: StackFile) -> None:
    folder = stackfile.PROJECT / "local" / "overlays"
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


def test_pulumis_own_formatting_is_left_alone(file: StackFile) -> None:
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
    with pytest.raises(LocalError, match=r"^Pulumi\.prod\.yaml does not exist\. Next: choose a STACK of dev\.$"):
        StackFile(file.instance, "prod").remake({})


def test_a_broken_file_is_named(file: StackFile) -> None:
    file.tracked.write_text("a: [")
    with pytest.raises(LocalError, match=r"Pulumi\.dev\.yaml is no valid YAML"):
        file.remake({})
    file.tracked.write_text("[]")
    with pytest.raises(LocalError, match=r"Pulumi\.dev\.yaml holds no map"):
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
    overlays = stackfile.PROJECT / "local" / "overlays"
    overlays.mkdir(parents=True)
    write(overlays / "dev.yaml", {"p:store": {"s3": {"endpoint": "http://s3"}}}, services=["s3"])
    assert file.services == ["s3"]
    assert file.declared["p:store"] == {"pvc": {"size": "1Gi", "class": "a"}, "s3": {"endpoint": "http://s3"}}
    file.remake({})
    assert file.config == file.declared
