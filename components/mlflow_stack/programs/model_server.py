"""Model server: MLflow's scoring app with the model in the pod's volume, on loopback.

The wrapper around the app limits what a caller can do and see: four paths; requests of a limited size, measured by the
memory that they take; a limited number of running and waiting predictions; errors as JSON of ``error_code`` and
``message``, without MLflow's stack traces and the caller's input. There is one process, so that memory holds the model
once, and as PID 1 it drains and exits on SIGTERM.

A prediction runs in a thread, which cannot be stopped from outside. Its caller gets 504 at the time limit, and the
prediction keeps its place until it ends.
"""

import asyncio
import json
import os
import re
import sys
import time
import traceback
import zlib
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

from model_volume import Volume, absent, brief, requirements, say
from prediction_size import MEMBERS, TooLargeError, TooManyMembersError, unpacked, weight

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

METHODS: Final = {"/ping": "GET", "/health": "GET", "/version": "GET", "/invocations": "POST"}
WAITING_PER_PLACE: Final = 4
"""Waiting requests for each concurrent prediction; further ones get 429."""
STUCK_SECONDS: Final = 300
"""Seconds after which the server reports itself unhealthy, if predictions past their limit hold every place."""
RETRY_SECONDS: Final = 2
SLOWEST_BYTES: Final = 100_000
"""Minimum rate of a body in bytes a second, after the first minute."""
READABLE: Final = 0.9
"""Share of the free memory that requests may take."""
SMALLEST_BUDGET: Final = 64_000_000
LONGEST_MESSAGE: Final = 500
_PATH: Final = re.compile(r"(?<![\w.:/-])(/[\w.@+~-]+){2,}/?")
_WORD: Final = re.compile(r"""[^\s'"(),:;=\[\]{}]*[^\s'"(),:;=\[\]{}.]""")
SHORTEST_WORD: Final = 3
ENCODINGS: Final = ("identity", "gzip")


