"""Refuses bad input before anything is declared: all mistakes at once, each with its key, value and what is wanted.

Shape (unknown keys, wrong types) is read from the TypedDict of a component's args; what a value may be is said beside
that TypedDict by a function registered with :func:`rules`. Keys are shown as their writer spells them: with underscores
in Python (``backend_store.pvc.size``), in camelCase in stack files and other languages (``backendStore.pvc.size``).
"""

import difflib
import ipaddress
import re
import ssl
import types
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar, cast

import pulumi
from pulumi.output import Unknown

T = TypeVar("T")
Predicate = Callable[[Any], str | None]
"""Takes a plain value; returns None where it is accepted, else what is wanted instead."""

SECRETS = frozenset({"password", "passwords", "access_key_id", "secret_access_key"})
"""Fields whose values are never shown, at any depth."""


class InvalidArgs(pulumi.RunError):
    """The args of a component are not accepted; the text lists every problem. Pulumi prints it without a traceback."""


@dataclass(frozen=True)
class Problem:
    key: str
    """Path of the field."""
    message: str
    """The value unless it is secret, and what is wanted."""

    def __str__(self) -> str:
        return f"{_printable(self.key)}: {self.message}"


class Problems(list[Problem]):
    """What is not accepted, with the spelling of keys."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        super().__init__()
        self.spell = spell

    @property
    def lines(self) -> list[str]:
        """The messages, in the order of their keys."""
        return [str(problem) for problem in sorted(self, key=lambda problem: problem.key)]


def camel(name: str) -> str:
    """The schema's spelling of a Python field name: ``max_artifact_size`` is ``maxArtifactSize``."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def hints(kind: type) -> dict[str, Any]:
    """The fields of an args TypedDict with their types."""
    # pulumi.Input names Output[T] as a forward reference, which is looked up where the TypedDict stands.
    return typing.get_type_hints(kind, localns={"Output": pulumi.Output, "T": Any}, include_extras=True)


def plain_type(hint: Any) -> Any:
    """A field's own type, without NotRequired and Input around it."""
    if typing.get_origin(hint) in (typing.NotRequired, typing.Required, typing.Union, types.UnionType):
        return plain_type(typing.get_args(hint)[0])
    return hint


def is_output(value: object) -> bool:
    """Whether a value is known only when the engine runs, so that it cannot be checked yet."""
    return isinstance(value, (pulumi.Output, Awaitable, Unknown))


def takes_output(hint: Any) -> bool:
    """Whether a field's type says that its value may be an Output."""
    if typing.get_origin(hint) in (typing.NotRequired, typing.Required):
        return takes_output(typing.get_args(hint)[0])
    return any(typing.get_origin(one) is pulumi.Output for one in typing.get_args(hint))


