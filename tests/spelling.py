"""Args of a component in the spelling of a stack file."""

from typing import Any

from mlflow_stack import MlflowStackArgs, validate


def camelled(args: Any) -> Any:
    """Return the args with keys in camelCase."""
    if isinstance(args, dict):
        return {validate.camel(str(name)): camelled(value) for name, value in args.items()}
    return [camelled(value) for value in args] if isinstance(args, list) else args


def accepted(args: dict, name: str = "mlflow") -> MlflowStackArgs:
    """Return the args of a stack, validated as those of a stack file."""
    return validate.accepted("MlflowStack", name, MlflowStackArgs, camelled(args), longest=40, spell=validate.camel)
