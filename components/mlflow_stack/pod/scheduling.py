"""Scheduling of pods: tolerations, affinity and topology spread, spelled as in a pod."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict, get_args

from mlflow_stack import validate

TolerationOperator = Literal["Equal", "Exists"]
validate.enum(TolerationOperator, "TolerationOperator", "Comparison of a toleration with a taint.")
TaintEffect = Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
validate.enum(TaintEffect, "TaintEffect", "Effect of a taint on pods that do not tolerate it.")
NodeOperator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
validate.enum(NodeOperator, "NodeOperator", "Comparison of a node's label with values.")
LabelOperator = Literal["In", "NotIn", "Exists", "DoesNotExist"]
validate.enum(LabelOperator, "LabelOperator", "Comparison of an object's label with values.")
WhenUnsatisfiable = Literal["DoNotSchedule", "ScheduleAnyway"]
validate.enum(WhenUnsatisfiable, "WhenUnsatisfiable", "Treatment of a pod that would break a constraint.")

MOST = 2**31 - 1


class TolerationArgs(TypedDict):
    """Toleration of taints of nodes, spelled as in a pod."""

    key: NotRequired[str]
    """Key of the taint. Default: none, every taint with operator Exists."""
    operator: NotRequired[TolerationOperator]
    """Equal compares key and value, Exists only the key. Default: Equal."""
    value: NotRequired[str]
    """Value of the taint, with operator Equal. Default: none, an empty value."""
    effect: NotRequired[TaintEffect]
    """Effect of the taint: NoSchedule, PreferNoSchedule or NoExecute. Default: all effects."""
    toleration_seconds: NotRequired[int]
    """With effect NoExecute: seconds after which the pod is evicted. Default: none, never."""


@validate.rules(TolerationArgs, defaults={"operator": "Equal"})
def _toleration_rules(fields: validate.Fields) -> None:
    fields.check("key", validate.label_key)
    fields.check("operator", validate.one_of(*get_args(TolerationOperator)))
    fields.check("value", validate.label_value)
    fields.check("effect", validate.one_of(*get_args(TaintEffect)))
    fields.check("toleration_seconds", validate.between(0, MOST))
    operator = fields.resolved("operator")
    if operator == "Equal" and "key" not in fields.stated:
        fields.require("key", "operator is not Exists")
    if operator == "Exists" and "value" in fields:
        fields.forbid("value", "operator is Exists")
    if "toleration_seconds" in fields and fields.get("effect") != "NoExecute":
        fields.forbid("toleration_seconds", "effect is not NoExecute")


class NodeRequirementArgs(TypedDict):
    """Requirement on a label of nodes."""

    key: str
    """Key of the label."""
    operator: NodeOperator
    """Comparison: In, NotIn, Exists, DoesNotExist, Gt or Lt."""
    values: NotRequired[Sequence[str]]
    """Values: at least one for In and NotIn, one whole number for Gt and Lt. Default: [], for Exists and
    DoesNotExist."""


class LabelRequirementArgs(TypedDict):
    """Requirement on a label of pods or namespaces."""

    key: str
    """Key of the label."""
    operator: LabelOperator
    """Comparison: In, NotIn, Exists or DoesNotExist."""
    values: NotRequired[Sequence[str]]
    """Values: at least one for In and NotIn. Default: [], for Exists and DoesNotExist."""


@validate.rules(NodeRequirementArgs, defaults={"values": []})
def _node_requirement_rules(fields: validate.Fields) -> None:
    fields.check("operator", validate.one_of(*get_args(NodeOperator)))
    _requirement_rules(fields)
    values, operator = fields.resolved("values"), fields.get("operator")
    if operator in ("Gt", "Lt") and (len(values) != 1 or re.fullmatch("-?[0-9]+", values[0], re.ASCII) is None):
        wrong = f"must be one whole number, because operator is {operator}"
        if "values" in fields:
            fields.refuse("values", wrong)
        else:
            fields.require("values", f"operator is {operator}")


@validate.rules(LabelRequirementArgs, defaults={"values": []})
def _label_requirement_rules(fields: validate.Fields) -> None:
    fields.check("operator", validate.one_of(*get_args(LabelOperator)))
    _requirement_rules(fields)


def _requirement_rules(fields: validate.Fields) -> None:
    fields.check("key", validate.label_key)
    operator = fields.get("operator")
    if operator not in ("Gt", "Lt"):
        fields.check_each("values", validate.label_value)
    if operator in ("In", "NotIn") and not fields.resolved("values") and "values" not in fields.stated - set(fields):
        fields.require("values", f"operator is {operator}")
    if operator in ("Exists", "DoesNotExist") and fields.get("values"):
        fields.forbid("values", f"operator is {operator}")


class NodeSelectorTermArgs(TypedDict):
    """Requirements on a node, all of which it must meet."""

    match_expressions: Sequence[NodeRequirementArgs]
    """Requirements on the node's labels."""


class NodeSelectorArgs(TypedDict):
    """Alternative terms, one of which a node must meet."""

    node_selector_terms: Sequence[NodeSelectorTermArgs]
    """Terms."""


class PreferredNodesArgs(TypedDict):
    """Preference for nodes that meet a term."""

    weight: int
    """Weight of the preference, 1 to 100."""
    preference: NodeSelectorTermArgs
    """Requirements on the node's labels."""


