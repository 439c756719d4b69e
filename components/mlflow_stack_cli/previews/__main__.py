"""The command line of previews, behind `make render`, `make preview` and `make drift`."""

from pathlib import Path
from typing import TextIO

import click

from mlflow_stack_cli.interrupted import Leftover
from mlflow_stack_cli.previews import capture, forge, render, words
from mlflow_stack_cli.previews.compare import compare
from mlflow_stack_cli.previews.live import Live
from mlflow_stack_cli.previews.words import Words
from mlflow_stack_cli.progress import Progress
from sandbox.__main__ import Asked, command_line
from sandbox.paths import PROJECT
from sandbox.stackfile import StackFile

_REFUSED = 3
_AFTER_DRIFT = "take the change over into the stack file, or run `pulumi refresh` and then `make up`"


main = command_line("What a stack is made of, and what a change of it will do.")


def _live(asked: Asked) -> Live:
    """The stack that runs."""
    here = asked.deployment()
    with Progress() as progress:
        return Live(here, here.prepare(progress))


@main.command("render")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where to write.")
@click.pass_obj
def render_command(asked: Asked, out: Path) -> None:
    """Write every object of the stack as a file. No cluster is asked, no secret is needed."""
    StackFile.require(asked.stack)
    files = render.manifests(capture.capture(PROJECT, asked.stack))
    render.write(files, out)
    click.echo(f"{len(files)} objects in {out}")


@main.command("preview")
@click.option("--base", default="", help="The revision to compare with. Default: what runs, as the engine knows it.")
@click.pass_context
def preview_command(ctx: click.Context, base: str) -> None:
    """Say in words what the change will do. Ends with 3 where it would lose data or a password unacknowledged."""
    asked: Asked = ctx.obj
    left: list[Leftover] = []
    if base:
        released = capture.released(PROJECT, asked.stack)
        with capture.checkout(base) as folder:
            if capture.stack_config(folder, asked.stack) is None:
                StackFile.require(asked.stack)
            found = compare(capture.capture(folder, asked.stack), capture.capture(PROJECT, asked.stack))
        against = f"`{base}`"
    else:
        live = _live(asked)
        released = live.deployment.released
        found = live.preview(released)
        left = live.leftovers()
        against = "what runs"
    told = Words(found, released)
    click.echo(told.comment(asked.stack, against) + words.left_behind(left), nl=False)
    _end(ctx, told.verdict)


@main.command("drift")
@click.pass_context
def drift_command(ctx: click.Context) -> None:
    """Say what in the cluster is no longer as the stack says; nothing where all is. Ends with 3 where something is."""
    asked: Asked = ctx.obj
    live = _live(asked)
    found, left = live.drift(), live.leftovers()
    click.echo(words.drift(found, asked.stack) + words.left_behind(left), nl=False)
    drifted = ", ".join(sorted(words.named(one.resource) for one in found.changes))
    refused = f"no longer as deployed: {drifted}.\nNext: {_AFTER_DRIFT}.\n" if drifted else ""
    if left:
        refused += f"left behind by a killed update: {', '.join(map(str, left))}.\nNext: `{asked.make('up')}`."
    _end(ctx, refused.rstrip("\n"))


def _end(ctx: click.Context, refused: str) -> None:
    """End the command, with a message where it refuses; its status is then one of its own."""
    if refused:
        click.echo(f"error: {refused}", err=True)
        ctx.exit(_REFUSED)


@main.command("comment")
@click.argument("change")
@click.argument("file", type=click.File())
@click.pass_obj
def comment_command(asked: Asked, change: str, file: TextIO) -> None:
    """In a pipeline: write FILE as the one comment on a CHANGE (its number) that this stack has."""
    text = file.read() or f"### Stack `{asked.stack}`: no preview\n\nIt failed; the job's log says why.\n"
    forge.here().say(change, f"mlflow-stack preview {asked.stack}", text)


@main.command("issue")
@click.argument("file", type=click.File())
@click.pass_obj
def issue_command(asked: Asked, file: TextIO) -> None:
    """In a pipeline: write FILE as the one issue about this stack's drift; an empty one closes it."""
    title = f"Stack {asked.stack} is no longer as deployed"
    forge.here().report(title, f"mlflow-stack drift {asked.stack}", file.read())


if __name__ == "__main__":
    main(prog_name="python -m mlflow_stack_cli.previews")
