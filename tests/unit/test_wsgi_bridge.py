"""Detection of stuck threads in the tracking server."""

import threading
from types import SimpleNamespace

import anyio
import anyio.to_thread
import pytest

from mlflow_stack.programs import wsgi_bridge


def test_is_stuck_while_no_thread_comes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    # The module's own name: the event loop reads the real clock.
    monkeypatch.setattr(wsgi_bridge, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    free = threading.Event()

    async def run() -> list[bool]:
        stuck = wsgi_bridge.Stuck(120)
        seen = [stuck.now()]
        limiter = anyio.to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as group:
            for _ in range(int(limiter.total_tokens)):
                group.start_soon(anyio.to_thread.run_sync, free.wait)
            while limiter.borrowed_tokens < limiter.total_tokens:
                await anyio.sleep(0.01)
            for moment in (1.0, 120.0, 122.0):
                clock[0] = moment
                seen.append(stuck.now())
            # One call has ended, and another took its thread.
            monkeypatch.setattr(wsgi_bridge, "_finished", 1)
            seen.append(stuck.now())
            free.set()
        seen.append(stuck.now())
        return seen

    assert anyio.run(run) == [False, False, False, True, False, False]
