"""Args of a component as a stack file spells them."""

from typing import Any

from mlflow_stack import MlflowStackArgs, validate


def camelled(args: Any) -> Any:
    """The same args with keys in camelCase."""
    if isinstance(args, dict):
        return {validate.camel(str(name)): camelled(value) for name, value in args.items()}
    return [camelled(value) for value in args] if isinstance(args, list) else args


def accepted(args: dict, name: str = "mlflow") -> MlflowStackArgs:
    """The args of a stack, judged as those of a stack file."""
    return validate.accepted("MlflowStack", name, MlflowStackArgs, camelled(args), longest=40, spell=validate.camel)
