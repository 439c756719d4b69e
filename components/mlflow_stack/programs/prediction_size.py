"""Estimated memory that MLflow needs to read a prediction request, computed before reading it.

A body of 20 MB can become gigabytes: empty lists in JSON, columns that each record names differently, compression. The
constants are upper bounds of measurements: memory above idle of the scoring app of MLflow 3.17.2, for the worst body of
each kind. The memory that a model uses for its input is not included.
"""

import csv
import io
import re
import zlib
from typing import Any, Final

BYTE: Final = 14
"""Text of four bytes a character, in several copies."""
CONTAINER: Final = 380
"""List or map, parsed twice."""
ITEM: Final = 100
KEY: Final = 700
"""Name that occurs for the first time; as a column of a data frame, it is a separate array."""
CELL: Final = 16
"""Value of a data frame; records that lack a name have one, too."""
CSV_COLUMN: Final = 1300
CSV_CELL: Final = 24
OBJECT: Final = 100
"""Value read from Parquet, where it becomes an object."""
LARGEST_BATCH: Final = 65536
MEMBERS: Final = 100
"""Members of a gzip body: for each, the rest of the body is copied."""

_TEXT: Final = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)(?:"(\s*:)?|\\?\Z)', re.DOTALL)
"""Text in JSON, and whether it is a name. An unterminated one extends to the end, so that no byte is read twice."""


class TooLargeError(Exception):
    """The body exceeds the limit when decompressed."""


class TooManyMembersError(Exception):
    """The gzip body has more members than are decompressed."""


def unpacked(body: bytes, most: int) -> bytes:
    """Return the content of a gzip body, at most so many bytes.

    Raises :class:`TooLargeError`, :class:`TooManyMembersError`, or ``zlib.error`` if it is not gzip.
    """
    parts: list[bytes] = []
    size = 0
    while body or not parts:
        if len(parts) == MEMBERS:
            raise TooManyMembersError
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(body, most - size + 1))
        size += len(parts[-1])
        if size > most:
            raise TooLargeError
        if not member.eof:
            raise zlib.error("incomplete stream")
        body = member.unused_data
    return b"".join(parts)


def weight(body: bytes, content_type: str, most: int) -> int:
    """Return the number of bytes that reading the body may take; if it exceeds ``most``, any number above it."""
    kind = content_type.partition(";")[0].strip()
    if kind == "text/csv":
        return _csv(body)
    if kind == "application/vnd.apache.parquet":
        return _parquet(body, most)
    return _json(body, most)


def _json(body: bytes, most: int) -> int:
    containers = body.count(b"{") + body.count(b"[")
    flat = BYTE * len(body) + CONTAINER * containers + ITEM * body.count(b",")

    def with_names(names: int) -> int:
        return flat + names * (KEY + CELL * containers)

    names = body.count(b":")
    if flat > most or with_names(names) <= most:
        return with_names(names)
    # Records repeat their names; only distinct ones are columns.
    different: set[bytes] = set()
    for match in _TEXT.finditer(body):
        if match[2]:
            different.add(match[1])
        if with_names(len(different)) > most:
            break
    return with_names(len(different))


def _csv(body: bytes) -> int:
    rows = body.count(b"\n") + body.count(b"\r") + 1
    try:
        columns = next((len(row) for row in csv.reader(io.StringIO(body.decode(), newline="")) if row), 0)
    except csv.Error:
        columns = body.count(b",") + 1
    return BYTE * len(body) + columns * (CSV_COLUMN + CSV_CELL * rows)


def _parquet(body: bytes, most: int) -> int:
    """Return the estimate for Parquet. The footer has the number of values; their sizes are measured by reading a few
    rows at a time, because one entry of a dictionary can be in every row."""
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    file: Any = parquet.ParquetFile(io.BytesIO(body))
    footer: Any = file.metadata
    stored = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    values = OBJECT * footer.num_rows * max(1, footer.num_columns)
    found = 3 * max(stored, len(body)) + values
    if found > most:
        return found
    rows = min(LARGEST_BATCH, max(1, most // (8 * max(1, stored))))
    for batch in file.iter_batches(batch_size=rows):
        found += 4 * batch.nbytes
        if found > most:
            break
    return found