class NodeAffinityArgs(TypedDict):
    """Required and preferred nodes."""

    required_during_scheduling_ignored_during_execution: NotRequired[NodeSelectorArgs]
    """Nodes on which the pod may run. Default: all nodes."""
    preferred_during_scheduling_ignored_during_execution: NotRequired[Sequence[PreferredNodesArgs]]
    """Nodes on which the pod runs if there is room. Default: []."""


class LabelSelectorArgs(TypedDict):
    """Selector of pods or namespaces by labels. An empty one selects all."""

    match_labels: NotRequired[Mapping[str, str]]
    """Labels that an object must have. Default: {}."""
    match_expressions: NotRequired[Sequence[LabelRequirementArgs]]
    """Requirements on an object's labels. Default: []."""


class PodAffinityTermArgs(TypedDict):
    """Pods, and the topology that the stack's pod shares with them or avoids."""

    topology_key: str
    """Label of nodes: nodes with the same value are one place, such as kubernetes.io/hostname."""
    label_selector: LabelSelectorArgs
    """Labels of the pods."""
    namespaces: NotRequired[Sequence[str]]
    """Namespaces of the pods. Default: [], the stack's own namespace."""
    namespace_selector: NotRequired[LabelSelectorArgs]
    """Labels of the pods' namespaces, in addition to namespaces. Default: none."""


class WeightedPodAffinityTermArgs(TypedDict):
    """Preference for or against places of pods."""

    weight: int
    """Weight of the preference, 1 to 100."""
    pod_affinity_term: PodAffinityTermArgs
    """Pods and topology."""


class PodAffinityArgs(TypedDict):
    """Required and preferred places, by the pods that run there."""

    required_during_scheduling_ignored_during_execution: NotRequired[Sequence[PodAffinityTermArgs]]
    """Terms that the scheduler must meet. Default: []."""
    preferred_during_scheduling_ignored_during_execution: NotRequired[Sequence[WeightedPodAffinityTermArgs]]
    """Terms that the scheduler meets if there is room. Default: []."""


class AffinityArgs(TypedDict):
    """Affinity of a pod, spelled as in a pod."""

    node_affinity: NotRequired[NodeAffinityArgs]
    """Affinity to nodes by their labels. Default: none."""
    pod_affinity: NotRequired[PodAffinityArgs]
    """Affinity to places where other pods run. Default: none."""
    pod_anti_affinity: NotRequired[PodAffinityArgs]
    """Affinity to places where other pods do not run. Default: none."""


@validate.rules(NodeSelectorTermArgs)
def _term_rules(fields: validate.Fields) -> None:
    fields.check("match_expressions", validate.some)


@validate.rules(NodeSelectorArgs)
def _node_selector_rules(fields: validate.Fields) -> None:
    fields.check("node_selector_terms", validate.some)


@validate.rules(PreferredNodesArgs)
def _preferred_rules(fields: validate.Fields) -> None:
    fields.check("weight", validate.between(1, 100))


@validate.rules(WeightedPodAffinityTermArgs)
def _weighted_rules(fields: validate.Fields) -> None:
    fields.check("weight", validate.between(1, 100))


@validate.rules(NodeAffinityArgs, defaults={"preferred_during_scheduling_ignored_during_execution": []})
def _node_affinity_rules(_fields: validate.Fields) -> None:
    """Accept every value of the right shape."""


@validate.rules(
    PodAffinityArgs,
    defaults={
        "required_during_scheduling_ignored_during_execution": [],
        "preferred_during_scheduling_ignored_during_execution": [],
    },
)
def _pod_affinity_rules(_fields: validate.Fields) -> None:
    """Accept every value of the right shape."""


@validate.rules(LabelSelectorArgs, defaults={"match_labels": {}, "match_expressions": []})
def _label_selector_rules(fields: validate.Fields) -> None:
    fields.check_keys("match_labels", validate.label_key)
    fields.check_each("match_labels", validate.label_value)


@validate.rules(PodAffinityTermArgs, defaults={"namespaces": []})
def _pod_term_rules(fields: validate.Fields) -> None:
    fields.check("topology_key", validate.label_key)
    fields.check_each("namespaces", validate.dns_label)


class TopologySpreadConstraintArgs(TypedDict):
    """Spread of a server's pods over nodes, zones or other places."""

    topology_key: str
    """Label of nodes: nodes with the same value are one place, such as topology.kubernetes.io/zone."""
    max_skew: NotRequired[int]
    """Largest difference in the number of pods between two places. Default: 1."""
    when_unsatisfiable: NotRequired[WhenUnsatisfiable]
    """DoNotSchedule leaves a pod pending that would exceed maxSkew, ScheduleAnyway does not. Default:
    ScheduleAnyway."""


@validate.rules(
    TopologySpreadConstraintArgs,
    defaults={"max_skew": 1, "when_unsatisfiable": "ScheduleAnyway"},
    not_offered={"label_selector": "not supported, because a constraint counts the pods of its server. Remove it."},
)
def _spread_rules(fields: validate.Fields) -> None:
    fields.check("topology_key", validate.label_key)
    fields.check("max_skew", validate.between(1, MOST))
    fields.check("when_unsatisfiable", validate.one_of(*get_args(WhenUnsatisfiable)))