class Fields(Mapping[str, Any]):
    """The well-shaped fields of one args value, for the rules that judge them."""

    def __init__(
        self, key: str, values: dict[str, Any], stated: frozenset[str], secret: bool, problems: Problems
    ) -> None:
        self.key = key
        self.stated = stated
        """The fields that were given at all, also those with problems of their own."""
        self._values = values
        self._secret = secret
        self._problems = problems

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> typing.Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def known(self, name: str, default: Any) -> Any:
        """A field's value, for rules over several fields; the default where it is not given or an Output."""
        value = self._values.get(name, default)
        return default if is_output(value) else value

    def check(self, name: str, predicate: Predicate) -> None:
        """Judge one field, an Output in the ``apply`` that everything made of it goes through."""
        if name in self._values:
            self._values[name] = self._judged(self._values[name], predicate, name, "")

    def check_each(self, name: str, predicate: Predicate) -> None:
        """Judge each item of a list, or each value of a map."""
        values = self._values.get(name)
        if isinstance(values, Mapping):
            pairs = cast("Mapping[str, Any]", values).items()
            self._values[name] = {item: self._judged(value, predicate, name, f".{item}") for item, value in pairs}
        elif values is not None:
            self._values[name] = [
                self._judged(value, predicate, name, f"[{position}]") for position, value in enumerate(values)
            ]

    def _judged(self, value: Any, predicate: Predicate, name: str, suffix: str) -> Any:
        key, secret = self._where(name) + suffix, self._secret or name in SECRETS
        if is_output(value):
            return _judged_later(value, predicate, key, secret)
        wanted = predicate(value)
        if wanted is not None:
            self._problems.append(Problem(key, _shown(value, secret) + wanted))
        return value

    def refuse(self, name: str, wanted: str) -> None:
        """Reports a field, with its value, as not accepted."""
        value = _shown(self._values[name], self._secret or name in SECRETS) if name in self._values else "missing; "
        self._problems.append(Problem(self._where(name), value + wanted))

    def refuse_value(self, name: str, key: str, wanted: str) -> None:
        """Report one value of a map."""
        value = _shown(self._values[name][key], self._secret or name in SECRETS)
        self._problems.append(Problem(join(self._where(name), key), value + wanted))

    def under(self, name: str) -> "Fields":
        """Return the fields of a map of fields, for rules that judge it together with what surrounds it."""
        values: dict[str, Any] = self._values.get(name, {})
        secret = self._secret or name in SECRETS
        return Fields(self._where(name), values, frozenset(values), secret, self._problems)

    def refuse_item(self, name: str, value: str, wanted: str) -> None:
        """Reports one item of a list by its value."""
        self._problems.append(Problem(self._where(name), _shown(value, False) + wanted))

    def refuse_key(self, name: str, item: str, wanted: str) -> None:
        """Reports one key of a map; its value is not shown."""
        self._problems.append(Problem(self._where(name), f"the key {_shown(item, False)}{wanted}"))

    def check_keys(self, name: str, predicate: Predicate) -> None:
        """Judges each key of a map."""
        for key in self._values.get(name, {}):
            wanted = predicate(key)
            if wanted is not None:
                self.refuse_key(name, key, wanted)

    def refuse_together(self, name: str, other: str, why: str) -> None:
        """Reports two fields that exclude each other, where both are given."""
        if name in self._values and other in self._values:
            message = f"given together with {self.spell(other)}; {why}"
            self._problems.append(Problem(self._where(name), message))

    def spell(self, name: str) -> str:
        """A field's name as the writer of the args spells it."""
        return self._problems.spell(name)

    def _where(self, name: str) -> str:
        return join(self.key, self.spell(name))


Rules = Callable[[Fields], None]
_rules: dict[type, Rules] = {}
_not_offered: dict[type, Mapping[str, str]] = {}


def rules(kind: type, *, not_offered: Mapping[str, str] | None = None) -> Callable[[Rules], Rules]:
    """Registers what the values of an args TypedDict may be; it runs wherever that TypedDict is nested. ``not_offered``
    has keys that people look for and that there are not, each with what is there instead."""

    def register(function: Rules) -> Rules:
        _rules[kind] = function
        _not_offered[kind] = not_offered or {}
        return function

    return register


def rules_of(kind: type) -> Rules:
    """Return what judges the values of an args TypedDict."""
    return _rules.get(kind, lambda _fields: None)


def extend(kind: type, base: type) -> None:
    """Register the rules of an args TypedDict for one that has its fields and more."""
    _rules[kind], _not_offered[kind] = _rules[base], _not_offered[base]


def accepted(
    component: str,
    name: str,
    kind: type[T],
    args: Mapping[str, Any],
    *,
    longest: int,
    spell: Callable[[str], str] = str,
    found: Sequence[Problem] = (),
) -> T:
    """The args with integers as ints (plugin hosts turn them into floats), or :class:`InvalidArgs` with every problem.

    ``longest`` is how many characters the component's own name may have, so that what Kubernetes and the engine append
    to it still fits into 63. ``spell`` makes of a field's name what its writer knows it by; ``found`` are problems that
    are known already.
    """
    problems = Problems(spell)
    problems.extend(found)
    wanted = dns_label(name, longest)
    if wanted is not None:
        problems.append(Problem("name", _shown(name, False) + wanted))
    clean = _conform(kind, args, "", False, problems)
    if problems:
        count = "1 input is" if len(problems) == 1 else f"{len(problems)} inputs are"
        lines = "\n".join(f"  {line}" for line in problems.lines)
        raise InvalidArgs(f"{component} {name!r}: {count} not accepted, nothing was declared:\n{lines}")
    return cast(T, clean)


