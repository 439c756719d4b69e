"""Installation of the model's requirements that the image lacks, into the pod's volume.

Runs in the MLflow image after ``fetch_model.py``, without credentials. Requirements that the image has in the pinned
version, and MLflow itself, come from the image. Everything else comes from the index ``INDEX_URL``; packages of the
image are never replaced by other versions. pip's cache stays in the volume until the installation is complete, so that
a restarted step continues.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from model_volume import NotYetError, RefusedError, Volume, brief, installed, patiently, reach, say, step, unmet
from packaging.utils import canonicalize_name

PYPI: Final = "https://pypi.org/simple/"
# Messages of pip if the index answers and a retry would fail again.
FINAL: Final = ("No matching distribution", "ResolutionImpossible", "metadata-generation-failed", "Failed to build")


def install(volume: Volume, index: str) -> None:
    """Try once to install the requirements."""
    wanted = unmet(volume.model)
    names = {canonicalize_name(requirement.name) for requirement in wanted}
    unfinished = volume.fresh("libraries")
    if not wanted:
        say("The image has all that the model needs")
        volume.complete(unfinished, volume.libraries)
        return
    say(f"Installing {', '.join(map(str, wanted))}")
    reach(index, f"the package index {index}")
    lists = volume.fresh("lists")
    requirements, constraints = lists / "requirements.txt", lists / "constraints.txt"
    requirements.write_text("".join(f"{requirement}\n" for requirement in wanted))
    constraints.write_text("".join(f"{name}=={v}\n" for name, v in installed().items() if name not in names))
    pip = [
        *(sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar=off"),
        *("--target", str(unfinished), "--index-url", index, "--cache-dir", str(volume.folder / ".cache")),
        *("--requirement", str(requirements), "--constraint", str(constraints)),
    ]
    if index.startswith("http:"):
        # Allow an index over plain http, which pip would ignore unless it is on loopback.
        pip += ["--trusted-host", urlsplit(index).netloc]
    told: list[str] = []
    with subprocess.Popen(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            told.append(line.rstrip())
            say(f"Installing: {told[-1]}")
    if process.returncode:
        errors = brief(" ".join(line for line in told if line.startswith("ERROR:")) or " ".join(told[-3:]))
        if any(words in line for line in told for words in FINAL):
            raise RefusedError(f"the model's libraries cannot be installed from {index}: {errors}")
        raise NotYetError(f"pip ended with {process.returncode}: {errors}")
    volume.complete(unfinished, volume.libraries)
    for folder in (lists, volume.folder / ".cache"):
        shutil.rmtree(folder, ignore_errors=True)
    say(f"Installed {', '.join(map(str, wanted))}")


def run(volume: Volume) -> None:
    """Run the step until it succeeds, fails for good or times out."""
    if volume.libraries.exists():
        say("The libraries are here already")
        return
    patiently(lambda: install(volume, os.environ.get("INDEX_URL", PYPI)))


def main() -> int:
    """Run the step as in the pod."""
    volume = Volume(Path(os.environ["VOLUME"]))
    return step(volume, lambda: run(volume))


if __name__ == "__main__":
    sys.exit(main())
