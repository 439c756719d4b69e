"""The command behind `make bench`.

Works on its own instance, `bench`, which it deletes at the end; KEEP=1 keeps and reuses it. If MLFLOW_STACK_CACHE is an
empty folder, a cold `make up` is measured.
"""

import os
import sys
from collections.abc import Callable

import click

from bench import guessing, machine, memory, models, preview, report, rollout, throughput, transfer, ups
from bench.platform import Platform
from bench.result import Line, Results
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress

# Memory first, while only `up` itself has used the server.
PARTS: dict[str, Callable[[Platform, Progress, bool], list[Line]]] = {
    "memory": memory.measure,
    "throughput": throughput.measure,
    "guessing": guessing.measure,
    "preview": preview.measure,
    "rollout": rollout.measure,
    # Last, because they set a key of the stack.
    "transfer": transfer.measure,
    "models": models.measure,
}
NAMES = ("up", *PARTS)


@click.command(help="Measure what the stack costs. Results: bench/results.")
@click.option("--short", is_flag=True, help="Few rounds: whether it works, not what it costs. Writes nothing.")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Only these parts. Writes nothing.")
def main(short: bool, only: tuple[str, ...]) -> None:
    """Run the benchmark."""
    results = Results(machine.facts())
    keep = bool(os.environ.get("KEEP"))
    platform = Platform()
    with Progress() as progress:
        try:
            if not keep:
                platform.local("clean", "--force")
                platform = Platform()
            measure(platform, progress, results, short, only or NAMES)
        except LocalError as error:
            results.failures.append(str(error))
        finally:
            with progress.step("bench: down and clean", 15):
                platform.close(keep)
    report.show(results)
    if results.lines and not short and not only:
        click.echo(f"written: {report.write(results)}", err=True)
    sys.exit(1 if results.failures else 0)


def measure(platform: Platform, progress: Progress, results: Results, short: bool, parts: tuple[str, ...]) -> None:
    """Measure the named parts; a failed part does not stop the others."""
    if "up" in parts:
        results.steps += ups.measure(platform, progress)
    else:
        with progress.step("bench: up", 70):
            platform.local("up")
    results.machine |= machine.versions(platform)
    for name in (name for name in PARTS if name in parts):
        try:
            results.lines += PARTS[name](platform, progress, short)
        except LocalError as error:
            results.failures.append(f"{name}: {error}")


if __name__ == "__main__":
    main(prog_name="python -m bench")
