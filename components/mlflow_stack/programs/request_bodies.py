"""Limits on request bodies in the tracking server, as ASGI middleware.

MLflow holds every body except an artifact's in memory, many times over: as bytes, as Python objects, as a message.
Therefore each body is limited, by its decompressed size, and all bodies in progress share the same limit. Further
bodies wait unread, in order of arrival.
"""

import asyncio
import json
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SMALL = 16 * 2**10
"""Bytes of a body that passes without waiting: MLflow has 40 threads, so their total is small."""
GRAPHQL = 64 * 2**10
"""Bytes of a GraphQL request. MLflow parses it before it checks its size, and takes 400 bytes for each."""
GRAPHQL_WEIGHT = 5
"""Memory of a byte of GraphQL, relative to other bodies."""
UPLOAD = 10 * 2**20
"""Bytes of an upload by the UI, MLflow's own limit. It is written to a file, and not parsed."""
UPLOAD_WEIGHT = 1 / 16
BODY_SECONDS = 60
"""Seconds in which a body must arrive. The proxy sends a complete body at once."""
MEMBERS = 100
"""Members of a gzip body. MLflow copies the rest of the body for each, so that many of them take hours."""
STEP = 2**20

SLOWEST = 16 * 2**10
"""Minimum rate of an upload in bytes a second, on average since the last check."""
LOOK_SECONDS = 30
"""Seconds of waiting for a client between two checks."""


class RefusedError(Exception):
    """Request that is answered without MLflow."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class GoneError(Exception):
    """The client ended the connection."""


async def answer(send: Send, status: int, content: bytes, **headers: str) -> None:
    """Send a complete answer."""
    named = {"content-length": str(len(content)), **headers}
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": lines})
    await send({"type": "http.response.body", "body": content})


async def refuse(send: Send, error: RefusedError) -> None:
    """Send MLflow's form of an error, and close the connection: the rest of the request is not read."""
    content = json.dumps({"error_code": error.code, "message": str(error)}).encode()
    await answer(send, error.status, content, content_type="application/json", connection="close")


