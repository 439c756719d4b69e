"""The component as a plugin for other Pulumi languages: its schema, and messages that name keys as they spell them."""

import json
import sys
import typing
from typing import Any, cast

import pulumi
from pulumi.provider import ConstructResult, main, server
from pulumi.provider.experimental import analyzer, component

from mlflow_stack import expose, pod, validate
from mlflow_stack.artifacts import s3
from mlflow_stack.pod import claims
from mlflow_stack.servers import model as models
from mlflow_stack.spec import resolve
from mlflow_stack.stack import MlflowStack

NAME = "mlflow-stack"
ENUMS = {
    pod.Platform: ("Platform", "Who states the pods' UID."),
    expose.Kind: ("ExposeKind", "How the server is reached from outside the cluster."),
    expose.IssuerKind: ("IssuerKind", "Kind of a cert-manager issuer."),
    claims.AccessMode: ("AccessMode", "Access mode of a claim."),
    s3.Addressing: ("Addressing", "Place of the bucket's name in a request."),
    models.Environment: ("ModelEnvironment", "Source of a model's libraries."),
}
"""Values that are one of a few: their name in the schema, and its description."""
SECRET_OUTPUTS = ("password", "passwords", "client_env", "encryption_keys")


class _Analyzer(analyzer.Analyzer):
    """Pulumi's reader of annotations, with an enum for each ``Literal``, which it does not know."""

    def analyze_property(self, arg: Any, typ: type, name: str, **options: Any) -> analyzer.PropertyDefinition:
        """Return the schema of one field."""
        if typing.get_origin(arg) is not typing.Literal:
            return super().analyze_property(arg, typ, name, **options)
        title, description = ENUMS[arg]
        self.type_definitions[title] = analyzer.TypeDefinition(
            title,
            analyzer.PropertyType.STRING,
            properties={},
            properties_mapping={},
            module=__name__,
            python_type=str,
            description=description,
            enum=[
                analyzer.EnumValueDefinition(value[0].upper() + value[1:], value, value)
                for value in typing.get_args(arg)
            ],
        )
        return analyzer.PropertyDefinition(
            optional=bool(options.get("optional")),
            ref=f"#/types/{self.name}:index:{title}",
            description=self.get_docstring(typ, name),
            plain=True if options["can_be_plain"] else None,
        )


class Provider(component.ComponentProvider):
    """Host of MlflowStack."""

    def __init__(self, version: str) -> None:
        # The host takes no analyzer.
        component.Analyzer = _Analyzer  # pyright: ignore[reportPrivateImportUsage]
        super().__init__([MlflowStack], NAME, None, version)
        self.schema = json.dumps(_with_secrets(json.loads(cast(str, self.schema))))

    def construct(
        self, name: str, resource_type: str, inputs: pulumi.Inputs, options: pulumi.ResourceOptions | None = None
    ) -> ConstructResult:
        """Declare a stack. The args are judged as they came: the host would drop keys that it does not know, and maps
        that are Outputs."""
        self.validate_resource_type(NAME, resource_type)
        stack = MlflowStack(name, resolve(name, inputs, spell=validate.camel).args, options)
        return ConstructResult(stack.urn, self.get_state(stack, self._component_defs[MlflowStack.__name__]))


class _Servicer(server.ProviderServicer):
    """Pulumi's server of plugins, which reports refused args as what they are, also where an Output was wrong."""

    async def _construct(self, request: Any, context: Any) -> Any:
        try:
            return await super()._construct(request, context)  # pyright: ignore[reportUnknownMemberType]
        except validate.InvalidArgs as error:
            raise pulumi.InputPropertiesError(str(error), []) from None


def _with_secrets(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its secret fields marked as such, at any depth."""
    (resource,) = schema["resources"].values()
    secret = {*map(validate.camel, validate.SECRETS)}
    for holder in (resource, *schema["types"].values()):
        fields: dict[str, dict[str, Any]] = holder.get("inputProperties") or holder.get("properties") or {}
        for name in secret & fields.keys():
            fields[name]["secret"] = True
    for name in map(validate.camel, SECRET_OUTPUTS):
        resource["properties"][name]["secret"] = True
    return schema


def serve(version: str) -> None:
    """Answer an engine until it ends."""
    server.ProviderServicer = _Servicer
    main(Provider(version), sys.argv[1:])
