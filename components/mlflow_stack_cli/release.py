"""Release of protected resources: the engine forgets them, and their objects stay in the cluster.

A guard of the data's identity is named after that identity. Releasing it allows the stack to switch to other data.
"""

from collections.abc import Collection
from copy import deepcopy
from typing import Any, cast

from mlflow_stack.identity import KEEPER

State = dict[str, Any]
"""Output of `pulumi stack export`."""


def resources(state: State) -> list[State]:
    """Return the resources of a state."""
    deployment = cast("State", state.get("deployment") or {})
    return cast("list[State]", deployment.get("resources") or [])


def let_go(state: State, names: Collection[str]) -> State:
    """Return the state with `protect` off and `retainOnDelete` on for the protected resources of these names only.

    Unknown names are ignored: their resources were released before. Without a change, the same state is returned.
    """
    if not any(_concerned(resource, names) for resource in resources(state)):
        return state
    edited = deepcopy(state)
    for resource in resources(edited):
        if _concerned(resource, names):
            resource["retainOnDelete"] = True
            del resource["protect"]
    return edited


def _concerned(resource: State, names: Collection[str]) -> bool:
    keepers = cast("State", resource.get("inputs", {}).get("keepers") or {})
    name = keepers.get(KEEPER) or str(resource["urn"]).rpartition("::")[2]
    return bool(resource.get("protect")) and name in names
