"""Names in the documents: each file, test, make verb, class and stack-file key in backticks exists.

The commands in fenced blocks are checked by `test_commands.py`, links by `test_pages.py`.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest
from repository import files

import engine
from mlflow_stack import validate

FILES = files()
ROOMS = {name.partition("/")[0] for name in FILES if "/" in name}
DOCUMENTS = sorted(
    name
    for name in FILES
    if name in ("README.md", "CHANGELOG.md", "components/README.md")
    or re.match(r"(\.github|docs|examples)/.*\.md$", name)
)
SOURCES = {
    name: (engine.PROJECT / name).read_text()
    for name in FILES
    if name.endswith(".py") and not name.startswith(("bench/", "examples/"))
}
CLASSES = set(re.findall(r"^class (\w+)", "\n".join(SOURCES.values()), re.MULTILINE))
FOREIGN = {
    "Kubernetes": {
        "CreateContainerConfigError",
        "ErrImagePull",
        "FailedMount",
        "OrderedReady",
        "envFrom",
        "externalTrafficPolicy",
        "fsGroup",
        "podManagementPolicy",
        "securityContext",
    },
    "Traefik": {"allowEmptyServices"},
    "cryptography": {"InvalidToken"},
    "MLflow": {"LocalArtifactRepository", "StreamUploadMixin"},
    "the CSC template": {
        "apiImage",
        "awsAccessKeyId",
        "awsSecretAccessKey",
        "defaultArtifactRoot",
        "ingressHost",
        "ingressHostModels",
        "ingressType",
        "localStoragePath",
        "modelsUri",
        "routeWhitelist",
        "storageName",
    },
}
"""Names in CamelCase that the documents take from other projects: classes, reasons, keys."""
FILE = re.compile(r"[\w.<>*-][\w./<>*-]*")
ENDINGS = (".md", ".py", ".sh", ".yaml", ".yml")
TEST = re.compile(r"([\w./-]*::)?(test_\w+)(\[.*\])?")
CLASS = re.compile(r"[A-Z][a-z0-9]+([A-Z][a-z0-9]+)+")
KEY = re.compile(r"([a-z]+(?:[A-Z][a-z0-9]*)+)(: .+)?")
PATH = re.compile(r"\w+(\[\w*\])?(\.[\w<>]+(\[\w*\])?)+")
CONFIG = json.loads((engine.PROJECT / "docs" / "stack-file.schema.json").read_text())


def released(text: str) -> str:
    """Blank the changelog's sections of released versions, which name former files."""
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return "".join(
        blanked(section)
        if section.startswith("## ") and "unreleased" not in section.splitlines()[0].lower()
        else section
        for section in sections
    )


def blanked(text: str) -> str:
    """Replace everything except line ends, so that the rest keeps its line numbers."""
    return re.sub(r".", " ", text)


def names() -> Iterator[tuple[str, str]]:
    """Yield each text in backticks, with its document and line."""
    for document in DOCUMENTS:
        text = (engine.PROJECT / document).read_text()
        text = released(text) if document == "CHANGELOG.md" else text
        text = re.sub(r"^ *```.*?^ *```$", lambda block: blanked(block[0]), text, flags=re.MULTILINE | re.DOTALL)
        for found in re.finditer(r"`([^`]+)`", text):
            yield f"{document}:{text.count(chr(10), 0, found.start()) + 1}", " ".join(found[1].split())


NAMES = list(names())


def is_file(name: str) -> bool:
    """Return whether a file or folder has this path, or ends with it; `<name>` stands for any text."""
    pattern = re.sub(r"<[^>]*>", "*", name.rstrip("/"))
    return any(fnmatch(f"/{file}", f"*/{pattern}") or fnmatch(f"/{file}", f"*/{pattern}/*") for file in FILES)


def is_test(name: str) -> bool:
    """Return whether a test has this name, in the file before `::` if one is given."""
    file, _, test = name.partition("[")[0].rpartition("::")
    return any(re.search(rf"^def {test}\(", text, re.MULTILINE) for path, text in SOURCES.items() if file in ("", path))


def is_key(name: str) -> bool:
    """Return whether a stack file has this key; any name is a key of a map, any text in brackets an item of a list."""
    shape = CONFIG["properties"]["config"]
    prefix = "mlflow-stack:"
    for part in re.sub(r"\[\w*\]", ".[]", name).split("."):
        while "$ref" in shape:
            shape = CONFIG["$defs"][shape["$ref"].rpartition("/")[2]]
        known = shape.get("properties", {}).get(prefix + validate.camel(part))
        shape = shape.get("items") if part == "[]" else known or shape.get("additionalProperties")
        prefix = ""
        if not isinstance(shape, dict):
            return False
    return True


def missing_files() -> Iterator[str]:
    for where, name in NAMES:
        path = name.partition("::")[0]
        inside = path.partition("/")[0] in ROOMS and "/" in path
        if FILE.fullmatch(path) and (inside or path.endswith(ENDINGS)) and not is_file(path):
            yield f"{where}: {path}: no such file"


def missing_tests() -> Iterator[str]:
    for where, name in NAMES:
        if TEST.fullmatch(name) and not is_file(name) and not is_test(name):
            yield f"{where}: {name}: no such test"


def missing_verbs() -> Iterator[str]:
    verbs = set(re.findall(r"^([a-z-]+):", (engine.PROJECT / "Makefile").read_text(), re.MULTILINE))
    for where, name in NAMES:
        program, *words = name.split()
        if program == "make":
            said = {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)}
            yield from (f"{where}: make {verb}: no such verb" for verb in sorted(said - verbs))


def missing_classes() -> Iterator[str]:
    known = CLASSES.union(*FOREIGN.values())
    for where, name in NAMES:
        if CLASS.fullmatch(name) and name not in known:
            yield f"{where}: {name}: no such class; FOREIGN lists those of other projects"


def missing_keys() -> Iterator[str]:
    schema = json.loads((engine.PROJECT / "components" / "schema.json").read_text())
    shapes = [*schema["resources"].values(), *schema["types"].values()]
    fields = {key for shape in shapes for kind in ("inputProperties", "properties") for key in shape.get(kind, {})}
    tops = {key.rpartition(":")[2] for key in CONFIG["properties"]["config"]["properties"]}
    for where, name in NAMES:
        key = KEY.fullmatch(name)
        if key and key[1] not in fields.union(*FOREIGN.values()):
            yield f"{where}: {key[1]}: no such key; FOREIGN lists those of other projects"
        top = validate.camel(re.split(r"[.\[]", name)[0])
        if PATH.fullmatch(name) and top in tops and not is_file(name) and not is_key(name):
            yield f"{where}: {name}: no such key"


@pytest.mark.parametrize(
    "missing",
    [missing_files, missing_tests, missing_verbs, missing_classes, missing_keys],
    ids=lambda one: one.__name__,
)
def test_documents_name_what_exists(missing) -> None:
    assert "\n".join(missing()) == ""


def test_every_foreign_name_is_in_a_document() -> None:
    named = {name.partition(":")[0] for _, name in NAMES}
    assert set().union(*FOREIGN.values()) - named == set()


def test_the_modules_page_names_every_component() -> None:
    text = (engine.PROJECT / "docs" / "reference" / "modules.md").read_text()
    components = re.findall(
        r"^class ([A-Z]\w+)\(pulumi\.ComponentResource\)", "\n".join(SOURCES.values()), re.MULTILINE
    )
    assert [name for name in components if not re.search(rf"\b{name}\b", text)] == []
