"""Plugin for other Pulumi languages: the component's schema, and messages that spell keys as these languages do."""

import json
import sys
import typing
from typing import Any, cast

import pulumi
from pulumi.provider import ConstructResult, main, server
from pulumi.provider.experimental import analyzer, component

from mlflow_stack import validate
from mlflow_stack.spec import resolve
from mlflow_stack.stack import MlflowStack

NAME = "mlflow-stack"
SECRET_OUTPUTS = ("password", "passwords", "client_env", "encryption_keys")


class _Analyzer(analyzer.Analyzer):
    """Pulumi's analyzer of type annotations, extended to make an enum of each ``Literal``, which it does not
    support."""

    def analyze_property(self, arg: Any, typ: type, name: str, **options: Any) -> analyzer.PropertyDefinition:
        """Return the schema of one field."""
        if typing.get_origin(arg) is not typing.Literal:
            return super().analyze_property(arg, typ, name, **options)
        named = validate.ENUMS[arg]
        self.type_definitions[named.title] = analyzer.TypeDefinition(
            named.title,
            analyzer.PropertyType.STRING,
            properties={},
            properties_mapping={},
            module=__name__,
            python_type=str,
            description=named.description,
            enum=[
                analyzer.EnumValueDefinition(value[0].upper() + value[1:], value, value)
                for value in typing.get_args(arg)
            ],
        )
        return analyzer.PropertyDefinition(
            optional=bool(options.get("optional")),
            ref=f"#/types/{self.name}:index:{named.title}",
            description=self.get_docstring(typ, name),
            plain=True if options["can_be_plain"] else None,
        )


class Provider(component.ComponentProvider):
    """Provider of MlflowStack."""

    def __init__(self, version: str) -> None:
        # Pulumi's host has no parameter for the analyzer.
        component.Analyzer = _Analyzer  # pyright: ignore[reportPrivateImportUsage]
        super().__init__([MlflowStack], NAME, None, version)
        self.schema = json.dumps(_marked(json.loads(cast(str, self.schema))))

    def construct(
        self, name: str, resource_type: str, inputs: pulumi.Inputs, options: pulumi.ResourceOptions | None = None
    ) -> ConstructResult:
        """Declare a stack. The args are checked as the caller wrote them: Pulumi's host would drop unknown keys, and
        maps that are Outputs."""
        self.validate_resource_type(NAME, resource_type)
        stack = MlflowStack(name, resolve(name, inputs, spell=validate.camel).args, options)
        return ConstructResult(stack.urn, self.get_state(stack, self._component_defs[MlflowStack.__name__]))


class _Servicer(server.ProviderServicer):
    """Pulumi's plugin server, extended to report rejected args as input errors, even if an Output was wrong."""

    async def _construct(self, request: Any, context: Any) -> Any:
        try:
            return await super()._construct(request, context)  # pyright: ignore[reportUnknownMemberType]
        except validate.InvalidArgs as error:
            raise pulumi.InputPropertiesError(str(error), []) from None


def _marked(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with its secret and its deprecated fields marked as such, at any depth."""
    (resource,) = schema["resources"].values()
    secret = {*map(validate.camel, validate.SECRETS)}
    for holder in (resource, *schema["types"].values()):
        fields: dict[str, dict[str, Any]] = holder.get("inputProperties") or holder.get("properties") or {}
        for name in secret & fields.keys():
            fields[name]["secret"] = True
    for name in map(validate.camel, SECRET_OUTPUTS):
        resource["properties"][name]["secret"] = True
    for kind, replaced in validate.deprecated().items():
        fields = schema["types"].get(f"{NAME}:index:{kind.__name__}", {}).get("properties", {})
        for name, instead in replaced.items():
            fields[validate.camel(name)]["deprecationMessage"] = validate.spelled(instead, validate.camel)
    return schema


def serve(version: str) -> None:
    """Serve an engine until it disconnects."""
    server.ProviderServicer = _Servicer
    main(Provider(version), sys.argv[1:])
