"""Command line of the sandbox, called by the Makefile: the verbs of `mlflow-stack`, and its own."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import click

from mlflow_stack import pod
from mlflow_stack.access import proxy
from mlflow_stack_cli import commands
from mlflow_stack_cli.commands import Commands, aside, export
from mlflow_stack_cli.deployment import Deployment
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.progress import Progress
from mlflow_stack_cli.project import Project
from mlflow_stack_cli.yamlfile import Tree
from sandbox import hosts, quickstart, stackfile
from sandbox.cluster import Node
from sandbox.paths import PROJECT, Instance
from sandbox.platform import PROJECT_NAME, Sandbox
from sandbox.stackfile import StackFile

_FORCE = click.option("--force", is_flag=True, help="Do not ask.")


class Asked(commands.Asked):
    """Instance and stack selected by the options, with the program of this checkout."""

    images = {  # noqa: RUF012 - the type is the base's
        f"{PROJECT_NAME}:image": pod.DEFAULT_IMAGE,
        f"{PROJECT_NAME}:proxyImage": proxy.DEFAULT_IMAGE,
    }

    def __init__(self, instance: str, stack: str, context: str, backend: str) -> None:
        super().__init__(PROJECT, stack, context)
        self.instance = instance
        self.context = context
        self.backend = backend

    @cached_property
    def project(self) -> Project:
        return Project.read(PROJECT)

    def require(self) -> None:
        StackFile.require(self.stack)

    def judge(self, config: Tree) -> None:
        stackfile.judged(config)

    def place(self) -> dict[str, str]:
        return {"instance": self.instance}

    def platform(self) -> Sandbox:
        return self._platform(Instance.open(self.instance))

    def existing(self) -> Instance | None:
        """The existing instance, if any."""
        return next((instance for instance in Instance.existing() if instance.name == self.instance), None)

    def running(self) -> Deployment:
        """The deployment of an existing instance. Raises `LocalError` if it does not exist."""
        platform = self.sandbox()
        return Deployment(self.project, self.stack, platform)

    def sandbox(self) -> Sandbox:
        """The platform of an existing instance. Raises `LocalError` if it does not exist."""
        if instance := self.existing():
            StackFile.require(self.stack, instance)
            return self._platform(instance)
        known = ", ".join(instance.name for instance in Instance.existing()) or "none"
        raise LocalError(f"there is no instance {self.instance} (there are: {known}). Next: `make up`.")

    def _platform(self, instance: Instance) -> Sandbox:
        found = Sandbox(instance, self.stack, self.context, self.backend)
        aside(f"stack {self.stack} of instance {instance.name}")
        for key, value in found.file.by_hand.items():
            drop = f"{self.command('config')} REMOVE={shlex.quote(key)}"
            aside(f"  {key}: {value}  set by hand on this machine; `{drop}` removes it")
        return found

    def command(self, verb: str) -> str:
        """Return the make command for `verb` with these options."""
        stated = (
            ("INSTANCE", self.instance, os.environ.get("MLFLOW_STACK_INSTANCE", "default")),
            ("STACK", self.stack, os.environ.get("MLFLOW_STACK_STACK", "dev")),
            ("CONTEXT", self.context, ""),
            ("BACKEND", self.backend, os.environ.get("MLFLOW_STACK_BACKEND", "")),
        )
        options = [f"{name}={shlex.quote(value)}" for name, value, usual in stated if value != usual]
        return " ".join(["make", "-s", verb, *options])

    def spelled(self, text: str) -> str:
        return re.sub(r"\bmlflow-stack ([a-z-]+)`", r"make \1`", text)


@click.group(cls=Commands, help="A complete MLflow on this machine, or in a cluster of yours.")
@click.option("--instance", default="default", help="Which of the platforms on this machine.", show_default=True)
@click.option("--stack", default="dev", help="Which Pulumi.<stack>.yaml.", show_default=True)
@click.option("--context", default="", help="Your kube context. Default: a node of its own on this machine.")
@click.option("--backend", default="", help="URL of your Pulumi backend. Default: the instance's own state.")
@click.pass_context
def main(ctx: click.Context, instance: str, stack: str, context: str, backend: str) -> None:
    """Return the group of all verbs."""
    ctx.obj = Asked(instance, stack, context, backend)


commands.add_to(main)


@main.command()
@click.pass_obj
def up(asked: Asked) -> None:
    """Bring up engine, cluster, images and stack; then log a run."""
    asked.require()
    sandbox = asked.platform()
    here = Deployment(asked.project, asked.stack, sandbox)
    before = _built()
    with Progress() as progress:
        tools = commands.deploy(asked, here, progress, started=lambda: _tell_built(before))
        run = "none: the stack states no public address (`expose`)"
        if sandbox.public:
            run = quickstart.log_run(here.client_environment(tools), progress)
        outputs = here.outputs(tools)
    progress.table()
    password = f"""(eval "$({asked.command("env")})" && pulumi stack output --show-secrets password)"""
    click.echo(f"URL       {outputs['url']}")
    click.echo(f"user      {outputs['username']}")
    click.echo(f"password  {password}")
    click.echo(f"run       {run}")


@main.command()
@_FORCE
@click.pass_obj
def down(asked: Asked, force: bool) -> None:
    """Take the stack down, and its node unless other stacks run on it. Data, users and passwords are kept."""
    if not asked.existing():
        click.echo(f"there is no instance {asked.instance}", err=True)
        return
    sandbox = asked.sandbox()
    here = Deployment(asked.project, asked.stack, sandbox)
    others: list[str] = []
    with Progress() as progress:
        if sandbox.running():
            tools = sandbox.tools(progress)
            commands.destroy(asked, here, tools, progress)
            others = sandbox.others(tools) if sandbox.local else []
    if others and not _stop_all(asked, others, force):
        sandbox.leave()
    else:
        with Progress() as progress:
            sandbox.stop(progress)
    aside("down; data, users and passwords are kept")


@main.command()
@_FORCE
@click.pass_obj
def clean(asked: Asked, force: bool) -> None:
    """Delete an instance's data, after listing it."""
    instance = asked.existing()
    if not instance:
        click.echo(f"there is no instance {asked.instance}", err=True)
        return
    _agree(
        f"This deletes instance {instance.name}, {instance.root}:\n"
        "  its node with all volumes: every run, model and artifact kept there\n"
        "  the state and the passphrase of its stacks: generated passwords, keys set by hand\n"
        "  (objects in a cluster of yours stay there, and are no longer known to Pulumi)",
        force,
    )
    Node(instance).clean()
    hosts.remove(instance)
    instance.forget()
    click.echo(f"instance {instance.name} is gone", err=True)


