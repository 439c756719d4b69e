"""Progress output of running steps, with its estimates."""

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from mlflow_stack_cli import progress
from mlflow_stack_cli.progress import Progress, format_seconds


class Clock:
    """Clock that stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_STACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    # Its own thread refreshes four times a second; here every refresh is explicit.
    monkeypatch.setattr(Progress, "_tick", lambda self: None)
    return Clock(monkeypatch)


def shown(terminal: bool = False) -> tuple[Progress, io.StringIO]:
    text = io.StringIO()
    return Progress(Console(file=text, force_terminal=terminal, width=100, soft_wrap=True, highlight=False)), text


def look(shows: Progress) -> None:
    for step in shows._open:
        shows._write(step) if step.seconds >= 2 else None


def test_a_short_step_shows_nothing_but_is_timed(clock: Clock) -> None:
    shows, text = shown()
    with shows, shows.step("quick", 10):
        clock.now += 1.9
        look(shows)
    assert text.getvalue() == ""
    assert shows.timings == [("quick", pytest.approx(1.9))]


def test_a_long_step_has_a_line_at_its_start_every_thirty_seconds_and_at_its_end(clock: Clock) -> None:
    shows, text = shown()
    with shows, shows.step("build x", 80) as step:
        for seconds in range(1, 71):
            clock.now += 1
            step.detail(f"package {seconds}")
            look(shows)
    assert [" ".join(line.split()) for line in text.getvalue().splitlines()] == [
        "start build x (about 80 s)",
        "40% build x 32 s package 32",
        "78% build x 62 s package 62",
        "done build x 70 s",
    ]


def test_the_last_time_is_the_next_estimate(clock: Clock, cache: Path) -> None:
    for wanted in (500, 7):
        shows, _ = shown()
        with shows, shows.step("build x 1.2", 500, key="x") as step:
            assert step.estimate == wanted
            clock.now += 7
    assert "x" in (cache / "timings.json").read_text()


def test_a_failed_step_leaves_no_timing_and_a_broken_memory_is_no_failure(clock: Clock, cache: Path) -> None:
    cache.mkdir()
    (cache / "timings.json").write_text("{")
    shows, text = shown()

    def work() -> None:
        with shows, shows.step("x", 5):
            clock.now += 9
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        work()
    assert shows.timings == []
    assert "done" not in text.getvalue()


def test_a_stated_fraction_wins_over_the_clock(clock: Clock) -> None:
    shows, _ = shown()
    with shows, shows.step("x", 10) as step:
        clock.now += 100
        assert step.fraction == pytest.approx(0.98)
        step.done(0.5)
        assert step.fraction == 0.5


def test_steps_overlap_on_a_terminal_and_all_are_timed() -> None:
    shows, text = shown(terminal=True)
    together = threading.Barrier(3)

    def work(name: str) -> None:
        with shows.step(name, 5):
            together.wait()

    with shows:
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with shows.streaming("loud"):
            pass
    assert sorted(name for name, _ in shows.timings) == ["a", "b", "c", "loud"]
    assert "Traceback" not in text.getvalue()


def test_the_table_leaves_out_what_took_no_time() -> None:
    shows, text = shown()
    shows.timings = [("a", 0.01), ("build b", 200.0)]
    shows.table()
    assert " ".join(text.getvalue().split()) == "3 min 20 s build b"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (4.24, "4.2 s"), (42, "42 s"), (200, "3 min 20 s"), (3600, "60 min 00 s")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
