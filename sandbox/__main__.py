"""The command line of the local platform, behind the Makefile's verbs."""

import json
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from mlflow_stack import pod
from mlflow_stack.access import proxy
from mlflow_stack_cli import follow, lock, preflight
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.progress import Progress
from sandbox import deployment, hosts
from sandbox.cluster import Node
from sandbox.deployment import Deployment, Tools
from sandbox.paths import PROJECT, Instance
from sandbox.stackfile import StackFile

_UP = ("pulumi", "up", "--yes", "--skip-preview", "--non-interactive")
_DOWN = ("pulumi", "destroy", "--yes", "--non-interactive", "--exclude-protected")
_FORCE = click.option("--force", is_flag=True, help="Do not ask.")


class Asked:
    """What the options name."""

    def __init__(self, instance: str, stack: str, context: str, backend: str) -> None:
        self.instance = instance
        self.stack = stack
        self.context = context
        self.backend = backend

    def deployment(self) -> Deployment:
        """The deployment; its instance is made if need be. Raises `LocalError` for a stack without a stack file."""
        StackFile.require(self.stack)
        return self._named(Instance.open(self.instance))

    def existing(self) -> Instance | None:
        """The instance, where there is one."""
        return next((one for one in Instance.existing() if one.name == self.instance), None)

    def running(self) -> Deployment:
        """The deployment of an instance that is there. Raises `LocalError` where there is none."""
        if instance := self.existing():
            StackFile.require(self.stack, instance)
            return self._named(instance)
        known = ", ".join(one.name for one in Instance.existing()) or "none"
        raise LocalError(f"there is no instance {self.instance} (there are: {known}). Next: `make up`.")

    def _named(self, instance: Instance) -> Deployment:
        found = Deployment(instance, self.stack, self.context, self.backend)
        click.echo(f"stack {self.stack} of instance {instance.name}", err=True)
        for key, value in found.file.by_hand.items():
            drop = f"{self.make('config')} REMOVE={shlex.quote(key)}"
            click.echo(f"  {key}: {value}  set by hand on this machine; `{drop}` removes it", err=True)
        return found

    def make(self, verb: str) -> str:
        """The make command for `verb` with these options."""
        stated = (
            ("INSTANCE", self.instance, os.environ.get("MLFLOW_STACK_INSTANCE", "default")),
            ("STACK", self.stack, os.environ.get("MLFLOW_STACK_STACK", "dev")),
            ("CONTEXT", self.context, ""),
            ("BACKEND", self.backend, os.environ.get("MLFLOW_STACK_BACKEND", "")),
        )
        options = [f"{name}={shlex.quote(value)}" for name, value, usual in stated if value != usual]
        return " ".join(["make", "-s", verb, *options])


class Commands(click.Group):
    """Prints what went wrong without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LocalError as error:
            told = str(error)
        except BrokenPipeError:
            raise
        except OSError as error:
            told = f"{error.filename or 'a file or program'}: {error.strerror or error}. Next: correct that."
        except json.JSONDecodeError as error:
            # What it answered may hold a secret.
            told = f"a program's answer is no JSON ({error}). Next: `make status`, then the same again."
        click.echo(f"error: {told}", err=True)
        raise click.exceptions.Exit(1)


def command_line(summary: str) -> click.Group:
    """A group of commands whose options say where they work."""

    @click.group(cls=Commands, help=summary)
    @click.option("--instance", default="default", help="Which of the platforms on this machine.", show_default=True)
    @click.option("--stack", default="dev", help="Which Pulumi.<stack>.yaml.", show_default=True)
    @click.option("--context", default="", help="Your kube context. Default: a node of its own on this machine.")
    @click.option("--backend", default="", help="URL of your Pulumi backend. Default: the instance's own state.")
    @click.pass_context
    def group(ctx: click.Context, instance: str, stack: str, context: str, backend: str) -> None:
        ctx.obj = Asked(instance, stack, context, backend)

    return group


main = command_line("A complete MLflow on this machine, or in a cluster of yours.")


@main.command()
@click.pass_obj
def up(asked: Asked) -> None:
    """Bring it up: engine, cluster, images, stack; then log a run."""
    here = asked.deployment()
    before = _built()
    with Progress() as progress:
        tools = here.start(progress)
        with progress.step("preflight", 1):
            notes = preflight.check(here.cluster(tools), here.file.settings)
        built = sorted(_built() - before)
        click.echo(f"built: {', '.join(built)}" if built else "nothing was built", err=True)
        for note in notes:
            click.echo(note, err=True)
        here.settle_on_context()
        here.unlock(tools, _aside)
        here.recover(tools, _aside)
        here.release(tools)
        cluster = here.cluster(tools)
        with progress.streaming("pulumi up"), follow.following(cluster, _namespace(here), _aside):
            here.resume(tools, _aside, servers=False)
            preview = asked.make("preview")
            here.stream(
                tools, _UP, f"fix the errors above (`{preview}` explains each change), then `{asked.make('up')}` again"
            )
        with follow.following(cluster, _namespace(here), _aside):
            resumed = here.resume(tools, _aside, servers=True)
        if not resumed and set(here.changes(tools)) <= {"same"}:
            click.echo("nothing changed", err=True)
        here.introduce(cluster)
        run = "none: the stack states no public address (`expose`)"
        if here.public:
            run = deployment.client(here.client_environment(tools), progress)
        outputs = here.outputs(tools)
    progress.table()
    password = f"""(eval "$({asked.make("env")})" && pulumi stack output --show-secrets password)"""
    click.echo(f"URL       {outputs['url']}")
    click.echo(f"user      {outputs['username']}")
    click.echo(f"password  {password}")
    click.echo(f"run       {run}")


@main.command()
@_FORCE
@click.pass_obj
def down(asked: Asked, force: bool) -> None:
    """Take the stack down, and its node unless other stacks run on it; data, users and passwords stay."""
    if not asked.existing():
        click.echo(f"there is no instance {asked.instance}", err=True)
        return
    here = asked.running()
    others: list[str] = []
    with Progress() as progress:
        if not here.local or here.node.running():
            tools = here.tools(progress)
            if here.exists(tools):
                here.unlock(tools, _aside)
                here.recover(tools, _aside)
                with progress.streaming("pulumi destroy"):
                    here.stream(tools, _DOWN, f"`{asked.make('status')}`, then `{asked.make('down')}` again")
            others = here.others(tools) if here.local else []
    if others and not _stop_all(asked, others, force):
        here.leave()
    else:
        with Progress() as progress:
            here.close(progress)
    click.echo("down; data, users and passwords are kept", err=True)


@main.command()
@_FORCE
@click.pass_obj
def clean(asked: Asked, force: bool) -> None:
    """Delete an instance's data, after naming it."""
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
    """Delete the caches: everything that can be made again."""
    if busy := [one.name for one in Instance.existing() if Node(one).running()]:
        raise LocalError(
            f"the node of {', '.join(busy)} runs from the caches. Next: `make down INSTANCE={busy[0]}`, then again."
        )
    _agree(f"This deletes {cache_dir()}: builds and images, which take a while to make again.", force)
    shutil.rmtree(cache_dir(), ignore_errors=True)


