"""Supervisor of a node, which is its first process."""

import subprocess
from typing import Final

from sandbox.cluster.process import Process

_CONTROL: Final = ("python3", "-m", "supervisor.supervisorctl", "--configuration", "/etc/kubernetes/supervisord.conf")
_DEAD: Final = ("FATAL", "EXITED", "STOPPED")


class Supervisor:
    """Client of the supervisor of the node's components."""

    def __init__(self, process: Process) -> None:
        """`process`: the node's first process."""
        self._process = process

    def states(self) -> dict[str, str]:
        """Return the state of each component, in the supervisor's words; nothing if it does not answer."""
        lines = [line.split() for line in self._control("status").splitlines()]
        return {words[0]: words[1] for words in lines if len(words) > 1 and words[1].isupper()}

    def revive(self) -> None:
        """Restart the components that have given up."""
        if dead := [name for name, state in self.states().items() if state in _DEAD]:
            self._control("start", *dead)

    def stop(self, component: str) -> None:
        """Stop a component."""
        self._control("stop", component)

    def _control(self, *words: str) -> str:
        argv = self._process.enter(*_CONTROL, *words)
        # The exit status says whether all components run, not whether the command succeeded.
        return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stdout