def _judged_later(value: pulumi.Input[Any], predicate: Predicate, key: str, secret: bool) -> pulumi.Output[Any]:
    """An Output that is judged in the ``apply`` that everything made of it goes through."""

    def judge(known: Any) -> Any:
        wanted = predicate(known)
        if wanted is not None:
            raise InvalidArgs(str(Problem(key, _shown(known, secret) + wanted)))
        return known

    return _as_output(value, secret).apply(judge)


def _conformed_later(
    hint: Any, value: pulumi.Input[Any], key: str, secret: bool, spell: Callable[[str], str]
) -> pulumi.Output[Any]:
    """An Output of the field's type, or :class:`InvalidArgs` when it turns out to be of another."""

    def conform(known: Any) -> Any:
        problems = Problems(spell)
        clean = _conform(hint, known, key, secret, problems)
        if problems:
            raise InvalidArgs("\n".join(problems.lines))
        return clean

    return _as_output(value, secret).apply(conform)


def _as_output(value: pulumi.Input[Any], secret: bool) -> pulumi.Output[Any]:
    return pulumi.Output.secret(value) if secret else pulumi.Output.from_input(value)


_LONGEST_SHOWN = 300


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _without_credentials(text: str) -> str:
    """A text without what stands before ``@`` or after ``?`` in a URL, where passwords and tokens are."""
    text = re.sub(r"^([^:/@]*://)?(?(1)|[^@/]*:(?!/)).*@", r"\1***@", text, flags=re.S)
    return re.sub(r"^([^:/?]*://[^?]*)\?.*", r"\1?***", text, flags=re.S)


def _shown(value: object, secret: bool) -> str:
    if secret:
        return "the value (not shown) is not accepted; wanted "
    if isinstance(value, str):
        text = f'"{_printable(_without_credentials(value))}"'
        if len(text) > _LONGEST_SHOWN:
            text = f'{text[:_LONGEST_SHOWN]}…" ({len(value)} characters)'
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, Mapping):
        text = "a map"
    elif isinstance(value, Sequence):
        text = "a list"
    else:
        text = str(value)
    return f"{text} is not accepted; wanted "


_PLAIN = "wanted a value that is known before the deployment, as it decides what is declared"
_STRINGIFIED = "Calling __str__ on an Output"
"""What Pulumi's SDK makes of an Output in an f-string."""


def _is_typed_dict(hint: object) -> bool:
    return isinstance(hint, type) and typing.is_typeddict(hint)


