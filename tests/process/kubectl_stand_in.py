"""Stand-in for kubectl in the documented commands of a backup: it records each call, and runs the command of ``exec``
with the environment of the applied pod, through the command in ``ENTER``."""

import json
import os
import subprocess
import sys
from pathlib import Path


def main(words: list[str]) -> int:
    """Answer one call; return its exit code."""
    folder = Path(os.environ["CLUSTER"])
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    match words[:2]:
        case ["get", "job"]:
            sys.stdout.write((folder / "jobs.json").read_text())
        case ["get", "deployment,statefulset"]:
            sys.stdout.write("deployment.apps/mlflow\n")
        case ["get", _]:
            sys.stdout.write("3")
        case ["apply", _]:
            (folder / "pod.json").write_text(sys.stdin.read())
        case ["exec", _]:
            (container,) = json.loads((folder / "pod.json").read_text())["spec"]["containers"]
            own = {name: os.environ[name] for name in ("PATH", "SCRIPTS")}
            env = own | {variable["name"]: variable["value"] for variable in container["env"]}
            command = [*json.loads(os.environ["ENTER"]), *words[words.index("--") + 1 :]]
            return subprocess.run(command, env=env, check=False).returncode
        case _:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