@main.command()
@_FORCE
def distclean(force: bool) -> None:
    """Delete the caches. Their content can be re-created."""
    if busy := [instance.name for instance in Instance.existing() if Node(instance).running()]:
        raise LocalError(
            f"the node of {', '.join(busy)} runs from the caches. "
            f"Next: `make down INSTANCE={busy[0]}`, then run the same command again."
        )
    _agree(f"This deletes {cache_dir()}: builds and images, which take a while to make again.", force)
    shutil.rmtree(cache_dir(), ignore_errors=True)


@main.command()
@click.pass_obj
def env(asked: Asked) -> None:
    """Print the environment variables of pulumi and kubectl, for `eval`."""
    asked.require()
    sandbox = asked.platform()
    with Progress() as progress:
        tools = sandbox.prepare(progress)
    if not asked.backend:
        click.echo("unset PULUMI_CONFIG_PASSPHRASE")
    export(sandbox.shell(tools))


@main.command()
@click.option("--remove", default="", help="Which key to drop; `all` for every key.")
@click.pass_obj
def config(asked: Asked, remove: str) -> None:
    """List the keys that were set by hand, or reset one to the stack file's value."""
    sandbox = asked.sandbox()
    file = sandbox.file
    if not remove:
        if not file.by_hand:
            click.echo(f"every key is from {file.tracked.name}, sandbox/overlays or the local platform", err=True)
        for key, value in file.by_hand.items():
            click.echo(f"{key}: {value}")
        return
    gone = file.forget(lambda key: remove in ("all", key))
    if not gone:
        known = ", ".join(file.by_hand) or "none"
        raise LocalError(f"{remove} was not set by hand (keys that were: {known}). Next: choose one of them.")
    with Progress() as progress:
        sandbox.prepare(progress)
    click.echo(f"removed: {', '.join(gone)}. Next: `{asked.command('up')}` deploys it.", err=True)


def _agree(what: str, force: bool) -> None:
    click.echo(what, err=True)
    if force:
        return
    if not sys.stdin.isatty():
        raise LocalError("confirmation requires a terminal. Next: set FORCE=1 to proceed without one.")
    click.confirm("Go on?", abort=True, err=True)


def _stop_all(asked: Asked, others: list[str], force: bool) -> bool:
    """Return whether to stop the node although other servers run on it: only with FORCE, or after confirmation."""
    click.echo(f"other servers run on the node of instance {asked.instance}: {', '.join(others)}", err=True)
    if force or (sys.stdin.isatty() and click.confirm("Stop them, too?", err=True)):
        return True
    click.echo(f"the node keeps running. To stop it with all of them: `{asked.command('down')} FORCE=1`", err=True)
    return False


def _tell_built(before: set[str]) -> None:
    built = sorted(_built() - before)
    aside(f"built: {', '.join(built)}" if built else "nothing was built")


def _built() -> set[str]:
    """Return the names of the entries in the caches."""
    kept: Callable[[Path], bool] = lambda path: not path.name.startswith(".")  # noqa: E731
    return {
        path.name for folder in ("bin", "engine", "images") for path in (cache_dir() / folder).glob("*") if kept(path)
    }


if __name__ == "__main__":
    main(prog_name="python -m sandbox")