def _conform(hint: Any, value: Any, key: str, secret: bool, problems: Problems) -> Any:
    if is_output(value):
        if takes_output(hint):
            return _conformed_later(plain_type(hint), value, key, secret, problems.spell)
        problems.append(Problem(key, f"an Output is not accepted; {_PLAIN}"))
        return None
    hint = plain_type(hint)
    origin = typing.get_origin(hint)
    if _is_typed_dict(hint):
        if not isinstance(value, Mapping):
            problems.append(Problem(key, _shown(value, secret) + "a map"))
            return None
        return _conform_fields(hint, cast("Mapping[str, Any]", value), key, secret, problems)
    if origin in (list, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            problems.append(Problem(key, _shown(value, secret) + "a list"))
            return None
        item = typing.get_args(hint)[0]
        items = cast("Sequence[Any]", value)
        return [_conform(item, one, f"{key}[{position}]", secret, problems) for position, one in enumerate(items)]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            problems.append(Problem(key, _shown(value, secret) + "a map"))
            return None
        item = typing.get_args(hint)[1]
        pairs = cast("Mapping[str, Any]", value)
        found: dict[str, Any] = {}
        for name, one in pairs.items():
            before = len(problems)
            found[name] = _conform(item, one, join(key, str(name)), secret, problems)
            if len(problems) > before and isinstance(one, Mapping) and plain_type(item) in (str, int):
                problem = problems.pop()
                path = f"""'{problems.spell(key)}["{_printable(_dotted(str(name), one))}"]'"""
                problems.append(Problem(problem.key, f"{problem.message}. A name with dots is quoted: --path {path}"))
        return found
    if hint is int:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return _plain(
            isinstance(value, int) and not isinstance(value, bool), value, key, secret, "a whole number", problems
        )
    if hint is bool:
        return _plain(isinstance(value, bool), value, key, secret, "true or false", problems)
    if hint is str or origin is typing.Literal:
        if isinstance(value, str) and _STRINGIFIED in value:
            problems.append(Problem(key, "text that was made of an Output; pass the Output, or use Output.concat"))
            return None
        return _plain(isinstance(value, str), value, key, secret, "text", problems)
    return value


def _dotted(name: str, value: Any) -> str:
    """The name that was taken for a path of maps, as Pulumi does where a name with dots is not quoted."""
    while isinstance(value, Mapping) and len(cast("Mapping[str, Any]", value)) == 1:
        ((part, value),) = cast("Mapping[str, Any]", value).items()
        name += f".{part}"
    return name


def _plain(right: bool, value: Any, key: str, secret: bool, wanted: str, problems: Problems) -> Any:
    if not right:
        problems.append(Problem(key, _shown(value, secret) + wanted))
    return value


def _conform_fields(kind: type, value: Mapping[str, Any], key: str, secret: bool, problems: Problems) -> dict[str, Any]:
    types_by_field = hints(kind)
    spelled = {problems.spell(name): name for name in types_by_field}
    fields: dict[str, Any] = {}
    stated: set[str] = set()
    for written, field in value.items():
        name = spelled.get(written)
        where = join(key, str(written))
        if name is None:
            # In the spelling of another language it is near to none.
            known = {camel(one): problems.spell(one) for one in types_by_field}
            near = difflib.get_close_matches(camel(str(written)), known, n=1)
            hint = f"did you mean {known[near[0]]}?" if near else f"known are {', '.join(sorted(known.values()))}"
            problems.append(Problem(where, _not_offered.get(kind, {}).get(written, f"unknown key; {hint}")))
            continue
        stated.add(name)
        if field is None:
            continue
        before = len(problems)
        clean = _conform(types_by_field[name], field, where, secret or name in SECRETS, problems)
        if len(problems) == before:
            fields[name] = clean
    missing = cast("frozenset[str]", vars(kind)["__required_keys__"]) - stated
    problems.extend(Problem(join(key, problems.spell(name)), "missing; it is required") for name in sorted(missing))
    given = frozenset(name for name in stated if value[problems.spell(name)] is not None)
    if kind in _rules:
        _rules[kind](Fields(key, fields, given, secret, problems))
    return fields


# What single values may be. Each says what it wants with an example.

_QUANTITY = re.compile(r"[0-9]{1,19}(\.[0-9]{1,9})?([KMGTPE]i|[mkMGTPE])?", re.ASCII)
_LARGEST_QUANTITY = 2**63 - 1
"""A larger one is cut to this by the API server, and to something else by nginx."""
_AMOUNT = re.compile(
    r"(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?", re.ASCII
)
_UNITS = {unit: Fraction(1000) ** power for power, unit in enumerate(["n", "u", "m", "", *"kMGTPE"], -3)} | {
    f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", 1)
}
_LARGEST_OBJECT = 2**20
"""Bytes of data in a ConfigMap or Secret."""
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_REGISTRY = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?"
_REPOSITORY = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<name>({_REGISTRY}/)?{_REPOSITORY}(/{_REPOSITORY})*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(@sha256:(?P<digest>[0-9a-f]{64}))?",
    re.ASCII,
)
"""As container runtimes read references: github.com/distribution/reference."""
_LONGEST_IMAGE_NAME = 255 - len("docker.io/library/")


