"""The control groups that hold a node and its pods, for version 1 and version 2 of the interface."""

import errno
import os
import time
from pathlib import Path
from typing import Final

from mlflow_stack_cli.errors import LocalError

ROOT: Final = Path("/sys/fs/cgroup")
_NEEDED: Final = ("cpu", "cpuset", "memory", "pids")
_WANTED: Final = (*_NEEDED, "io", "hugetlb")
_LEAF: Final = "node"
_SECONDS: Final = 10.0


class Cgroup:
    """One cgroup (in version 1: one per hierarchy), from the root of the machine's.

    It holds no process, but two children: `node`, for the node's own processes, and `kubepods`, which the kubelet makes
    for pods. In version 2 a cgroup that hands controllers on may hold no processes itself; version 1 has no such rule,
    but the same shape does.
    """

    def __init__(self, name: str, root: Path = ROOT) -> None:
        """`name`: a path below the root; `root`: where the hierarchies are mounted."""
        self.name = name
        self.root = root

    @property
    def unified(self) -> bool:
        """Whether this machine has version 2 alone; with both mounted, the controllers are with version 1."""
        return (self.root / "cgroup.controllers").exists()

    def create(self) -> list[Path]:
        """Makes the cgroup and `node` in it; no error where they are.

        Returns the `cgroup.procs` files that a process writes `0` to in order to move itself into `node`.
        Raises `LocalError` where the kernel does not offer what a kubelet needs.
        """
        if self.unified:
            self._hand_on(self.root)
            self._path(self.root).mkdir(exist_ok=True)
            self._hand_on(self._path(self.root))
        self._require()
        for hierarchy in self._hierarchies():
            for folder in (self._path(hierarchy), self._path(hierarchy) / _LEAF):
                folder.mkdir(exist_ok=True)
                self._fill_cpuset(folder)
        return [self._path(hierarchy) / _LEAF / "cgroup.procs" for hierarchy in self._hierarchies()]

    def processes(self, child: str = "") -> set[int]:
        """The ids of all processes in it, or in that child of it, at any depth."""
        found: set[int] = set()
        for hierarchy in self._hierarchies():
            # os.walk passes over what is removed meanwhile.
            for folder, _, _ in os.walk(self._path(hierarchy) / child):
                try:
                    found.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
                except OSError as error:  # ENODEV: removed between open and read
                    if error.errno not in (errno.ENOENT, errno.ENODEV):
                        raise
        return found - {0}  # 0: a process of a pid namespace that is not ours

    def remove(self, seconds: float = _SECONDS) -> None:
        """Removes it with all below it, waiting up to that long for its processes to end; no error where it is not.

        In version 2 the controllers stay enabled at the root: others may have come to rely on them.
        Raises `LocalError` naming the processes that do not end.
        """
        deadline = time.monotonic() + seconds
        while not self._removed():
            if time.monotonic() > deadline:
                left = " ".join(str(pid) for pid in sorted(self.processes())) or "none that can be seen"
                raise LocalError(
                    f"the cgroup {self.name} cannot be removed: processes in it: {left}. "
                    "Next: look at them with `ps`, end them, then run the same command again."
                )
            time.sleep(0.05)

    def _path(self, hierarchy: Path) -> Path:
        return hierarchy / self.name

    def _hierarchies(self) -> list[Path]:
        if self.unified:
            return [self.root]
        # `cpu` and the like can be links to `cpu,cpuacct`.
        return sorted({file.parent.resolve() for file in self.root.glob("*/cgroup.procs")})

    def _require(self) -> None:
        if self.unified:
            offered = set((self._path(self.root) / "cgroup.controllers").read_text().split())
        else:
            offered = {name for name in _NEEDED if (self.root / name / "cgroup.procs").exists()}
        if missing := [name for name in _NEEDED if name not in offered]:
            raise LocalError(
                f"this machine's cgroups at {self.root} do not offer {', '.join(missing)}, which a kubelet needs. "
                "Next: enable it (kernel parameter `cgroup_enable`, or where a container holds this system, its "
                "delegation), or name a cluster of yours: `make up CONTEXT=<context>`."
            )

    def _hand_on(self, folder: Path) -> None:
        """Version 2: enables what the folder has for its children."""
        offered = (folder / "cgroup.controllers").read_text().split()
        enabled = (folder / "cgroup.subtree_control").read_text().split()
        for name in _WANTED:
            if name not in offered or name in enabled:
                continue
            try:
                # One at a time: a write of several takes effect for all or for none.
                (folder / "cgroup.subtree_control").write_text(f"+{name}")
            except OSError as error:
                if name not in _NEEDED:
                    continue
                raise LocalError(
                    f"the cgroup controller {name} cannot be enabled in {folder}: {error.strerror}. A cgroup that "
                    "holds processes cannot hand controllers on, unless it is the machine's real root. "
                    "Next: run this on the machine itself, not in a container, or name a cluster of yours: "
                    "`make up CONTEXT=<context>`."
                ) from error

    def _fill_cpuset(self, folder: Path) -> None:
        """Version 1: a new cpuset is empty, and no process can enter it."""
        for name in ("cpuset.cpus", "cpuset.mems"):
            file = folder / name
            if not self.unified and file.exists() and not file.read_text().strip():
                file.write_text((folder.parent / name).read_text())

    def _removed(self) -> bool:
        clean = True
        for hierarchy in self._hierarchies():
            for folder, _, _ in os.walk(self._path(hierarchy), topdown=False):
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                        raise
                    clean = False
        return clean