class Budget:
    """Number of bytes that requests share, first come, first served."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncGenerator[None]:
        """Hold some of the bytes, once they are free."""
        size = min(size, self.total)
        if self._waiting or self._free < size:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(size)
                else:
                    self._waiting.remove((size, turn))
                    self._give(0)
                raise
        else:
            self._free -= size
        try:
            yield
        finally:
            self._give(size)

    def _give(self, size: int) -> None:
        self._free += size
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            self._free -= wanted
            turn.set_result(None)


def inflated(body: bytes, bits: int, limit: int) -> int:
    """Return the decompressed size of a body, up to the limit or to where it is damaged, in constant memory.

    :param bits: zlib's number for gzip, zlib or raw deflate. All members of gzip are counted.
    """
    size, members, stream, rest = 0, 1, zlib.decompressobj(bits), body
    try:
        while size <= limit:
            piece = stream.decompress(rest, STEP)
            size += len(piece)
            rest = stream.unconsumed_tail
            if stream.eof:
                rest = stream.unused_data.lstrip(b"\0")
                if bits <= zlib.MAX_WBITS or not rest:
                    break
                members += 1
                if members > MEMBERS:
                    raise RefusedError(
                        HTTPStatus.BAD_REQUEST, "INVALID_PARAMETER_VALUE", f"a gzip body of more than {MEMBERS} members"
                    )
                stream = zlib.decompressobj(bits)
            elif not piece and not rest:
                break
    except zlib.error:
        pass
    return size


def decoded(encodings: set[str], body: bytes, limit: int) -> int:
    """Return the number of bytes that MLflow would decompress a body to, up to the limit."""
    size = len(body)
    if "gzip" in encodings:
        size = max(size, inflated(body, zlib.MAX_WBITS | 16, limit))
    if "deflate" in encodings:
        # MLflow tries both.
        size = max(size, inflated(body, zlib.MAX_WBITS, limit), inflated(body, -zlib.MAX_WBITS, limit))
    if "zstd" in encodings:
        # MLflow limits these itself, by MLFLOW_GATEWAY_MAX_DECOMPRESSED_REQUEST_SIZE.
        size = limit
    return size


def replayed(chunks: list[bytes], receive: Receive) -> Receive:
    """Return a `receive` that repeats a body, followed by whatever comes after it."""

    async def again() -> Message:
        if chunks:
            chunk = chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}
        return await receive()

    return again


class Bodies:
    """Limits of one server's bodies."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._working = Budget(largest)
        self._unpacking = asyncio.Lock()

    def _terms(self, path: str) -> tuple[int, float]:
        """Return the largest body that a path accepts, and its memory per byte, relative to other bodies."""
        if path.endswith("/graphql"):
            return min(GRAPHQL, self.largest), GRAPHQL_WEIGHT
        if path.endswith("/mlflow/upload-artifact"):
            return UPLOAD, UPLOAD_WEIGHT
        return self.largest, 1

    @asynccontextmanager
    async def admitted(self, scope: Scope, receive: Receive) -> AsyncGenerator[Receive]:
        """Read a request's body, and hold its share of the memory until MLflow has answered it."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        lengths = [int(value) for name, value in headers if name == b"content-length"]
        encodings = {value.decode("latin-1").strip().lower() for name, value in headers if name == b"content-encoding"}
        limit, weight = self._terms(scope["path"])
        # A body without a length, which the proxy always states, counts as the largest.
        size = max(lengths) if lengths else limit if _chunked(headers) else 0
        if size > limit:
            raise _too_large(limit)
        if size <= SMALL and not encodings and weight <= 1:
            yield replayed(await _read(receive, SMALL), receive)
            return
        if not encodings:
            async with self._working.taken(int(size * weight)):
                yield replayed(await _read(receive, limit), receive)
            return
        async with AsyncExitStack() as held:
            # The decompressed size is known only after the body has arrived. One by one, because a body being measured
            # is also in memory.
            async with self._unpacking:
                chunks = await _read(receive, limit)
                size = await asyncio.to_thread(decoded, encodings, b"".join(chunks), limit)
                if size > limit:
                    raise _too_large(limit)
                await held.enter_async_context(self._working.taken(int(size * weight)))
            yield replayed(chunks, receive)


def _chunked(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" for name, _ in headers)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "INVALID_PARAMETER_VALUE",
        f"the request's body is larger than {limit} bytes (unpacked, if it is compressed); send less",
    )


async def _read(receive: Receive, limit: int) -> list[bytes]:
    """Read a whole body."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    raise _too_large(limit)
                more = message.get("more_body", False)
    except TimeoutError:
        raise RefusedError(
            HTTPStatus.REQUEST_TIMEOUT, "REQUEST_LIMIT_EXCEEDED", f"the body did not arrive within {BODY_SECONDS} s"
        ) from None
    return chunks


class Upload:
    """Upload, refused if it arrives too slowly. MLflow's own time does not count.

    MLflow's app answers 500 to exceptions raised in it, so its answer is dropped in favour of ours.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._waited = 0.0
        self._size = 0
        self.refused: RefusedError | None = None

    async def receive(self) -> Message:
        """Receive the next message in time."""
        clock = asyncio.get_running_loop().time
        started = clock()
        message: Message = {"type": "http.request", "more_body": True}
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                message = await self._receive()
        self._waited += clock() - started
        self._size += len(message.get("body", b""))
        if self._waited >= LOOK_SECONDS:
            if message.get("more_body", False) and self._size < SLOWEST * self._waited:
                self.refused = RefusedError(
                    HTTPStatus.REQUEST_TIMEOUT,
                    "REQUEST_LIMIT_EXCEEDED",
                    f"the upload was slower than {SLOWEST} bytes a second for {LOOK_SECONDS} s",
                )
                raise self.refused
            self._waited, self._size = 0.0, 0
        return message

    async def send(self, message: Message) -> None:
        """Send MLflow's answer."""
        if self.refused is None:
            await self._send(message)

    async def served_by(self, app: App, scope: Scope) -> None:
        """Let the app serve the request."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            if self.refused is None:
                raise
        if self.refused is not None:
            raise self.refused


def bounded(app: App, largest: int, is_upload: Callable[[Scope], bool]) -> App:
    """Return the app with bounded bodies.

    :param is_upload: Returns whether a request's body is an artifact, which MLflow streams.
    """
    bodies = Bodies(largest)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        try:
            if is_upload(scope):
                await Upload(receive, send).served_by(app, scope)
            else:
                async with bodies.admitted(scope, receive) as again:
                    await app(scope, again, send)
        except RefusedError as error:
            await refuse(send, error)
        except GoneError:
            pass

    return guarded