def quantity(value: str) -> str | None:
    """A Kubernetes quantity above zero: digits with an optional unit, no sign, no exponent, no spaces."""
    if _QUANTITY.fullmatch(value) is None or not 0 < amount(value) <= _LARGEST_QUANTITY:
        return "a Kubernetes quantity above zero and below 8Ei, such as 500m or 10Gi"
    return None


def hard_limit(value: str) -> str | None:
    """A quantity in a ResourceQuota, where zero forbids."""
    return None if _QUANTITY.fullmatch(value) and amount(value) == 0 else quantity(value)


def size(value: str) -> str | None:
    """A quantity of bytes: at least one, no fractions of a byte."""
    if quantity(value) is not None or value.endswith("m") or bytes_of(value) < 1:
        return "a size above zero and below 8Ei as a Kubernetes quantity, such as 10Gi"
    return None


def amount(value: str) -> Fraction:
    """Return the exact value of a quantity, in any form that Kubernetes writes."""
    match = _AMOUNT.fullmatch(value)
    if match is None:
        raise ValueError(f"not a quantity: {value!r}")
    unit = match["unit"] or ""
    factor = _UNITS[unit] if unit in _UNITS else Fraction(10) ** int(unit[1:])
    return Fraction(match["number"]) * factor


def bytes_of(value: str) -> int:
    """Return the whole bytes in a quantity."""
    return int(amount(value))


EXTENDED = "an extended resource with its domain, such as nvidia.com/gpu"
_CONTAINER_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_QUOTA_RESOURCES = frozenset(
    {
        *("cpu", "memory", "ephemeral-storage", "pods", "services", "replicationcontrollers", "resourcequotas"),
        *("secrets", "configmaps", "persistentvolumeclaims", "services.nodeports", "services.loadbalancers"),
        *(f"{part}.{name}" for part in ("requests", "limits") for name in _CONTAINER_RESOURCES),
        "requests.storage",
    }
)


def is_extended(resource: str) -> bool:
    """Whether a container's resource is a device plugin's, of which only whole ones are given, never shared."""
    return "/" in resource


def container_resource(value: str) -> str | None:
    """A resource that a container may ask for, as the API server judges names."""
    if value in _CONTAINER_RESOURCES:
        return None
    domain, slash, _ = value.partition("/")
    native = domain == "kubernetes.io" or domain.endswith(".kubernetes.io") or domain.startswith("requests.")
    # A quota would name it so.
    if not slash or native or label_key(value) is not None or label_key(f"requests.{value}") is not None:
        return f"one of {', '.join(_CONTAINER_RESOURCES)}, or {EXTENDED}"
    return None


def quota_resource(value: str) -> str | None:
    """A resource that a ResourceQuota may limit, as the API server judges names."""
    if value in _QUOTA_RESOURCES or ("/" in value and label_key(value) is None):
        return None
    return "a resource that a ResourceQuota limits, such as limits.memory, pods or count/jobs.batch"


def is_counted(resource: str) -> bool:
    """Return whether a ResourceQuota limits a number of things by this name, and not an amount."""
    return resource not in _CONTAINER_RESOURCES and not resource.startswith(("requests.", "limits."))


def dns_label(value: str, longest: int = 63) -> str | None:
    """An RFC 1123 label that starts with a letter, as Services need, of a bounded length."""
    if _LABEL.fullmatch(value) is None or not value[0].isalpha() or len(value) > longest:
        room = "" if longest == 63 else ", so that the names made from it fit into 63"
        return f"lower-case letters, digits and '-', starting with a letter, at most {longest} characters{room}"
    return None


def subdomain(value: str) -> str | None:
    """An RFC 1123 subdomain, as most object names are."""
    if _SUBDOMAIN.fullmatch(value) is None or len(value) > 253:
        return "an object's name: lower-case letters, digits, '-' and '.', at most 253 characters"
    return None


def label_value(value: str) -> str | None:
    """A label's value."""
    return None if _LABEL_VALUE.fullmatch(value) else "a label's value: at most 63 of letters, digits, '-', '_' and '.'"


