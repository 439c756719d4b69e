"""`pulumi` wrapper for shells that evaluated `make env`: it refuses to work in another project's folder.

Such a shell sets the stack file of an instance, into which Pulumi would write another project's keys.
"""

import os
import shlex
from pathlib import Path
from typing import Final

from sandbox.paths import PROJECT, Instance, data_dir

_SCRIPT: Final = """\
#!/bin/sh
# Made by `make env`.
project={project}
folder=$PWD
named=
for word in "$@"; do
  case "$named$word" in
    --cwd=*) folder=${{word#--cwd=}} ;;
    -C | --cwd) named=next: ; continue ;;
    next:*) folder=$word ;;
    -C*) folder=${{word#-C}} ;;
  esac
  named=
done
folder=$(cd "$folder" 2>/dev/null && pwd -P) || folder=$project
while [ ! -e "$folder/Pulumi.yaml" ] && [ ! -e "$folder/Pulumi.yml" ] && [ ! -e "$folder/Pulumi.json" ]; do
  [ "$folder" = / ] && break
  folder=$(dirname "$folder")
done
case "$PULUMI_OPTION_CONFIG_FILE" in {stacks}/*)
  if [ "$folder" != / -o "$1" = new ] && ! [ "$folder" -ef "$project" ]; then
    echo "error: this shell works on stack $PULUMI_STACK of $project; $folder is another project." >&2
    echo "Next: open another shell, or \\`unset PULUMI_STACK PULUMI_OPTION_CONFIG_FILE\\` in this one." >&2
    exit 1
  fi
esac
exec {pulumi} "$@"
"""


def folder(instance: Instance) -> Path:
    """Return the folder of an instance's wrapper."""
    return instance.root / "bin"


def unguarded(path: str) -> str:
    """Return a PATH without such folders: the project's own commands run the real program."""
    folders = path.split(os.pathsep)
    return os.pathsep.join(entry for entry in folders if not Path(entry).is_relative_to(data_dir()))


def write(instance: Instance, pulumi: Path) -> None:
    """Write the wrapper, which runs the real program in this project's folder and outside of any project."""
    file = folder(instance) / "pulumi"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    values = {"project": PROJECT, "pulumi": pulumi, "stacks": instance.root / "stacks"}
    fresh = file.with_suffix(".new")
    fresh.write_text(_SCRIPT.format(**{name: shlex.quote(str(value)) for name, value in values.items()}))
    fresh.chmod(0o755)
    fresh.replace(file)
