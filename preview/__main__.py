"""The command line of previews, behind `make render`, `make preview` and `make drift`."""

from pathlib import Path

import click

from local.__main__ import Commands
from local.deployment import Deployment
from local.paths import PROJECT, Instance
from local.progress import Progress
from preview import capture, render, words
from preview.compare import compare
from preview.live import Live
from preview.words import Words

_REFUSED = 3


class Asked:
    """What the options name."""

    def __init__(self, instance: str, stack: str, context: str) -> None:
        self.instance = instance
        self.stack = stack
        self.context = context

    def live(self) -> Live:
        """The stack that runs."""
        here = Deployment(Instance.open(self.instance), self.stack, self.context)
        with Progress() as progress:
            return Live(here, here.prepare(progress))


@click.group(cls=Commands, help="What a stack is made of, and what a change of it will do.")
@click.option("--instance", default="default", help="Which of the platforms on this machine.", show_default=True)
@click.option("--stack", default="dev", help="Which Pulumi.<stack>.yaml.", show_default=True)
@click.option("--context", default="", help="Your kube context. Default: a node of its own on this machine.")
@click.pass_context
def main(ctx: click.Context, instance: str, stack: str, context: str) -> None:
    """The entry point."""
    ctx.obj = Asked(instance, stack, context)


@main.command("render")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where to write.")
@click.pass_obj
def render_command(asked: Asked, out: Path) -> None:
    """Write every object of the stack as a file. No cluster is asked, no secret is needed."""
    files = render.manifests(capture.capture(PROJECT, asked.stack))
    render.write(files, out)
    click.echo(f"{len(files)} objects in {out}")


@main.command("preview")
@click.option("--base", default="", help="The revision to compare with. Default: what runs, as the engine knows it.")
@click.pass_context
def preview_command(ctx: click.Context, base: str) -> None:
    """Say in words what the change will do. Ends with 3 where it would lose data or a password unacknowledged."""
    asked: Asked = ctx.obj
    if base:
        released = capture.released(PROJECT, asked.stack)
        with capture.checkout(base) as folder:
            found = compare(capture.capture(folder, asked.stack), capture.capture(PROJECT, asked.stack))
        against = f"`{base}`"
    else:
        live = asked.live()
        released = live.deployment.released
        found = live.preview(released)
        against = "what runs"
    told = Words(found, released)
    click.echo(told.comment(asked.stack, against), nl=False)
    ctx.exit(_REFUSED if told.refused else 0)


@main.command("drift")
@click.pass_context
def drift_command(ctx: click.Context) -> None:
    """Say what in the cluster is no longer as the stack says; nothing where all is. Ends with 3 where something is."""
    asked: Asked = ctx.obj
    report = words.drift(asked.live().drift(), asked.stack)
    click.echo(report, nl=False)
    ctx.exit(_REFUSED if report else 0)


if __name__ == "__main__":
    main(prog_name="python -m preview")