def image(value: str) -> str | None:
    """An image with a tag other than ``latest``, or with a digest, so that what runs is named."""
    match = _IMAGE.fullmatch(value)
    if (
        match is None
        or (match["digest"] is None and match["tag"] in (None, "latest"))
        or len(match["name"]) > _LONGEST_IMAGE_NAME
    ):
        return "an image with a tag other than latest, or with a digest, such as registry.example/mlflow:v3.17.2-full"
    return None


def user(value: str) -> str | None:
    """A user name: RFC 7617 forbids ':'; the rest keeps htpasswd lines and resource names plain. ``models`` is ours."""
    if value == "models":
        return "another name: models is the stack's own machine user"
    if _USER.fullmatch(value) is None:
        return "1 to 64 of letters, digits and . _ @ + -, starting with a letter or a digit"
    return None


def password(value: str) -> str | None:
    """12 to 1024 printable ASCII characters: browsers disagree on the encoding of others, and nginx takes headers of at
    most 8 KiB."""
    if not 12 <= len(value) <= 1024 or not (value.isascii() and value.isprintable()):
        return "12 to 1024 printable ASCII characters"
    return None


def between(lowest: int, highest: int) -> Predicate:
    """A whole number in a range, both ends included."""

    def judge(value: int) -> str | None:
        return None if lowest <= value <= highest else f"a whole number from {lowest} to {highest}"

    return judge


def one_of(*options: str) -> Predicate:
    """One of a few words."""

    def judge(value: str) -> str | None:
        return None if value in options else "one of " + ", ".join(options)

    return judge


def host(value: str) -> str | None:
    """A host name or an IPv4 address, without scheme, port or path."""
    if subdomain(value) is not None or any(len(label) > 63 for label in value.split(".")):
        return "a host name in lower case without scheme, port or path, such as mlflow.example.com"
    return None


def url_path(value: str) -> str | None:
    """The path of a URL, with a leading and no trailing slash, that no program reads as anything but itself."""
    if re.fullmatch(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+", value, re.ASCII) is None or len(value) > 200:
        return "a path with a leading and no trailing slash, such as /mlflow"
    return None


def cidr(value: str) -> str | None:
    """A range of addresses as its network writes it."""
    wanted = "a range of addresses, such as 192.0.2.0/24"
    if re.fullmatch(r"[0-9a-fA-F:.]+/[0-9]+", value, re.ASCII) is None:
        return wanted
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return wanted
    if value == "255.255.255.255/32":  # nobody's address, and nginx takes it for a mistake
        return wanted
    return None if str(network) == value else f"a range as networks are written; did you mean {network}?"


def not_empty(value: Sequence[object]) -> str | None:
    """A list with at least one item, where an empty one would mean everything."""
    return None if value else "at least one range; without the key there is no limit"


def widest(cidrs: Sequence[str]) -> str | None:
    """The largest range that accepted :func:`cidr` values make together, if it is most of the internet."""
    networks = [ipaddress.ip_network(one) for one in cidrs if cidr(one) is None]
    together = [
        *ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv4Network)),
        *ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv6Network)),
    ]
    # The widest ranges that are somebody's own are fc00::/7 and 10.0.0.0/8.
    return next((str(one) for one in together if one.prefixlen < 7), None)


def namespaced_name(value: str) -> str | None:
    """An object in a namespace."""
    namespace, slash, name = value.partition("/")
    # NetworkPolicies select the pods of a Gateway by a label with its name.
    if not slash or dns_label(namespace) is not None or subdomain(name) is not None or label_value(name) is not None:
        return "namespace/name, the name of at most 63 characters" if len(name) > 63 else "namespace/name"
    return None


def label_key(value: str) -> str | None:
    """A label's or annotation's key."""
    prefix, slash, name = value.rpartition("/")
    if not name or label_value(name) is not None or (slash and subdomain(prefix) is not None):
        return "a key such as app.kubernetes.io/name"
    return None


