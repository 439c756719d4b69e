"""Routes, HTTPRoutes and Certificates against the definitions of their authors."""

from typing import Any

import jsonschema
import pytest
import yaml
from render.objects import RENDERED

from mlflow_stack_cli.progress import Progress
from sandbox.cluster.crds import CERT_MANAGER, GATEWAY_API, ROUTE, definitions

KINDS = {"Route": ROUTE, "HTTPRoute": GATEWAY_API, "Certificate": CERT_MANAGER}
MADE = [(where, manifest) for where, rendered in RENDERED.items() for manifest in rendered if manifest["kind"] in KINDS]


@pytest.fixture(scope="module")
def schemas() -> dict[str, dict[str, Any]]:
    """Return the validators by kind, which refuse unknown fields, because the API server prunes them."""
    found: dict[str, dict[str, Any]] = {}
    with Progress() as progress:
        for kind, module in KINDS.items():
            for document in yaml.safe_load_all(definitions(progress, module)):
                if (
                    document
                    and document["kind"] == "CustomResourceDefinition"
                    and document["spec"]["names"]["kind"] == kind
                ):
                    (version,) = [version for version in document["spec"]["versions"] if version["name"] == "v1"]
                    found[kind] = version["schema"]["openAPIV3Schema"]
                    found[kind]["properties"]["metadata"] = {"type": "object"}
                    close(found[kind])
    return found


def close(schema: dict[str, Any]) -> None:
    # `anyOf: null` means none there.
    for name in [name for name, value in schema.items() if value is None]:
        del schema[name]
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    for part in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(part, dict):
            close(part)


@pytest.mark.parametrize(("where", "made"), MADE, ids=[f"{'-'.join(where)} {one['kind']}" for where, one in MADE])
def test_what_is_made_has_only_fields_that_its_definition_knows(
    schemas: dict[str, dict[str, Any]], where: tuple[str, str], made: dict[str, Any]
) -> None:
    jsonschema.validate(made, schemas[made["kind"]])


def test_every_kind_is_validated(schemas: dict[str, dict[str, Any]]) -> None:
    assert {one["kind"] for _, one in MADE} == set(schemas) == set(KINDS)
    _, route = next(pair for pair in MADE if pair[1]["kind"] == "Route")
    for wrong in ({"tls": {"termination": "end"}}, {"hosts": ["a.example"]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**route, "spec": {**route["spec"], **wrong}}, schemas["Route"])
