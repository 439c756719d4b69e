"""Control groups of a node and its pods, for versions 1 and 2 of the interface."""

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

    It holds no process, but two children: `node`, for the node's own processes, and `kubepods`, which the kubelet
    creates for pods. In version 2, a cgroup with controllers enabled for its children may hold no processes itself;
    version 1 has no such rule, but works with the same layout.
    """

    def __init__(self, name: str, root: Path = ROOT) -> None:
        """`name`: a path below the root; `root`: mount point of the hierarchies."""
        self.name = name
        self.root = root

    @property
    def unified(self) -> bool:
        """True if this machine uses only version 2; with both mounted, version 1 has the controllers."""
        return (self.root / "cgroup.controllers").exists()

    def create(self) -> list[Path]:
        """Create the cgroup and its child `node`; existing ones are kept.

        Returns the `cgroup.procs` files to which a process writes `0` to move itself into `node`.
        Raises `LocalError` if the kernel lacks something that a kubelet needs.
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
        """Return the ids of all processes in the cgroup, or in one of its children, at any depth."""
        found: set[int] = set()
        for hierarchy in self._hierarchies():
            # os.walk skips folders that are removed meanwhile.
            for folder, _, _ in os.walk(self._path(hierarchy) / child):
                try:
                    found.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
                except OSError as error:  # ENODEV: removed between open and read
                    if error.errno not in (errno.ENOENT, errno.ENODEV):
                        raise
        return found - {0}  # 0: a process in another pid namespace

    def remove(self, seconds: float = _SECONDS) -> None:
        """Delete the cgroup with its children, waiting for its processes to end; a missing one is no error.

        In version 2 the controllers stay enabled at the root: other software may rely on them.
        Raises `LocalError` with the processes that do not end.
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
                f"this machine's cgroups at {self.root} do not offer {', '.join(missing)}, which a kubelet requires. "
                "Next: enable it (kernel parameter `cgroup_enable`, or where a container holds this system, its "
                "delegation), or name your own cluster: `make up CONTEXT=<context>`."
            )

    def _hand_on(self, folder: Path) -> None:
        """Enable the folder's controllers for its children (version 2)."""
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
        """Fill a new cpuset (version 1): an empty one accepts no process."""
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
