"""Container images as docker archives, without a container engine."""

import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

_BLOCK: Final = tarfile.BLOCKSIZE
_DATE: Final = 315_532_800  # 1980-01-01, the oldest time that zip-based tools accept
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class _Digest:
    """Output file that computes the SHA-256 of everything written through it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._out.write(data)

    def __str__(self) -> str:
        return self._hash.hexdigest()


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        yield from (Path(folder) / name for name in sorted([*files, *folders]))


def _member(tar: tarfile.TarFile, root: Path, path: Path) -> tarfile.TarInfo | None:
    if path.is_socket():
        return None
    info = tar.gettarinfo(str(path), str(path.relative_to(root)))
    if not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
        return None
    info.uname = info.gname = ""
    info.mtime = _DATE
    return info


def _layer(out: BinaryIO, root: Path) -> str:
    """Write the folder as one tar; return its SHA-256. Device nodes and sockets are omitted."""
    digest = _Digest(out)
    with tarfile.open(fileobj=cast(IO[bytes], digest), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for path in _walk(root):
            member = _member(tar, root, path)
            if member is None:
                continue
            if member.isreg():
                with path.open("rb") as file:
                    tar.addfile(member, file)
            else:
                tar.addfile(member)
    return str(digest)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = _DATE
    return info.tobuf(tarfile.GNU_FORMAT)


def _pad(out: BinaryIO) -> None:
    out.write(bytes(-out.tell() % _BLOCK))


def _file(out: BinaryIO, name: str, content: object) -> None:
    data = json.dumps(content, sort_keys=True).encode()
    out.write(_header(name, len(data)) + data)
    _pad(out)


def pack(
    reference: str,
    rootfs: Path | Sequence[Path],
    out: Path,
    *,
    entrypoint: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    user: str = "",
) -> Path:
    """Write an image that `ctr images import` accepts: one uncompressed layer per folder, lowest first.

    The same folders give the same bytes. Owners are kept as numbers, times are not kept.

    Args:
        reference: name of the image, with its tag.
        rootfs: the root filesystem, or its layers.
        out: the archive; appears there only when it is complete.
        entrypoint: the program and its first arguments; default none.
        env: environment of every process; default none.
        user: `uid` or `uid:gid`; default root.
    """
    layers = [rootfs] if isinstance(rootfs, Path) else list(rootfs)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            digests: list[str] = []
            for number, layer in enumerate(layers):
                start = file.tell()
                file.write(bytes(_BLOCK))  # the header, once the size is known: the layer is written only once
                digests.append(_layer(file, layer))
                size = file.tell() - start - _BLOCK
                _pad(file)
                file.seek(start)
                file.write(_header(f"layer{number}.tar", size))
                file.seek(0, io.SEEK_END)
            config = {
                "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "created": "1980-01-01T00:00:00Z",
                "config": {
                    "Entrypoint": list(entrypoint),
                    "Env": [f"{key}={value}" for key, value in sorted((env or {}).items())],
                    "User": user,
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            }
            _file(file, "config.json", config)
            names = [f"layer{number}.tar" for number in range(len(layers))]
            _file(file, "manifest.json", [{"Config": "config.json", "RepoTags": [reference], "Layers": names}])
            file.write(bytes(2 * _BLOCK))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out
