"""Serves the model in the pod's volume with MLflow's scoring app, on loopback.

Around the app stands what a caller may see of it: four paths, requests of a bounded size, and errors that are JSON of
``error_code`` and ``message`` alone. MLflow's own also have a stack trace, the caller's input, and texts that are no
JSON. One process: one copy of the model in memory, and as PID 1 it drains and ends at SIGTERM.
"""

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

from model_volume import Volume, absent, brief, requirements, say

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

METHODS: Final = {"/ping": "GET", "/health": "GET", "/version": "GET", "/invocations": "POST"}
DRAIN_SECONDS: Final = 50
LONGEST_MESSAGE: Final = 500
_PATH: Final = re.compile(r"(?<![\w.:/-])(/[\w.@+~-]+){2,}/?")


class Served:
    """The ASGI app that callers reach."""

    def __init__(self, app: App, most_bytes: int) -> None:
        """`most_bytes`: the largest request body."""
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            # The server's own start and end; a WebSocket is nobody's here, and MLflow's app refuses it.
            await self._app(scope, receive, send)
            return
        method = METHODS.get(scope["path"])
        if method is None:
            await _fail(send, HTTPStatus.NOT_FOUND, f"known are {', '.join(METHODS)}")
        elif scope["method"] != method:
            await _fail(send, HTTPStatus.METHOD_NOT_ALLOWED, f"{scope['path']} takes {method}", allow=method)
        elif scope["path"] != "/invocations":
            await self._app(scope, receive, send)
        elif not any(name == b"content-type" for name, _ in scope["headers"]):
            await _fail(send, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the header Content-Type is missing")
        elif (body := await self._body(receive)) is None:
            await _fail(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have {self._most} bytes")
        else:
            await self._predict(scope, body, receive, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The request's body; None where it is too large. All is read: who still sends hears nothing."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size <= self._most:
                chunks.append(chunk)
            else:
                chunks.clear()
            if not message.get("more_body"):
                return b"".join(chunks) if size <= self._most else None

    async def _predict(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Hands the request on; a good answer passes as it is, a bad one is put into our words."""
        handed = False
        failed: list[bytes] = []
        status = 0

        async def once() -> Message:
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def judged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status < HTTPStatus.BAD_REQUEST:
                await send(message)
            else:
                failed.append(message.get("body", b""))

        try:
            await self._app(scope, once, judged)
        except Exception as error:
            traceback.print_exc()
            if 0 < status < HTTPStatus.BAD_REQUEST:
                raise
            if _is_the_models(error):
                await _fail(send, HTTPStatus.INTERNAL_SERVER_ERROR, "the model's answer cannot be written as JSON")
            else:
                await _fail(send, HTTPStatus.BAD_REQUEST, f"the input cannot be read: {type(error).__name__}")
            return
        if status >= HTTPStatus.BAD_REQUEST:
            await _fail(send, HTTPStatus(status), *_told(b"".join(failed)))


def _is_the_models(error: Exception) -> bool:
    """Whether what MLflow did not catch happened after the prediction; all else happens while it reads the input."""
    return any(
        frame.name in ("predictions_to_json", "unwrapped_predictions_to_json")
        for frame in traceback.extract_tb(error.__traceback__)
    )


def _told(body: bytes) -> tuple[str, str | None]:
    """What a failed answer of MLflow's says to the caller, and its error code."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace"), None
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    if "stack_trace" in fields:
        # For whoever reads the pod's log; callers are not told.
        say(str(fields["stack_trace"]).strip())
    return str(fields.get("message") or "the request was refused"), fields.get("error_code")


def public(message: str) -> str:
    """A message without the caller's input, which MLflow repeats, and without paths of this container."""
    # The second is a page of advice for users of MLflow 1.
    text = message.partition("\nInput:")[0].partition("IMPORTANT: ")[0]
    if "\nError: " in text:
        text = text.rpartition("Error: ")[2]
    return _PATH.sub("…", " ".join(text.split()))[:LONGEST_MESSAGE]


async def _fail(send: Send, status: HTTPStatus, message: str, code: str | None = None, **headers: str) -> None:
    content = json.dumps({"error_code": code or status.name, "message": public(message)}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def missed(error: BaseException | None) -> str | None:
    """The library whose absence is behind an error; MLflow wraps what a model's own code raises."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return str(error.name).partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


def loaded(volume: Volume, name: str) -> App | None:
    """MLflow's app with the model; None where that is impossible, which is then said."""
    if volume.note.exists():
        say(volume.note.read_text(encoding="utf-8").strip())
        return None
    here = ", ".join(map(str, requirements(volume.model))) or "MLflow alone"
    say(f"Loading {name}, which names {here}")
    # MLflow names all that was imported where the model was logged, a notebook's own libraries too: only what is missed
    # while it is loaded and used counts.
    lacking = ", ".join(map(str, absent(volume.model)))
    if lacking:
        say(f"Warning: the image lacks what {name} names: {lacking}")
    try:
        from mlflow.pyfunc import load_model, scoring_server

        model = load_model(str(volume.model))
        if lacking and model.input_example is not None:  # pyright: ignore[reportUnknownMemberType]
            model.predict(model.input_example)  # pyright: ignore[reportUnknownMemberType]
        return scoring_server.init(model)  # pyright: ignore[reportUnknownMemberType]
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


def main() -> int:
    """The server as the pod runs it: ends with 0 after SIGTERM."""
    import uvicorn

    started = time.monotonic()
    name = os.environ["MODEL_URI"]
    app = loaded(Volume(Path(os.environ["VOLUME"])), name)
    if app is None:
        return 1
    say(f"Loaded {name} in {time.monotonic() - started:.1f} s")
    uvicorn.run(
        Served(app, int(os.environ["MAX_REQUEST_BYTES"])),
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
