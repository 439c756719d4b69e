"""The command `mlflow-stack`."""

import sys
from pathlib import Path

try:
    import click

    from mlflow_stack_cli import commands
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed. Next: `pip install 'mlflow-stack[cli]'`.")


def command_line() -> click.Group:
    """Return the group of all verbs, on the project of a folder and an existing cluster."""

    @click.group(cls=commands.Commands, help="An MlflowStack of a Pulumi project, on a cluster of yours.")
    @click.option("--cwd", default=".", type=click.Path(file_okay=False, path_type=Path), help="Folder of the project.")
    @click.option("--stack", "-s", default="", envvar="PULUMI_STACK", help="Which stack. Default: the only one.")
    @click.option("--context", default="", help="Kube context. Default: as Pulumi's Kubernetes provider takes it.")
    @click.version_option(package_name="mlflow-stack")
    @click.pass_context
    def group(ctx: click.Context, cwd: Path, stack: str, context: str) -> None:
        ctx.obj = commands.Asked(cwd, stack, context)

    commands.add_to(group)
    return group


def main() -> None:
    """Run the command."""
    command_line()(prog_name="mlflow-stack")


if __name__ == "__main__":
    main()