class RefusedRequestError(Exception):
    """Request that is answered with one of this server's own errors."""

    def __init__(self, status: HTTPStatus, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def _busy(message: str) -> RefusedRequestError:
    # 429: besides 408, the only code for which the MLflow clients of all accepted releases retry a POST.
    return RefusedRequestError(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after=str(RETRY_SECONDS))


@dataclass(frozen=True)
class Limits:
    """Limits of one server."""

    request_bytes: int
    """Largest body, also after decompression."""
    seconds: float
    """Time limit of a prediction, waiting included."""
    places: int
    """Number of concurrent predictions."""
    memory: int
    """Bytes for requests: a quarter for bodies as received, the rest for what running predictions read from them."""

    @property
    def held_bytes(self) -> int:
        """Bytes of concurrent bodies."""
        return self.memory // 4

    @property
    def read_bytes(self) -> int:
        """Bytes of memory that all running predictions may read."""
        return self.memory - self.held_bytes


class Places:
    """Places for predictions, and a queue in front of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running: dict[asyncio.Task[None], tuple[float, int]] = {}
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._promised = 0
        self._promised_bytes = 0

    def overdue_seconds(self) -> float | None:
        """Return for how long predictions past their limit have held every place; None if one is available."""
        if len(self._running) < self._limits.places:
            return None
        since = time.monotonic() - max(deadline for deadline, _ in self._running.values())
        return since if since >= 0 else None

    async def enter(self, size: int, deadline: float, gone: asyncio.Task[None]) -> bool:
        """Wait for a place; return False if the deadline passes or the caller disconnects. Raise if too many wait."""
        if self.overdue_seconds() is not None:
            raise _busy("every prediction that runs is past its limit")
        if not self._waiting and self._fits(size):
            self._promise(size)
            return True
        if len(self._waiting) >= WAITING_PER_PLACE * self._limits.places:
            raise _busy("too many predictions run and wait")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = size
        self._next()
        try:
            left = max(0.0, deadline - time.monotonic())
            await asyncio.wait({turn, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.pop(turn, None)
        if not turn.done():
            return False
        if gone.done() or time.monotonic() >= deadline:
            self.leave(size)
            return False
        return True

    def run(self, prediction: asyncio.Task[None], size: int, deadline: float) -> None:
        """Hold the entered place until the prediction ends."""
        self._running[prediction] = (deadline, size)
        self._promised -= 1
        self._promised_bytes -= size

        def ended(_: asyncio.Task[None]) -> None:
            del self._running[prediction]
            self._next()

        prediction.add_done_callback(ended)

    def leave(self, size: int) -> None:
        """Release an entered place."""
        self._promised -= 1
        self._promised_bytes -= size
        self._next()

    def _promise(self, size: int) -> None:
        self._promised += 1
        self._promised_bytes += size

    def _fits(self, size: int) -> bool:
        taken = self._promised_bytes + sum(held for _, held in self._running.values())
        free_place = len(self._running) + self._promised < self._limits.places
        return free_place and taken + size <= self._limits.read_bytes

    def _next(self) -> None:
        for turn, size in list(self._waiting.items()):
            if not turn.done() and self._fits(size):
                self._promise(size)
                turn.set_result(None)


class Served:
    """ASGI app that callers reach."""

    def __init__(self, app: App, names: frozenset[str], limits: Limits) -> None:
        """
        :param app: MLflow's app, which runs each prediction in the default executor of the event loop.
        :param names: Names of the model's inputs, which errors may mention.
        """
        self._app = app
        self._known = names
        self._limits = limits
        self._places = Places(limits)
        self._held = 0
        # Separate from the predictions' own threads, which can all be busy.
        self._reading = ThreadPoolExecutor(1, "reading")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            # Startup and shutdown of the server; MLflow's app refuses WebSockets.
            if scope["type"] == "lifespan":
                predictions = ThreadPoolExecutor(self._limits.places, "prediction")
                asyncio.get_running_loop().set_default_executor(predictions)
            await self._app(scope, receive, send)
            return
        method = METHODS.get(scope["path"])
        try:
            if method is None:
                raise RefusedRequestError(HTTPStatus.NOT_FOUND, f"known are {', '.join(METHODS)}")
            if scope["method"] != method:
                message = f"{scope['path']} takes {method}"
                raise RefusedRequestError(HTTPStatus.METHOD_NOT_ALLOWED, message, allow=method)
            if scope["path"] == "/invocations":
                await self._invoke(scope, receive, send)
                return
            overdue = self._places.overdue_seconds()
            tolerated = {"/ping": 0.0, "/health": STUCK_SECONDS}.get(scope["path"])
            if overdue is not None and tolerated is not None and overdue >= tolerated:
                message = "every prediction that runs is past its limit"
                raise RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after=str(RETRY_SECONDS))
            await self._app(scope, receive, send)
        except RefusedRequestError as refused:
            await _fail(send, refused.status, str(refused), headers=refused.headers)

    async def _invoke(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if b"content-type" not in headers:
            raise RefusedRequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the header Content-Type is missing")
        encoding = headers.get(b"content-encoding", "identity").strip().lower()
        if encoding not in ENCODINGS:
            message = f"the header Content-Encoding takes {' or '.join(ENCODINGS)}"
            raise RefusedRequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, accept_encoding=", ".join(ENCODINGS))
        with self._holding() as hold:
            patience = 60 + self._limits.request_bytes / SLOWEST_BYTES
            try:
                body = await asyncio.wait_for(self._read(receive, hold), patience)
            except asyncio.TimeoutError:  # noqa: UP041 - another class before Python 3.11
                raise RefusedRequestError(HTTPStatus.REQUEST_TIMEOUT, "the body came too slowly") from None
            if body is None:
                return
            deadline = time.monotonic() + self._limits.seconds
            gone = asyncio.create_task(_until_gone(receive))
            try:
                body, size = await self._judge(body, headers[b"content-type"], encoding, hold)
                await self._predict(scope, body, size, deadline, gone, send)
            finally:
                gone.cancel()

    @contextmanager
    def _holding(self) -> Generator[Callable[[int], bool]]:
        """Count a body towards the total that is held; the yielded function returns whether more bytes fit."""
        mine = 0

        def hold(size: int) -> bool:
            nonlocal mine
            if self._held + size > self._limits.held_bytes:
                return False
            mine += size
            self._held += size
            return True

        try:
            yield hold
        finally:
            self._held -= mine

    async def _read(self, receive: Receive, hold: Callable[[int], bool]) -> bytes | None:
        """Return the request's body; None if the caller disconnects. Reads to the end, because a caller that still
        sends does not receive an answer."""
        chunks: list[bytes] = []
        size = 0
        refused: RefusedRequestError | None = None
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self._largest:
                refused = self._too_large()
            elif refused is None and not hold(len(chunk)):
                refused = _busy("the requests under way fill the memory")
            if refused is None:
                chunks.append(chunk)
            else:
                chunks.clear()
            if not message.get("more_body"):
                if refused is not None:
                    raise refused
                return b"".join(chunks)

    @property
    def _largest(self) -> int:
        return min(self._limits.request_bytes, self._limits.held_bytes)

    def _too_large(self) -> RefusedRequestError:
        message = f"the body may have {self._largest} bytes"
        return RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)

    async def _judge(
        self, body: bytes, content_type: str, encoding: str, hold: Callable[[int], bool]
    ) -> tuple[bytes, int]:
        """Return the decompressed body, and the number of bytes that a prediction reads from it."""

        def judge() -> tuple[bytes, int]:
            plain = unpacked(body, self._largest) if encoding == "gzip" else body
            if "parquet" not in content_type:
                plain.decode()
            return plain, weight(plain, content_type, self._limits.read_bytes)

        try:
            plain, size = await asyncio.get_running_loop().run_in_executor(self._reading, judge)
        except TooLargeError:
            raise self._too_large() from None
        except TooManyMembersError:
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST, f"a gzip body of more than {MEMBERS} members") from None
        except zlib.error:
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST, "the body is not gzip") from None
        except UnicodeDecodeError:
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST, "the body is not UTF-8") from None
        except Exception as error:
            message = f"the input cannot be read: {type(error).__name__}"
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST, message) from None
        if size > self._limits.read_bytes:
            message = "the body becomes more than the server's memory holds: send fewer rows at once"
            raise RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        if encoding == "gzip" and not hold(len(plain)):
            raise _busy("the requests under way fill the memory")
        return plain, size

    async def _predict(
        self, scope: Message, body: bytes, size: int, deadline: float, gone: asyncio.Task[None], send: Send
    ) -> None:
        """Forward the request; pass a successful answer through, and translate an error."""
        late = RefusedRequestError(HTTPStatus.GATEWAY_TIMEOUT, f"no answer within {self._limits.seconds:g} s")
        if not await self._places.enter(size, deadline, gone):
            raise late
        answer: list[Message] = []

        async def collect(message: Message) -> None:
            answer.append(message)

        headers = dict(scope["headers"])
        request = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in _OF_THE_WIRE]}

        async def predict() -> None:
            await self._app(request, _once(body), collect)

        prediction = asyncio.create_task(predict())
        self._places.run(prediction, size, deadline)
        left = max(0.0, deadline - time.monotonic())
        await asyncio.wait({prediction, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not prediction.done():
            # Nobody awaits the prediction any more; its exception goes to the log.
            prediction.add_done_callback(_logged)
            raise late
        failure = prediction.exception()
        if failure is not None:
            _logged(prediction)
            if _is_the_models(failure):
                message = "the model's answer cannot be written as JSON"
                raise RefusedRequestError(HTTPStatus.INTERNAL_SERVER_ERROR, message)
            message = f"the input cannot be read: {type(failure).__name__}"
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST, message)
        status: int = answer[0]["status"]
        if status < HTTPStatus.BAD_REQUEST:
            for message in answer:
                await send(message)
            return
        told, code = _told(b"".join(message.get("body", b"") for message in answer[1:]))
        brought = f"{headers[b'content-type'].decode('latin-1')} {body.decode('utf-8', 'replace')}"
        await _fail(send, HTTPStatus(status), without_input(public(told), brought, self._known), code)


_OF_THE_WIRE: Final = (b"content-encoding", b"content-length", b"transfer-encoding")


def _once(body: bytes) -> Receive:
    """Return a receive function for one whole request, which then waits like a caller that stays connected."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _logged(prediction: asyncio.Task[None]) -> None:
    if not prediction.cancelled() and (error := prediction.exception()) is not None:
        traceback.print_exception(error)


def _is_the_models(error: BaseException) -> bool:
    """Return whether an exception that MLflow did not catch occurred after the prediction, not while reading its
    input."""
    return any(
        frame.name in ("predictions_to_json", "unwrapped_predictions_to_json")
        for frame in traceback.extract_tb(error.__traceback__)
    )


def _told(body: bytes) -> tuple[str, str | None]:
    """Return the message and the error code for a failed answer of MLflow's."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace"), None
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    if "stack_trace" in fields:
        # For the pod's log; callers do not get it.
        say(str(fields["stack_trace"]).strip())
    return str(fields.get("message") or "the request was refused"), fields.get("error_code")


def without_input(message: str, request: str, known: frozenset[str]) -> str:
    """Replace the words of a message that come from the request: those that are not plain words, and everything after
    the first colon or quote. The model's own names are kept."""
    quoted = min((message.find(sign) for sign in "'\":" if sign in message), default=len(message))

    def hide(match: re.Match[str]) -> str:
        word = match[0]
        if word in known or len(word) < SHORTEST_WORD or (match.start() < quoted and word.isascii() and word.isalpha()):
            return word
        brought = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", request)
        return "…" if brought or "\\" in word or not word.isascii() else word

    return _WORD.sub(hide, message)


def public(message: str) -> str:
    """Return a message without the caller's input, which MLflow repeats, and without paths of this container."""
    # The second is a page of advice for users of MLflow 1.
    text = message.partition("\nInput:")[0].partition("IMPORTANT: ")[0]
    if "\nError: " in text:
        text = text.rpartition("Error: ")[2]
    return _PATH.sub("…", " ".join(text.split()))[:LONGEST_MESSAGE]


async def _fail(
    send: Send, status: HTTPStatus, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
) -> None:
    content = json.dumps({"error_code": code or status.name, "message": public(message)}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(content)), **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def missed(error: BaseException | None) -> str | None:
    """Return the library whose absence caused an error; MLflow wraps exceptions of a model's own code."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return str(error.name).partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


def loaded(volume: Volume, name: str) -> tuple[App, frozenset[str]] | None:
    """Return MLflow's app with the model, and the names of its inputs; on failure, log it and return None."""
    if volume.note.exists():
        say(volume.note.read_text(encoding="utf-8").strip())
        return None
    here = ", ".join(map(str, requirements(volume.model))) or "MLflow alone"
    say(f"Loading {name}, which names {here}")
    # MLflow lists everything that was imported where the model was logged, including a notebook's own libraries. Only
    # libraries that are missed during loading and use count.
    lacking = ", ".join(map(str, absent(volume.model)))
    if lacking:
        say(f"Warning: the image lacks what {name} names: {lacking}")
    try:
        from mlflow import tracing
        from mlflow.pyfunc import load_model, scoring_server

        # No tracking server is reachable: each trace would be retried many times before its prediction is answered.
        tracing.disable()
        model = load_model(str(volume.model))
        if lacking and model.input_example is not None:  # pyright: ignore[reportUnknownMemberType]
            model.predict(model.input_example)  # pyright: ignore[reportUnknownMemberType]
        schema = cast(Any, model.metadata).get_input_schema()
        names = frozenset(schema.input_names() if schema is not None and schema.has_input_names() else ())
        return scoring_server.init(model), names  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:
        traceback.print_exc()
        library = missed(error)
        if library is None:
            say(f"Failed: {name} cannot be loaded: {type(error).__name__}: {brief(error)}")
        elif lacking:
            say(
                f"Refused: {name} needs the library {library}, and the image lacks {lacking}. "
                "Set `environment: install`, or an `image` that has it"
            )
        else:
            say(
                f"Refused: {name} needs the library {library}, which the image lacks and the model does not name. "
                "Log the model with it in `extra_pip_requirements`, or set an `image` that has it"
            )
    return None


def memory_for_requests(limit: int) -> int:
    """Return the number of bytes that requests may take, in addition to the process's present memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return max(SMALLEST_BUDGET, int((limit - pages * os.sysconf("SC_PAGE_SIZE")) * READABLE))


async def serve(app: App) -> None:
    """Serve until SIGTERM, then end the process, even if a prediction never ends."""
    import uvicorn

    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(os.environ["DRAIN_SECONDS"]),
    )
    await uvicorn.Server(config).serve()
    sys.stderr.flush()
    # The interpreter would wait for the threads of predictions.
    os._exit(0)


def main() -> int:
    """Run the server as in the pod."""
    started = time.monotonic()
    name = os.environ["MODEL_URI"]
    found = loaded(Volume(Path(os.environ["VOLUME"])), name)
    if found is None:
        return 1
    say(f"Loaded {name} in {time.monotonic() - started:.1f} s")
    limits = Limits(
        request_bytes=int(os.environ["MAX_REQUEST_BYTES"]),
        seconds=float(os.environ["REQUEST_SECONDS"]),
        places=int(os.environ["PREDICTIONS"]),
        memory=memory_for_requests(int(os.environ["MEMORY_BYTES"])),
    )
    asyncio.run(serve(Served(*found, limits)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