@main.command()
@click.pass_obj
def status(asked: Asked) -> None:
    """What runs."""
    here = asked.running()
    with Progress() as progress:
        tools = here.tools(progress)
    pid = here.node.pid()
    where = f"kube context {here.context}"
    if here.local:
        where = f"node {here.instance.node_address}, " + (f"runs (pid {pid})" if pid else "does not run")
    click.echo(f"instance  {here.instance.name}\nstack     {here.stack}\ncluster   {where}")
    runs = bool(pid) or not here.local
    outputs = here.outputs(tools) if runs and here.exists(tools) else {}
    click.echo(f"URL       {outputs.get('url', 'not up')}")
    if runs:
        _kubectl(here, tools, "get", "pods,services,persistentvolumeclaims", "--output=wide")


@main.command()
@click.argument("component", required=False)
@click.option("--lines", default=50, show_default=True, help="How many of each log.")
@click.pass_obj
def logs(asked: Asked, component: str | None, lines: int) -> None:
    """The pods' last lines, or those of a COMPONENT of the node, such as kubelet."""
    here = asked.running()
    if component:
        click.echo(here.node.logs(component, lines))
        return
    with Progress() as progress:
        tools = here.tools(progress)
    names = here.cluster(tools).run("get", "pods", f"--namespace={_namespace(here)}", "--output=name")
    if names.returncode:
        raise LocalError(f"the pods cannot be listed: {names.stderr.strip()}\nNext: `{asked.make('status')}`.")
    for name in names.stdout.split():
        _kubectl(here, tools, "logs", name, "--all-containers", "--prefix", f"--tail={lines}", "--ignore-errors")


@main.command()
@click.pass_obj
def watch(asked: Asked) -> None:
    """Follow the pods while they start: what each is busy with, until interrupted."""
    here = asked.running()
    with Progress() as progress:
        tools = here.tools(progress)
    _kubectl(here, tools, "get", "pods")
    with suppress(KeyboardInterrupt):
        follow.follow(here.cluster(tools), _namespace(here), click.echo, threading.Event())


@main.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where something has moved.")
@click.pass_obj
def pin(asked: Asked, check: bool) -> None:
    """Write the versions that aliases and `latest` mean now beside them, where the stack file has them."""
    # Only here: it imports MLflow and the components, which takes seconds.
    from mlflow_stack_cli import pin as pins

    here = asked.deployment()
    file = here.file.home(pins.KEY)
    known = pins.references(file)
    if not known:
        click.echo(f"no model in {file.name} has an alias or latest", err=True)
        return
    with Progress() as progress:
        # A registry that the environment names is asked, so that a checkout alone can pin; else the stack's own.
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.update(here.client_environment(here.prepare(progress)))
        with progress.step("ask the registry", 3):
            moved = pins.moved(known, pins.registry())
        for one in moved:
            click.echo(str(one))
        if not moved:
            click.echo("every reference is pinned to what it means now", err=True)
        elif check:
            raise LocalError(f"these have moved. Next: `{asked.make('pin')}`, and commit the change.")
        else:
            pins.write(file, moved)
            click.echo(f"written: {file}", err=True)
            if here.file.path.exists():
                here.prepare(progress)


