"""Locked images: the digests that a registry returns for the tags of a stack file."""

import hashlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from mlflow_stack_cli import stackfile
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.yamlfile import Tree

_KINDS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DOCKER_HUB: Final = "registry-1.docker.io"
_IMAGE: Final = re.compile(r"(?P<name>.+?)(:(?P<tag>[\w][\w.-]{0,127}))?(@sha256:[0-9a-f]{64})?", re.ASCII)


def lock(file: Path, project: str, defaults: Mapping[str, str]) -> list[str]:
    """Write the digest of every image into a stack file: of those that it names, and of the `defaults` (keys as in the
    file) that it does not override. Comments and order are kept.

    Returns the changes, one line each. Raises `LocalError` and leaves the file unchanged if a registry does not answer.
    """
    text = file.read_text()
    config = stackfile.read(file, project)["config"]
    named = dict(_named(config))
    digests = {image: pinned(image) for image in dict.fromkeys(named.values())}
    changes: list[str] = []
    for key, image in named.items():
        if digests[image] != image:
            text = re.sub(
                rf"(?m)(:\s+['\"]?){re.escape(image)}(['\"]?\s*(#.*)?)$", rf"\g<1>{digests[image]}\g<2>", text
            )
            changes.append(f"{key}: {digests[image]}")
    for key, image in defaults.items():
        if key not in config:
            digest = pinned(image)
            text = f"{text.rstrip()}\n  {key}: {digest}\n"
            changes.append(f"{key}: {digest}")
    file.write_text(text)
    return changes


def _named(tree: Tree, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield every image in a tree, at any depth: the keys that end in `image` or `Image`."""
    for key, value in tree.items():
        where = f"{at}.{key}" if at else key
        items = cast("list[object]", value) if isinstance(value, list) else [cast(object, value)]
        for item in items:
            if isinstance(item, dict):
                yield from _named(cast(Tree, item), where)
            elif isinstance(item, str) and key.rpartition(":")[2].lower().endswith("image"):
                yield where, item


def pinned(image: str) -> str:
    """Return the image with its tag and the digest that its registry returns for the tag.

    Raises `LocalError` if the registry does not answer, or its answer does not match the digest.
    """
    match = _IMAGE.fullmatch(image)
    if match is None or match["tag"] is None:
        raise LocalError(
            f"{image} has no tag to resolve. Next: set one in the stack file, then run the same command again."
        )
    host, name = _repository(match["name"])
    # As with container engines, a registry on loopback is asked without TLS.
    scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
    url = f"{scheme}://{host}/v2/{name}/manifests/{match['tag']}"
    try:
        manifest, stated = _manifest(url)
    except (OSError, ValueError) as error:
        raise LocalError(
            f"{host} does not serve {image}: {error}. Next: check name and tag, then run the same command again."
        ) from error
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    if stated not in (None, digest):
        raise LocalError(f"{host} states {stated} for {image}, but serves {digest}. Next: do not use this image.")
    return f"{match['name']}:{match['tag']}@{digest}"


def _repository(name: str) -> tuple[str, str]:
    """Return registry and repository of an image's name, which may omit Docker Hub."""
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        if host != "docker.io":
            return host, rest
        name = rest
    return _DOCKER_HUB, name if "/" in name else f"library/{name}"


def _manifest(url: str) -> tuple[bytes, str | None]:
    headers = {"Accept": ", ".join(_KINDS)}
    try:
        return _get(url, headers)
    except urllib.error.HTTPError as error:
        asked = re.fullmatch(r"Bearer (.*)", error.headers.get("WWW-Authenticate", ""))
        if error.code != 401 or asked is None:
            raise
    # Anonymous clients get a token for public images.
    fields = dict(re.findall(r'(\w+)="([^"]*)"', asked[1]))
    query = urllib.parse.urlencode({key: fields[key] for key in ("service", "scope") if key in fields})
    token = json.loads(_get(f"{fields['realm']}?{query}", {})[0])
    return _get(url, headers | {"Authorization": f"Bearer {token.get('token') or token['access_token']}"})


def _get(url: str, headers: dict[str, str]) -> tuple[bytes, str | None]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:  # noqa: S310
        return answer.read(), answer.headers.get("Docker-Content-Digest")
