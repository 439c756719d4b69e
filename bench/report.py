"""Results as a table, as JSON and as a plot."""

import json
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from bench.result import Line, Results

mpl.use("svg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).with_name("results")
_MET = "#2a78d6"
_MISSED = "#d1495b"


def show(results: Results) -> None:
    """Print the lines."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "ours", "other", "ratio", "goal", ""):
        table.add_column(name, justify="left" if not name else "right")
    for line in results.lines:
        table.add_row(
            line.name, _value(line.ours, line), _value(line.other, line), _ratio(line), _goal(line), _met(line)
        )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    if results.lines:
        console.print(table)
    for steps in results.steps:
        if steps.seconds:
            console.print(f"{steps.name}: {steps.seconds:.0f} s", markup=False)
    for failure in results.failures:
        console.print(f"not measured: {failure}", markup=False)


def write(results: Results, folder: Path = FOLDER) -> Path:
    """Write `<date>.md`, `.json` and `.svg`, replacing those of the same day; return the first."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{date.today().isoformat()}.md"
    plot(results.lines, file.with_suffix(".svg"))
    content = {
        "machine": results.machine,
        "lines": [line.plain() for line in results.lines],
        "up": [steps.plain() for steps in results.steps],
        "not measured": results.failures,
    }
    file.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    file.write_text("\n".join(_markdown(results, file.with_suffix(".svg").name)) + "\n")
    return file


def plot(lines: list[Line], file: Path) -> None:
    """Draw the ratios as bars, each with its goal."""
    mpl.rcParams["svg.hashsalt"] = "bench"
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(lines) + 1.4), layout="constrained")
    for row, line in enumerate(lines):
        axes.barh(row, line.ratio, height=0.5, color=_MET if line.met else _MISSED)
        axes.plot([line.goal, line.goal], [row - 0.4, row + 0.4], color="black", linewidth=2)
        axes.plot(line.ratios, [row] * len(line.ratios), "|", color="black", markersize=6, alpha=0.5)
        axes.annotate(
            f"{_ratio(line)}  (goal {_goal(line)}{'' if line.met else ', missed'})",
            (max(line.ratio, line.goal, *line.ratios), row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(lines)), [line.name for line in lines])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.4 * max(max(*line.ratios, line.goal, 1) for line in lines))
    axes.set_xlabel("ours / other; bars: median, thin marks: each pair, thick mark: goal, dotted: the same")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _markdown(results: Results, plotted: str) -> Iterator[str]:
    yield "# What it costs\n"
    yield "Made by `make bench`: both sides in one run, in turns. A ratio is the median of the pairs' ratios.\n"
    yield "| what | against | ours | other | ratio | pairs | goal | |"
    yield "| --- | --- | ---: | ---: | ---: | --- | --- | --- |"
    for line in results.lines:
        spread = f"{len(line.pairs)}: {min(line.ratios):.2f} to {max(line.ratios):.2f}"
        values = (_value(line.ours, line), _value(line.other, line), _ratio(line), spread, _goal(line), _met(line))
        yield f"| {line.name} | {line.against} | {' | '.join(values)} |"
    yield f"\n![ratio against goal]({plotted})\n"
    yield from (f"Not measured: {failure}\n" for failure in results.failures)
    yield "## `make up`, step by step\n\nSteps overlap, so their sum is more than the whole."
    for steps in results.steps:
        yield f"\n{steps.name}{f': {steps.seconds:.0f} s in all' if steps.seconds else ''}\n"
        yield "| step | s |\n| --- | ---: |"
        yield from (f"| {name} | {seconds:g} |" for name, seconds in steps.steps)
    yield "\n## The machine\n\n| | |\n| --- | --- |"
    yield from (f"| {name} | {value} |" for name, value in results.machine.items())


def _value(value: float, line: Line) -> str:
    return f"{value:.{0 if value >= 100 else 1}f} {line.unit}"


def _ratio(line: Line) -> str:
    return f"{line.ratio:.2f}"


def _goal(line: Line) -> str:
    return f"{'≥' if line.better == 'at least' else '≤'} {line.goal}"


def _met(line: Line) -> str:
    return "met" if line.met else "missed"