@main.command()
@click.pass_obj
def env(asked: Asked) -> None:
    """Print what pulumi and kubectl need by hand, for `eval`."""
    here = asked.deployment()
    with Progress() as progress:
        tools = here.prepare(progress)
    if not asked.backend:
        click.echo("unset PULUMI_CONFIG_PASSPHRASE")
    _export(here.shell(tools))


@main.command("client-env")
@click.pass_obj
def client_env(asked: Asked) -> None:
    """Print what MLflow's client needs, for `eval`."""
    here = asked.running()
    with Progress() as progress:
        tools = here.tools(progress)
        variables = here.client_environment(tools)
    _export(variables)


@main.command("preflight")
@click.pass_obj
def check(asked: Asked) -> None:
    """Look whether the cluster has what the stack names; changes nothing there."""
    here = asked.deployment()
    with Progress() as progress:
        tools = here.prepare(progress)
    if here.local and not here.node.running():
        raise LocalError(f"the node of instance {here.instance.name} does not run. Next: `{asked.make('up')}`.")
    for note in preflight.check(here.cluster(tools), here.file.settings):
        click.echo(note, err=True)
    click.echo("the cluster has what the stack names", err=True)


@main.command("lock")
@click.pass_obj
def lock_images(asked: Asked) -> None:
    """Write the digests of the images into Pulumi.<stack>.yaml, as their registries give them."""
    StackFile.require(asked.stack)
    file = PROJECT / f"Pulumi.{asked.stack}.yaml"
    defaults = {"mlflow-stack:image": pod.DEFAULT_IMAGE, "mlflow-stack:proxyImage": proxy.DEFAULT_IMAGE}
    for change in lock.lock(file, defaults) or ["nothing changed"]:
        click.echo(change, err=True)


@main.command()
@click.option("--remove", default="", help="Which key to drop; `all` for every key.")
@click.pass_obj
def config(asked: Asked, remove: str) -> None:
    """List the keys that were set by hand, or drop one: the stack file's value counts again."""
    here = asked.running()
    file = here.file
    if not remove:
        if not file.by_hand:
            click.echo(f"every key is from {file.tracked.name}, sandbox/overlays or the local platform", err=True)
        for key, value in file.by_hand.items():
            click.echo(f"{key}: {value}")
        return
    gone = file.forget(lambda key: remove in ("all", key))
    if not gone:
        known = ", ".join(file.by_hand) or "none"
        raise LocalError(f"{remove} was not set by hand (keys that were: {known}). Next: name one of them.")
    with Progress() as progress:
        here.prepare(progress)
    click.echo(f"removed: {', '.join(gone)}. Next: `{asked.make('up')}` deploys it.", err=True)


def exports(variables: dict[str, str]) -> str:
    """Lines for a shell's `eval`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def _export(variables: dict[str, str]) -> None:
    click.echo(exports(variables))


def _aside(text: str) -> None:
    click.echo(text, err=True)


def _agree(what: str, force: bool) -> None:
    click.echo(what, err=True)
    if force:
        return
    if not sys.stdin.isatty():
        raise LocalError("nobody is there to be asked. Next: the same with FORCE=1, if that is meant.")
    click.confirm("Go on?", abort=True, err=True)


def _stop_all(asked: Asked, others: list[str], force: bool) -> bool:
    """Whether the node stops though other servers run on it: only with FORCE, or when a person says so."""
    click.echo(f"other servers run on the node of instance {asked.instance}: {', '.join(others)}", err=True)
    if force or (sys.stdin.isatty() and click.confirm("Stop them, too?", err=True)):
        return True
    click.echo(f"the node keeps running. To stop it with all of them: `{asked.make('down')} FORCE=1`", err=True)
    return False


def _kubectl(here: Deployment, tools: Tools, *arguments: str) -> None:
    argv = [str(tools.kubectl), *arguments, f"--namespace={_namespace(here)}"]
    here.stream(tools, argv, "`make status`")


def _namespace(here: Deployment) -> str:
    config = here.file.config
    keys = ("mlflow-stack:existingNamespace", "mlflow-stack:namespace", "mlflow-stack:name")
    return next((config[key] for key in keys if key in config), "mlflow")


def _built() -> set[str]:
    """The names of what the caches hold."""
    kept: Callable[[Path], bool] = lambda path: not path.name.startswith(".")  # noqa: E731
    return {
        path.name for folder in ("bin", "engine", "images") for path in (cache_dir() / folder).glob("*") if kept(path)
    }


if __name__ == "__main__":
    main(prog_name="python -m sandbox")
