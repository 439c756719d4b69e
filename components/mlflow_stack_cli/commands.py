"""Verbs of the command line, for any project and any platform."""

import json
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TextIO

import click

from mlflow_stack_cli import follow, lock, preflight
from mlflow_stack_cli.deployment import Deployment
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.interrupted import Leftover
from mlflow_stack_cli.platform import ExistingCluster, Platform, Tools
from mlflow_stack_cli.previews import capture, forge, render, words
from mlflow_stack_cli.previews.capture import Recording
from mlflow_stack_cli.previews.compare import compare
from mlflow_stack_cli.previews.live import Live
from mlflow_stack_cli.previews.words import Words
from mlflow_stack_cli.progress import Progress
from mlflow_stack_cli.project import Project
from mlflow_stack_cli.yamlfile import Tree

_UP: Final = ("pulumi", "up", "--yes", "--skip-preview", "--non-interactive")
_DOWN: Final = ("pulumi", "destroy", "--yes", "--non-interactive", "--exclude-protected")
_REFUSED: Final = 3
_AFTER_DRIFT: Final = "take the change over into the stack file, or run `pulumi refresh` and then `mlflow-stack up`"


class Asked:
    """Project, stack and platform selected by the options."""

    images: Mapping[str, str] = {}
    """Images of the program itself, by the key that overrides each; for `lock`."""

    def __init__(self, folder: Path, stack: str, context: str) -> None:
        self._folder = folder
        self._stack = stack
        self._context = context

    @cached_property
    def project(self) -> Project:
        """The project. Raises `LocalError` if the folder is not in a project."""
        return Project.find(self._folder)

    @cached_property
    def stack(self) -> str:
        """Name of the stack: as stated, else the only one, else the selected one."""
        if self._stack:
            return self._stack
        known = self.project.stacks
        if len(known) == 1:
            return known[0]
        selected = ["pulumi", "stack", "--show-name", "--non-interactive"]
        with suppress(FileNotFoundError):
            done = subprocess.run(selected, cwd=self.project.folder, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
        raise LocalError(f"--stack: required (there are: {', '.join(known) or 'none'}). Next: name one.")

    def require(self) -> None:
        """Raise `LocalError` if the stack has no stack file."""
        file = self.project.stack_file(self.stack)
        if not file.exists():
            known = ", ".join(self.project.stacks) or "none"
            raise LocalError(f"{file} does not exist (there are: {known}). Next: `pulumi stack init {self.stack}`.")

    def judge(self, config: Tree) -> None:
        """Raise `LocalError` with all problems of a configuration that the program itself cannot detect."""

    def place(self) -> dict[str, str]:
        """Return the lines of `status` about the location of the stack, by title."""
        return {"project": self.project.name}

    def platform(self) -> Platform:
        """The platform of the stack."""
        return ExistingCluster(self.project, self.stack, self._context)

    def deployment(self) -> Deployment:
        """The deployment. Raises `LocalError` if the stack has no stack file."""
        self.require()
        return Deployment(self.project, self.stack, self.platform())

    def running(self) -> Deployment:
        """The existing deployment. Raises `LocalError` if there is none."""
        return self.deployment()

    def command(self, verb: str) -> str:
        """Return the command for a verb with these options."""
        stated = (("--cwd", str(self._folder), "."), ("--stack", self._stack, ""), ("--context", self._context, ""))
        options = [f"{name} {shlex.quote(value)}" for name, value, usual in stated if value != usual]
        return " ".join(["mlflow-stack", *options, verb])

    def spelled(self, text: str) -> str:
        """Return a message with its commands in the spelling of this command line."""
        return text


class Commands(click.Group):
    """Command group that prints errors without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LocalError as error:
            told = str(error)
        except BrokenPipeError:
            raise
        except OSError as error:
            told = f"{error.filename or 'a file or program'}: {error.strerror or error}. Next: fix this error."
        except json.JSONDecodeError as error:
            # The program's output may contain a secret.
            told = f"a program's output is not JSON ({error}). Next: run `mlflow-stack status`."
        asked: object = ctx.obj
        click.echo(f"error: {asked.spelled(told) if isinstance(asked, Asked) else told}", err=True)
        raise click.exceptions.Exit(1)


def add_to(group: click.Group) -> None:
    """Add the verbs to a group whose context has an `Asked`."""
    for command in (up, down, status, logs, watch, pin, client_env, check, lock_images, *_PREVIEWS):
        group.add_command(command)


def aside(text: str) -> None:
    """Print a line that is not the command's output."""
    click.echo(text, err=True)


def deploy(asked: Asked, here: Deployment, progress: Progress, started: Callable[[], None] = lambda: None) -> Tools:
    """Deploy the stack, and return when its pods are ready.

    :param started: Called when the cluster has what the stack needs, before the stack changes.

    Raises `LocalError` before anything changes if the cluster lacks something that the stack needs.
    """
    tools = here.platform.start(progress)
    if not here.exists(tools):
        raise LocalError(f"{here.platform.label} does not exist. Next: `pulumi stack init {here.stack}`.")
    with progress.step("preflight", 3):
        recording = here.record()
        notes = preflight.check(tools.cluster, recording)
    started()
    for note in notes:
        aside(note)
    here.platform.settle()
    here.unlock(tools, aside)
    here.recover(tools, aside)
    here.release(tools)
    following = [follow.following(tools.cluster, namespace, aside) for namespace in _namespaces(recording)]
    with progress.streaming("pulumi up"), ExitStack() as followers:
        for context in following:
            followers.enter_context(context)
        here.resume(tools, aside, servers=False)
        explain, again = asked.command("preview"), asked.command("up")
        here.stream(tools, _UP, f"fix the errors above (`{explain}` explains each change), then `{again}` again")
    with ExitStack() as followers:
        for namespace in _namespaces(recording):
            followers.enter_context(follow.following(tools.cluster, namespace, aside))
        resumed = here.resume(tools, aside, servers=True)
    if not resumed and set(here.changes(tools)) <= {"same"}:
        aside("nothing changed")
    here.platform.introduce(tools.cluster)
    return tools


def destroy(asked: Asked, here: Deployment, tools: Tools, progress: Progress) -> None:
    """Take the stack down. Data, users and passwords are kept."""
    if here.exists(tools):
        here.unlock(tools, aside)
        here.recover(tools, aside)
        with progress.streaming("pulumi destroy"):
            here.stream(tools, _DOWN, f"`{asked.command('status')}`, then `{asked.command('down')}` again")


@click.command()
@click.pass_obj
def up(asked: Asked) -> None:
    """Deploy the stack if the cluster has what it needs: preflight, then `pulumi up`."""
    here = asked.deployment()
    with Progress() as progress:
        tools = deploy(asked, here, progress)
        found = here.components(tools)
    progress.table()
    for name, outputs in found.items():
        click.echo(f"{name}  {outputs.get('url', '')}  user {outputs.get('username', '')}")
    click.echo(f'client    eval "$({asked.command("client-env")})"')


@click.command()
@click.pass_obj
def down(asked: Asked) -> None:
    """Take the stack down. Data, users and passwords are kept."""
    here = asked.running()
    with Progress() as progress:
        destroy(asked, here, here.platform.tools(progress), progress)
    aside("down; data, users and passwords are kept")


@click.command()
@click.pass_obj
def status(asked: Asked) -> None:
    """Show the stack, its location and its pods."""
    here = asked.running()
    with Progress() as progress:
        tools = here.platform.tools(progress)
    for what, name in asked.place().items():
        click.echo(f"{what:<10}{name}")
    click.echo(f"stack     {here.stack}\ncluster   {here.platform.where}")
    runs = here.platform.running()
    urls = [str(stack["url"]) for stack in (here.components(tools) if runs else {}).values() if "url" in stack]
    for url in urls or ["not up"]:
        click.echo(f"URL       {url}")
    for namespace in here.namespaces(tools) if runs else ():
        _kubectl(here, tools, namespace, "get", "pods,services,persistentvolumeclaims", "--output=wide")


@click.command()
@click.argument("component", required=False)
@click.option("--lines", default=50, show_default=True, help="How many of each log.")
@click.pass_obj
def logs(asked: Asked, component: str | None, lines: int) -> None:
    """Print the last lines of the pods' logs, or of the log of a COMPONENT of the node, such as kubelet."""
    here = asked.running()
    if component:
        click.echo(here.platform.logs(component, lines))
        return
    with Progress() as progress:
        tools = here.platform.tools(progress)
    for namespace in here.namespaces(tools):
        names = tools.cluster.run("get", "pods", f"--namespace={namespace}", "--output=name")
        if names.returncode:
            raise LocalError(f"the pods cannot be listed: {names.stderr.strip()}\nNext: `{asked.command('status')}`.")
        for name in names.stdout.split():
            options = ("--all-containers", "--prefix", f"--tail={lines}", "--ignore-errors")
            _kubectl(here, tools, namespace, "logs", name, *options)


@click.command()
@click.pass_obj
def watch(asked: Asked) -> None:
    """Follow the pods while they start, until interrupted."""
    here = asked.running()
    with Progress() as progress:
        tools = here.platform.tools(progress)
    namespaces = here.namespaces(tools)
    for namespace in namespaces:
        _kubectl(here, tools, namespace, "get", "pods")
    with suppress(KeyboardInterrupt), ExitStack() as followers:
        for namespace in namespaces:
            followers.enter_context(follow.following(tools.cluster, namespace, click.echo))
        threading.Event().wait()


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where something has moved.")
@click.pass_obj
def pin(asked: Asked, check: bool) -> None:
    """Pin models to the versions that their aliases and `latest` refer to now, in the stack file."""
    # Imported here because importing the components takes a second.
    from mlflow_stack_cli import pin as pins

    here = asked.deployment()
    keys = (key for key, value in here.config.items() if pins.in_values(value))
    file = here.platform.home(next(keys, f"{here.project.name}:models"))
    known = pins.references(file)
    if not known:
        aside(f"no model in {file.name} has an alias or latest")
        return
    with Progress() as progress:
        # The environment's registry takes precedence, so that a checkout can pin without a stack; else the stack's own.
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.update(here.client_environment(here.platform.prepare(progress)))
        with progress.step("ask the registry", 3):
            moved = pins.moved(known, pins.registry())
        for move in moved:
            click.echo(str(move))
        if not moved:
            aside("every reference is pinned to what it means now")
        elif check:
            raise LocalError(f"these references have moved. Next: `{asked.command('pin')}`, and commit the change.")
        else:
            pins.write(file, moved)
            aside(f"written: {file}")
            if here.platform.stack_file.exists():
                here.platform.prepare(progress)


@click.command("client-env")
@click.option("--component", default="", help="Which MlflowStack, if the program declares several.")
@click.pass_obj
def client_env(asked: Asked, component: str) -> None:
    """Print the environment variables of MLflow's client, for `eval`."""
    here = asked.running()
    with Progress() as progress:
        variables = here.client_environment(here.platform.tools(progress), component)
    export(variables)


@click.command("preflight")
@click.pass_obj
def check(asked: Asked) -> None:
    """Check that the cluster has what the stack needs. Changes nothing in the cluster."""
    here = asked.deployment()
    with Progress() as progress:
        tools = here.platform.prepare(progress)
    if not here.platform.running():
        raise LocalError(f"the node of {here.platform.label} does not run. Next: `{asked.command('up')}`.")
    for note in preflight.check(tools.cluster, here.record()):
        aside(note)
    aside("the cluster has what the stack names")


@click.command("lock")
@click.pass_obj
def lock_images(asked: Asked) -> None:
    """Write the current digests of the images into Pulumi.<stack>.yaml, as their registries report them."""
    asked.require()
    file = asked.project.stack_file(asked.stack)
    for change in lock.lock(file, asked.project.name, asked.images) or ["nothing changed"]:
        aside(change)


# Previews.


def _recorded(asked: Asked) -> Recording | None:
    """Return what the program registers with the project's stack file; None if there is no stack file."""
    config = asked.project.config(asked.project.stack_file(asked.stack))
    if config is None:
        return None
    asked.judge(config)
    return capture.capture(asked.project, asked.stack, config)


def _live(asked: Asked) -> Live:
    """Return the live stack."""
    here = asked.deployment()
    with Progress() as progress:
        return Live(here, here.platform.prepare(progress))


@click.command("render")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where to write.")
@click.pass_obj
def render_command(asked: Asked, out: Path) -> None:
    """Write every object of the stack to a file. Needs neither a cluster nor secrets."""
    asked.require()
    files = render.manifests((_recorded(asked) or Recording()).resources)
    render.write(files, out)
    click.echo(f"{len(files)} objects in {out}")


@click.command("preview")
@click.option("--base", default="", help="The revision to compare with. Default: what runs, as the engine knows it.")
@click.pass_context
def preview_command(ctx: click.Context, base: str) -> None:
    """Describe the effects of a change. Exits with 3 if data or a password would be lost without acknowledgement."""
    asked: Asked = ctx.obj
    left: list[Leftover] = []
    if base:
        now = _recorded(asked)
        config = asked.project.config(asked.project.stack_file(asked.stack)) or {}
        released = asked.project.released(config)
        with capture.checkout(asked.project, base) as folder:
            then = capture.at_revision(asked.project, folder, asked.stack)
        if now is None and then is None:
            asked.require()
        now = now or Recording()
        found = compare((then or Recording()).resources, now.resources)
        against = f"`{base}`"
    else:
        live = _live(asked)
        released = live.deployment.released
        found = live.preview(released)
        left = live.leftovers()
        now = live.deployment.record()
        against = "what runs"
    told = Words(found, released, now.size_keys)
    click.echo(asked.spelled(told.comment(asked.stack, against) + words.left_behind(left)), nl=False)
    _end(ctx, told.verdict)


@click.command("drift")
@click.pass_context
def drift_command(ctx: click.Context) -> None:
    """Describe where the cluster differs from the stack; print nothing if it does not. Exits with 3 if it differs."""
    asked: Asked = ctx.obj
    live = _live(asked)
    found, left = live.drift(), live.leftovers()
    click.echo(asked.spelled(words.drift(found, asked.stack) + words.left_behind(left)), nl=False)
    drifted = ", ".join(sorted(words.named(change.resource) for change in found.changes))
    refused = f"no longer as deployed: {drifted}.\nNext: {_AFTER_DRIFT}.\n" if drifted else ""
    if left:
        refused += f"left behind by a killed update: {', '.join(map(str, left))}.\nNext: `{asked.command('up')}`."
    _end(ctx, refused.rstrip("\n"))


def _end(ctx: click.Context, refused: str) -> None:
    """End the command, with a message and an exit status of its own if the change is refused."""
    if refused:
        asked: Asked = ctx.obj
        aside(f"error: {asked.spelled(refused)}")
        ctx.exit(_REFUSED)


@click.command("comment")
@click.argument("change")
@click.argument("file", type=click.File())
@click.pass_obj
def comment_command(asked: Asked, change: str, file: TextIO) -> None:
    """Write FILE as this stack's only comment on a CHANGE (its number). For pipelines."""
    text = file.read() or f"### Stack `{asked.stack}`: no preview\n\nIt failed; the job's log says why.\n"
    forge.here().say(change, f"mlflow-stack preview {asked.stack}", text)


@click.command("issue")
@click.argument("file", type=click.File())
@click.pass_obj
def issue_command(asked: Asked, file: TextIO) -> None:
    """Write FILE as the only issue about this stack's drift; an empty FILE closes the issue. For pipelines."""
    title = f"Stack {asked.stack} is no longer as deployed"
    forge.here().report(title, f"mlflow-stack drift {asked.stack}", file.read())


_PREVIEWS: Final = (render_command, preview_command, drift_command, comment_command, issue_command)


def exports(variables: Mapping[str, str]) -> str:
    """Return lines for a shell's `eval`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def export(variables: Mapping[str, str]) -> None:
    """Print lines for a shell's `eval`."""
    click.echo(exports(variables))


def _kubectl(here: Deployment, tools: Tools, namespace: str, *arguments: str) -> None:
    program, *options = tools.cluster.command
    argv = [program, *arguments, *options, f"--namespace={namespace}"]
    here.stream(tools, argv, "`mlflow-stack status`")


def _namespaces(recording: Recording) -> list[str]:
    return [*dict.fromkeys(stack.namespace for stack in recording.stacks)]
