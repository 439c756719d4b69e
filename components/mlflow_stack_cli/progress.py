"""Progress of running steps, with elapsed and estimated time."""

import json
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from mlflow_stack_cli.paths import cache_dir

_QUIET = 2.0
_REPEAT = 30.0
_TICK = 0.25
# A bar that follows the clock stops here until the step ends.
_ALMOST = 0.98


class Step:
    """One running step. Created by `Progress.step`."""

    def __init__(self, name: str, estimate: float) -> None:
        """`estimate`: expected duration in seconds."""
        self.name = name
        self.estimate = estimate
        self.started = time.monotonic()
        self.last_line: float | None = None
        self.task: TaskID | None = None
        self._detail = ""
        self._fraction: float | None = None

    def detail(self, text: str) -> None:
        """Set a short description of the current work."""
        self._detail = text.strip()

    def done(self, fraction: float) -> None:
        """Set the completed fraction, 0 to 1. Without it, the bar follows the clock."""
        self._fraction = fraction

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Completed fraction, as set by `done`, else estimated from the clock."""
        stated = self._fraction
        return stated if stated is not None else min(self.seconds / max(self.estimate, 0.1), _ALMOST)

    @property
    def busy_with(self) -> str:
        """The last detail, or an empty text."""
        return self._detail


class Progress:
    """Steps, which may overlap, shown as bars on a terminal, else as lines, on standard error.

    A step shorter than two seconds shows nothing. The estimate shown is the duration of the step of the same key in the
    last run on this machine, else the caller's default. Safe to use from several threads.
    """

    def __init__(self, console: Console | None = None) -> None:
        """`console`: where to write; defaults to standard error."""
        self._console = console or Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._lock = threading.RLock()
        self._open: list[Step] = []
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None
        self._bars: Bars | None = None
        self.timings: list[tuple[str, float]] = []
        """Name and seconds of every successful step, in the order in which they ended."""

    def __enter__(self) -> Self:
        """Start the display."""
        self._ended.clear()
        self._show()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display; the timings are kept."""
        self._ended.set()
        if self._ticker:
            self._ticker.join()
        self._hide()

    @contextmanager
    def step(self, name: str, estimate: float, *, key: str | None = None) -> Generator[Step]:
        """Show one step while the block runs. `estimate` in seconds; `key` (default: the name) identifies its duration
        in earlier runs. An error in the block ends the step without a timing.
        """
        step = Step(name, _remembered().get(key or name, estimate))
        with self._lock:
            self._open.append(step)
        try:
            yield step
        except BaseException:
            self._close(step)
            raise
        seconds = step.seconds
        self._close(step)
        self.timings.append((name, seconds))
        if seconds >= _QUIET:
            self._console.print(f"  done     {name}  {format_seconds(seconds)}", markup=False)
            _remember(key or name, seconds)

    @contextmanager
    def streaming(self, name: str) -> Generator[None]:
        """Time a step whose program writes to the terminal itself; hide the bars during the block."""
        started = time.monotonic()
        self._hide()
        try:
            yield
        finally:
            if self._ticker and not self._ended.is_set():
                self._show()
        self.timings.append((name, time.monotonic() - started))

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def table(self) -> None:
        """Print the duration of each step that took longer than a tenth of a second."""
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(justify="right")
        table.add_column()
        for name, seconds in self.timings:
            if seconds >= 0.1:
                table.add_row(format_seconds(seconds), name)
        self._console.print(table)

    def _show(self) -> None:
        if not self._console.is_terminal:
            return
        with self._lock:
            self._bars = Bars(
                TextColumn("  {task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[times]}", markup=False),
                TextColumn("{task.fields[detail]}", style="dim", markup=False),
                console=self._console,
                transient=True,
            )
            self._bars.start()

    def _hide(self) -> None:
        with self._lock:
            if self._bars:
                self._bars.stop()
            self._bars = None
            for step in self._open:
                step.task = None

    def _close(self, step: Step) -> None:
        with self._lock:
            self._open.remove(step)
            if self._bars and step.task is not None:
                self._bars.remove_task(step.task)

    def _tick(self) -> None:
        while not self._ended.wait(_TICK):
            with self._lock:
                for step in self._open:
                    if step.seconds < _QUIET:
                        continue
                    if self._console.is_terminal:
                        self._draw(step)
                    else:
                        self._write(step)

    def _draw(self, step: Step) -> None:
        if not self._bars:
            return
        if step.task is None:
            step.task = self._bars.add_task(step.name, total=1.0, times="", detail="")
        times = f"{format_seconds(step.seconds)} of about {format_seconds(step.estimate)}"
        self._bars.update(step.task, completed=step.fraction, times=times, detail=step.busy_with[:60])

    def _write(self, step: Step) -> None:
        if step.last_line is None:
            self._console.print(f"  start    {step.name}  (about {format_seconds(step.estimate)})", markup=False)
        elif step.seconds - step.last_line >= _REPEAT:
            detail = f"  {step.busy_with}" if step.busy_with else ""
            self._console.print(
                f"  {step.fraction:4.0%}     {step.name}  {format_seconds(step.seconds)}{detail}", markup=False
            )
        else:
            return
        step.last_line = step.seconds


def format_seconds(seconds: float) -> str:
    """Return a duration such as `4.2 s`, `42 s` or `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def _timings_file() -> Path:
    return cache_dir() / "timings.json"


def _remembered() -> dict[str, float]:
    try:
        content = json.loads(_timings_file().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    known = cast(dict[str, object], content)
    return {key: float(seconds) for key, seconds in known.items() if isinstance(seconds, int | float)}


def _remember(key: str, seconds: float) -> None:
    # The timings only serve later estimates, so a read-only cache is not an error.
    with suppress(OSError):
        file = _timings_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            known = _remembered() | {key: round(seconds, 1)}
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            fresh.replace(file)
