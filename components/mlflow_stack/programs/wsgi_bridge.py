"""Bridge between MLflow's ASGI server and its Flask app, with back-pressure.

MLflow's own bridge puts an answer into an unbounded queue, so that memory holds a whole download if its reader is
slower than the disk. Here each chunk is read after the previous one is sent, and no thread is held in between.
"""

# MLflow, Starlette and anyio have no types.
# pyright: basic

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import anyio
import anyio.to_thread

CHUNK = 256 * 2**10
"""Bytes that are read at once."""
SEARCH_THREADS = 20
"""Threads for searches, half of the 40: the others log and read runs meanwhile."""

_finished = 0
"""Number of calls of the Flask app that have ended."""


def finished() -> int:
    """Return the number of calls that have ended."""
    return _finished


class Responder:
    """Request to the Flask app."""

    searching: anyio.CapacityLimiter | None = None

    def __init__(self, app: Callable[..., Iterable[bytes]], scope: Any) -> None:
        self._app = app
        self._scope = scope
        self._start: dict[str, Any] = {}
        self._answer: Iterable[bytes] = ()
        self._chunks: Iterator[bytes] = iter(())
        self._finite = False

    async def __call__(self, receive: Any, send: Any) -> None:
        from starlette.middleware.wsgi import build_environ

        body: list[bytes] = []
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body.append(message.get("body", b""))
            more = message.get("more_body", False)
        environ = build_environ(self._scope, b"".join(body))
        body.clear()
        try:
            chunk = await anyio.to_thread.run_sync(self._call, environ, limiter=self._limiter())
            await send(self._start)
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, receive, group.cancel_scope)
                while chunk is not None:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    chunk = await anyio.to_thread.run_sync(self._next)
                await send({"type": "http.response.body", "body": b""})
                group.cancel_scope.cancel()
        finally:
            if close := getattr(self._answer, "close", None):
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(close)

    def _limiter(self) -> anyio.CapacityLimiter | None:
        if self._scope["method"] != "POST" or "search" not in self._scope["path"].rpartition("/")[2]:
            return None
        if Responder.searching is None:
            Responder.searching = anyio.CapacityLimiter(SEARCH_THREADS)
        return Responder.searching

    @staticmethod
    async def _watch(receive: Any, scope: anyio.CancelScope) -> None:
        """Stop reading for a client that has disconnected."""
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    def _call(self, environ: dict[str, Any]) -> bytes | None:
        global _finished
        try:
            self._answer = self._app(environ, self._start_response)
            self._chunks = iter(self._answer)
            return self._next()
        finally:
            _finished += 1

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        if exc_info is not None and self._start:
            raise exc_info[1].with_traceback(exc_info[2])
        # An answer with a length is a file or a text, not a stream of events.
        self._finite = any(name.lower() == "content-length" for name, _ in headers)
        self._start = {
            "type": "http.response.start",
            "status": int(status.partition(" ")[0]),
            "headers": [
                (name.strip().lower().encode("latin-1"), value.strip().encode("latin-1")) for name, value in headers
            ],
        }

    def _next(self) -> bytes | None:
        """Return the next bytes; None at the end."""
        chunks: list[bytes] = []
        size = 0
        for chunk in self._chunks:
            chunks.append(chunk)
            size += len(chunk)
            if size >= CHUNK or not self._finite:
                break
        return b"".join(chunks) if chunks else None


def installed() -> None:
    """Install the bridge in MLflow, in this process. Raises if MLflow's internals are not as expected."""
    import mlflow.server.fastapi_app as served

    used = served._EfficientWSGIMiddleware.__call__.__code__.co_names
    if "_EfficientWSGIResponder" not in used or not hasattr(served, "_EfficientWSGIResponder"):
        raise RuntimeError("this MLflow calls its Flask app in another way: its answers have no bound in memory")
    served._EfficientWSGIResponder = Responder


class Stuck:
    """Detector of stuck threads: all busy for so long that the process should be restarted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._finished = 0

    def now(self) -> bool:
        """Check at each probe of the kubelet: all threads busy, and no call ended since the first such check."""
        limiter = anyio.to_thread.current_default_thread_limiter()
        if limiter.borrowed_tokens < limiter.total_tokens or _finished != self._finished:
            self._since, self._finished = None, _finished
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > self._seconds
