"""Control groups of the node, on trees that behave as the kernel's documentation says."""

import errno
import shutil
from pathlib import Path

import pytest

from mlflow_stack_cli.errors import LocalError
from sandbox.cluster.cgroups import Cgroup

V1 = ("cpu", "cpuset", "memory", "pids", "systemd")


def _busy(path):
    return OSError(errno.EBUSY, "Device or resource busy", str(path))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Make folders below tmp_path behave as cgroups: with files that appear, disappear and refuse writes."""
    mkdir, write_text = Path.mkdir, Path.write_text

    def populate(folder):
        if (folder.parent / "cgroup.controllers").exists():
            write_text(folder / "cgroup.controllers", (folder.parent / "cgroup.subtree_control").read_text())
            write_text(folder / "cgroup.subtree_control", "")
        if folder.relative_to(tmp_path).parts[0] == "cpuset":
            write_text(folder / "cpuset.cpus", "\n")
            write_text(folder / "cpuset.mems", "\n")
        write_text(folder / "cgroup.procs", "")

    def make(self, *arguments, **options):
        new = not self.exists()
        mkdir(self, *arguments, **options)
        if new and self.is_relative_to(tmp_path):
            populate(self)

    def write(self, data, *arguments, **options):
        if self.name != "cgroup.subtree_control":
            return write_text(self, data, *arguments, **options)
        controller = data.removeprefix("+")
        if controller not in (self.parent / "cgroup.controllers").read_text().split():
            raise OSError(errno.ENOENT, "No such file or directory", str(self))
        if self.parent != tmp_path and (self.parent / "cgroup.procs").read_text().strip():
            raise _busy(self)
        return write_text(self, f"{self.read_text()} {controller}".strip())

    def remove(self):
        if not self.exists():
            raise FileNotFoundError(self)
        if any(path.is_dir() for path in self.iterdir()) or (self / "cgroup.procs").read_text().strip():
            raise _busy(self)
        shutil.rmtree(self)

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setattr(Path, "rmdir", remove)
    return tmp_path


@pytest.fixture
def unified(kernel):
    (kernel / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc")
    (kernel / "cgroup.procs").write_text("1\n2\n")
    (kernel / "cgroup.subtree_control").write_bytes(b"memory pids")  # enabled by systemd
    return kernel


@pytest.fixture
def separate(kernel):
    for name in V1:
        (kernel / name).mkdir()
    (kernel / "cpuset/cpuset.cpus").write_text("0-3\n")
    (kernel / "cpuset/cpuset.mems").write_text("0\n")
    (kernel / "cpu,cpuacct").symlink_to("cpu")
    (kernel / "unified").mkdir()
    (kernel / "unified/cgroup.controllers").write_text("")
    (kernel / "unified/cgroup.subtree_control").write_bytes(b"")
    return kernel


def test_v2_controllers_are_handed_on_from_the_root_and_from_the_cgroup(unified):
    cgroup = Cgroup("mlflow-stack-x", unified)

    assert cgroup.unified
    assert cgroup.create() == [unified / "mlflow-stack-x/node/cgroup.procs"]

    handed_on = {"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}
    for folder in (unified, unified / "mlflow-stack-x"):
        assert set((folder / "cgroup.subtree_control").read_text().split()) == handed_on
    # The kernel's rule: a cgroup that delegates controllers holds no processes, and a leaf delegates nothing.
    assert (unified / "mlflow-stack-x/cgroup.procs").read_text() == ""
    assert (unified / "mlflow-stack-x/node/cgroup.subtree_control").read_text() == ""


def test_v2_create_again_changes_nothing(unified):
    cgroup = Cgroup("mlflow-stack-x", unified)
    first = cgroup.create()
    (unified / "mlflow-stack-x/node/cgroup.procs").write_text("17\n")

    assert cgroup.create() == first
    assert cgroup.processes() == {17}


def test_v2_lacking_controller_is_named(unified):
    (unified / "cgroup.controllers").write_text("cpu memory pids")

    with pytest.raises(LocalError, match="do not offer cpuset, which a kubelet requires"):
        Cgroup("mlflow-stack-x", unified).create()


def test_v2_below_a_cgroup_that_holds_processes_says_so(unified, monkeypatch):
    """As in a container, whose visible root is an ordinary cgroup."""
    allowed = Path.write_text

    def refuse(self, data, *arguments, **options):
        if self == unified / "cgroup.subtree_control":
            raise _busy(self)
        return allowed(self, data, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", refuse)

    with pytest.raises(LocalError, match="not in a container"):
        Cgroup("mlflow-stack-x", unified).create()


def test_v1_every_hierarchy_once_and_cpusets_filled(separate):
    cgroup = Cgroup("mlflow-stack-x", separate)

    assert not cgroup.unified
    assert cgroup.create() == [separate / name / "mlflow-stack-x/node/cgroup.procs" for name in (*V1, "unified")]
    for folder in ("mlflow-stack-x", "mlflow-stack-x/node"):
        assert (separate / "cpuset" / folder / "cpuset.cpus").read_text() == "0-3\n"
        assert (separate / "cpuset" / folder / "cpuset.mems").read_text() == "0\n"


def test_v1_lacking_controller_is_named(separate):
    shutil.rmtree(separate / "memory")

    with pytest.raises(LocalError, match="do not offer memory, which"):
        Cgroup("mlflow-stack-x", separate).create()


@pytest.mark.parametrize("tree", ["unified", "separate"])
def test_processes_of_a_child_and_of_all(tree, request):
    root = request.getfixturevalue(tree)
    cgroup = Cgroup("mlflow-stack-x", root)
    base = cgroup.create()[0].parent.parent
    pod = base / "kubepods"
    pod.mkdir()
    (base / "node/cgroup.procs").write_text("5\n6\n")
    (pod / "cgroup.procs").write_text("7\n0\n")

    assert cgroup.processes() == {5, 6, 7}
    assert cgroup.processes("kubepods") == {7}


@pytest.mark.parametrize("tree", ["unified", "separate"])
def test_remove_leaves_nothing_and_may_be_repeated(tree, request):
    root = request.getfixturevalue(tree)
    before = sorted(path for path in root.rglob("*") if path.is_dir())
    cgroup = Cgroup("mlflow-stack-x", root)
    cgroup.create()
    (root / "pids" / "mlflow-stack-x" if tree == "separate" else root / "mlflow-stack-x").joinpath("kubepods").mkdir()

    cgroup.remove()
    cgroup.remove()

    assert sorted(path for path in root.rglob("*") if path.is_dir()) == before


def test_remove_names_what_does_not_end(unified):
    cgroup = Cgroup("mlflow-stack-x", unified)
    cgroup.create()
    (unified / "mlflow-stack-x/node/cgroup.procs").write_text("42\n")

    with pytest.raises(LocalError, match="processes in it: 42"):
        cgroup.remove(seconds=0.1)