def variable(value: str) -> str | None:
    """Judge an environment variable's name."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value, re.ASCII) is None:
        return "a variable's name of letters, digits and '_', not starting with a digit"
    return None


def data_key(value: str) -> str | None:
    """Judge a key of a Secret or a ConfigMap."""
    if re.fullmatch(r"[A-Za-z0-9._-]{1,253}", value, re.ASCII) is None or value in (".", ".."):
        return "a key of letters, digits, '.', '_' and '-'"
    return None


def folder(value: str) -> str | None:
    """A relative path without dots, blanks or shell characters."""
    parts = value.split("/")
    long = len(value) > 512 or any(len(part) > 255 for part in parts)
    if long or not re.fullmatch(r"[A-Za-z0-9._/-]+", value, re.ASCII) or {"", ".", ".."} & set(parts):
        return "a folder's path from the claim's root, such as mlruns"
    return None


def absolute_path(value: str) -> str | None:
    """An absolute path without dots, blanks or shell characters."""
    if not value.startswith("/") or (value != "/" and folder(value[1:]) is not None):
        return "an absolute path, such as /mlflow"
    return None


def duration(value: str) -> str | None:
    """A duration as Pulumi, Kubernetes and nginx take it; a week at most, which none of them overflows with."""
    if re.fullmatch(r"[1-9][0-9]{0,5}[smh]", value, re.ASCII) is None or seconds_of(value) > 7 * 24 * 3600:
        return "a duration of at most 168h in whole seconds, minutes or hours, such as 10m"
    return None


def seconds_of(value: str) -> int:
    """The seconds in an accepted :func:`duration`."""
    return int(value[:-1]) * {"s": 1, "m": 60, "h": 3600}[value[-1]]


def bucket(value: str) -> str | None:
    """A bucket's name by S3's rules."""
    if not 3 <= len(value) <= 63 or _SUBDOMAIN.fullmatch(value) is None or re.fullmatch(r"[0-9.]+", value, re.ASCII):
        return "a bucket's name: 3 to 63 of lower-case letters, digits, '-' and single '.', and no IP address"
    return None


def key_prefix(value: str) -> str | None:
    """A folder in a bucket."""
    return (
        None if folder(value) is None else "a path in the bucket without leading or trailing '/', such as teams/vision"
    )


def endpoint(value: str) -> str | None:
    """A server's address: scheme, host, perhaps a port, and nothing else."""
    match = re.fullmatch(r"https?://(?P<host>[^/:@?#]+)(?::(?P<port>[0-9]{1,5}))?", value, re.ASCII)
    if match is None or host(match["host"]) is not None or not 1 <= int(match["port"] or 1) <= 65535:
        return "an address with its scheme and without a path, such as https://s3.example.com or http://minio.minio.svc:9000"
    return None


def region(value: str) -> str | None:
    """A region as AWS and others name them."""
    return None if re.fullmatch(r"[A-Za-z0-9-]{1,32}", value, re.ASCII) else "a region, such as us-east-1"


def access_key(value: str) -> str | None:
    """One half of a pair of keys: it stands on a line of a file."""
    if not 1 <= len(value) <= 128 or not value.isascii() or not value.isprintable() or " " in value:
        return "1 to 128 printable ASCII characters without blanks"
    return None


def certificates(value: str) -> str | None:
    """Certificates as text, of a size that a ConfigMap holds."""
    if len(value.encode()) > _LARGEST_OBJECT:
        return f"certificates as PEM text of at most {_LARGEST_OBJECT} bytes, which is what a ConfigMap holds"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=value)
    except (ssl.SSLError, ValueError):
        return "certificates as PEM text, from -----BEGIN CERTIFICATE----- on"
    return None


def database(value: str) -> str | None:
    """A database's name that needs no quotes in a URL or a command."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", value, re.ASCII) is None:
        return "a database's name: 1 to 64 of letters, digits, '_' and '-'"
    return None


def database_user(value: str) -> str | None:
    """A user of a database server."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,79}", value, re.ASCII) is None:
        return "a database user's name: 1 to 80 of letters, digits and _ . @ -"
    return None


def database_password(value: str) -> str | None:
    """A password that a Secret and an option file can carry: any characters that can be printed."""
    if not 1 <= len(value) <= 256 or not value.isprintable():
        return "1 to 256 characters that can be printed"
    return None
