"""Validation engine, which reports all problems before anything is declared.

Every problem reads ``<key>: <what is wrong> (got <value>). <What to do>.`` The value of a secret is never shown, and
the last sentence is left out where the first one already says what to do.

The shape (unknown keys, wrong types) follows from the TypedDict of a component's args. The accepted values follow from
a function beside that TypedDict, registered with :func:`rules`. Keys are reported in the user's spelling: with
underscores in Python (``backend_store.pvc.size``), in camelCase in stack files and other languages
(``backendStore.pvc.size``).
"""

import difflib
import re
import types
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pulumi
from pulumi.output import Unknown

from mlflow_stack.validate.formats import Predicate, dns_label

T = TypeVar("T")

SECRETS: set[str] = set()
"""Registered fields whose values are never printed, at any depth."""


class InvalidArgs(pulumi.RunError):
    """Rejected args of a component. The text lists every problem; Pulumi prints it without a traceback."""


@dataclass(frozen=True)
class Problem:
    """Problem of one field."""

    key: str
    """Path of the field."""
    message: str
    """Text of the problem, from :func:`message`."""

    def __str__(self) -> str:
        return f"{_printable(self.key)}: {self.message}"


class Problems(list[Problem]):
    """Problems of one value, with the spelling of keys."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        super().__init__()
        self.spell = spell
        self.deprecated: list[str] = []
        """Warnings on deprecated fields that are set."""

    @property
    def lines(self) -> list[str]:
        """Messages, sorted by key."""
        return [str(problem) for problem in sorted(self, key=lambda problem: problem.key)]


def camel(name: str) -> str:
    """Return the schema's spelling of a Python field name: ``maxArtifactSize`` for ``max_artifact_size``."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def spelled(sentence: str, spell: Callable[[str], str]) -> str:
    """Return a sentence that names fields in Python's spelling, in the user's."""
    return re.sub(r"[a-z]+(_[a-z]+)+", lambda name: spell(name[0]), sentence)


def join(key: str, name: str) -> str:
    """Return the path of a field below a key."""
    return f"{key}.{name}" if key else name


def hints(kind: type) -> dict[str, Any]:
    """Return the fields of an args TypedDict with their types."""
    # pulumi.Input has Output[T] as a forward reference, which is resolved in the TypedDict's module.
    return typing.get_type_hints(kind, localns={"Output": pulumi.Output, "T": Any}, include_extras=True)


def plain_type(hint: Any) -> Any:
    """Return a field's type without NotRequired and Input."""
    if typing.get_origin(hint) in (typing.NotRequired, typing.Required, typing.Union, types.UnionType):
        return plain_type(typing.get_args(hint)[0])
    return hint


def nested(kind: type) -> list[type]:
    """Return an args TypedDict and all others in its fields, at any depth."""
    found = [kind]
    for holder in found:
        for hint in hints(holder).values():
            field = plain_type(hint)
            found += [part for part in (field, *typing.get_args(field)) if _is_typed_dict(part) and part not in found]
    return found


def is_output(value: object) -> bool:
    """Return whether a value is known only when the engine runs, so that it cannot be checked yet."""
    return isinstance(value, (pulumi.Output, Awaitable, Unknown))


def takes_output(hint: Any) -> bool:
    """Return whether a field's type allows an Output."""
    if typing.get_origin(hint) in (typing.NotRequired, typing.Required):
        return takes_output(typing.get_args(hint)[0])
    return any(typing.get_origin(option) is pulumi.Output for option in typing.get_args(hint))


class Fields(Mapping[str, Any]):
    """Well-shaped fields of one args value, for the rules that check them."""

    def __init__(
        self,
        key: str,
        values: dict[str, Any],
        stated: frozenset[str],
        secret: bool,
        problems: Problems,
        defaults: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> None:
        self.key = key
        self.stated = stated
        """Fields that are set, even those with problems of their own."""
        self._values = values
        self._secret = secret
        self._problems = problems
        self._defaults = defaults

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> typing.Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def remove(self, name: str) -> Any:
        """Remove a field and return its value; None if it is unset."""
        return self._values.pop(name, None)

    def set(self, name: str, value: Any) -> None:
        """Set a field that replaces a deprecated one."""
        self._values[name] = value

    def known(self, name: str, default: Any) -> Any:
        """Return a field's value, for rules across fields. Unset fields and Outputs return the default."""
        value = self._values.get(name, default)
        return default if is_output(value) else value

    def resolved(self, name: str) -> Any:
        """Return a field's value or its registered default, for rules across fields."""
        return self._values[name] if name in self._values else self._defaults[name]

    def check(self, name: str, predicate: Predicate, do: str = "") -> None:
        """Check one field. An Output is checked in an ``apply`` through which every use of it passes."""
        if name in self._values:
            self._values[name] = self._judged(self._values[name], predicate, name, "", do)

    def check_each(self, name: str, predicate: Predicate) -> None:
        """Check each item of a list, or each value of a map."""
        values = self._values.get(name)
        if isinstance(values, Mapping):
            pairs = cast("Mapping[str, Any]", values).items()
            self._values[name] = {item: self._judged(value, predicate, name, f".{item}") for item, value in pairs}
        elif values is not None:
            self._values[name] = [
                self._judged(value, predicate, name, f"[{position}]") for position, value in enumerate(values)
            ]

    def _judged(self, value: Any, predicate: Predicate, name: str, suffix: str, do: str = "") -> Any:
        key, secret = self._where(name) + suffix, self._secret or name in SECRETS
        if is_output(value):
            return _judged_later(value, predicate, key, secret, do)
        wrong = predicate(value)
        if wrong is not None:
            self._report(key, wrong, shown(value, secret), do)
        return value

    def refuse(self, name: str, wrong: str, do: str = "") -> None:
        """Report a field with its value."""
        value = shown(self._values[name], self._secret or name in SECRETS)
        self._report(self._where(name), wrong, value, do)

    def require(self, name: str, because: str, do: str = "") -> None:
        """Report a field that must be set."""
        self._report(self._where(name), f"required, because {because}", do=do)

    def forbid(self, name: str, when: str, do: str = "") -> None:
        """Report a field that must not be set."""
        self._report(self._where(name), f"must not be set when {when}", do=do)

    def refuse_value(self, name: str, key: str, wrong: str) -> None:
        """Report one value of a map."""
        value = shown(self._values[name][key], self._secret or name in SECRETS)
        self._report(join(self._where(name), key), wrong, value)

    def under(self, name: str) -> "Fields":
        """Return the fields of a nested map, for rules that check it together with the fields around it."""
        values: dict[str, Any] = self._values.get(name, {})
        secret = self._secret or name in SECRETS
        return Fields(self._where(name), values, frozenset(values), secret, self._problems)

    def each(self, name: str) -> "list[Fields]":
        """Return the fields of every map in a list, for rules that check them together with the fields around them."""
        items: list[dict[str, Any] | None] = self._values.get(name, [])
        return [
            Fields(f"{self._where(name)}[{position}]", item or {}, frozenset(item or ()), self._secret, self._problems)
            for position, item in enumerate(items)
        ]

    def refuse_item(self, name: str, value: str, wrong: str, do: str = "") -> None:
        """Report one item of a list by its value."""
        self._report(self._where(name), wrong, shown(value, False), do)

    def refuse_key(self, name: str, item: str, wrong: str, do: str = "") -> None:
        """Report one key of a map. Its value is not printed."""
        self._report(self._where(name), f"each key {wrong}", shown(item, False), do)

    def check_keys(self, name: str, predicate: Predicate) -> None:
        """Check each key of a map."""
        for key in self._values.get(name, {}):
            wrong = predicate(key)
            if wrong is not None:
                self.refuse_key(name, key, wrong)

    def refuse_together(self, name: str, other: str, do: str = "") -> None:
        """Report the first of two fields that exclude each other, if both are set."""
        if name in self._values and other in self._values:
            self.forbid(name, f"{self.spell(other)} is set", do)

    def refuse_several(self, names: Iterable[str]) -> None:
        """Report the first of these fields, if several are set."""
        given = [name for name in names if name in self._values]
        for other in given[1:]:
            self.refuse_together(given[0], other)

    def spell(self, name: str) -> str:
        """Return a field's name in the user's spelling."""
        return self._problems.spell(name)

    def _where(self, name: str) -> str:
        return join(self.key, self.spell(name))

    def _report(self, key: str, wrong: str, got: str = "", do: str = "") -> None:
        self._problems.append(Problem(key, message(wrong, got, do)))


Rules = Callable[[Fields], None]
_rules: dict[type, Rules] = {}
_defaults: dict[type, Mapping[str, Any]] = {}
_not_offered: dict[type, Mapping[str, str]] = {}
_deprecated: dict[type, Mapping[str, str]] = {}


def rules(
    kind: type,
    *,
    defaults: Mapping[str, Any] | None = None,
    secrets: Iterable[str] = (),
    not_offered: Mapping[str, str] | None = None,
    deprecated: Mapping[str, str] | None = None,
) -> Callable[[Rules], Rules]:
    """Register the rules of an args TypedDict, which apply wherever it is nested.

    :param defaults: Values of optional fields that are unset, by field.
    :param secrets: Fields whose values are never printed, in this TypedDict and in any other.
    :param not_offered: Unsupported keys that users may look for, in Python's spelling, with their alternatives.
    :param deprecated: Fields that the rules replace by others, with a sentence that names these in Python's spelling.
        Each use is a warning.
    """

    def register(function: Rules) -> Rules:
        _rules[kind] = function
        _defaults[kind] = defaults or {}
        SECRETS.update(secrets)
        _not_offered[kind] = not_offered or {}
        _deprecated[kind] = deprecated or {}
        return function

    return register


def defaults_of(kind: type) -> Mapping[str, Any]:
    """Return the defaults of an args TypedDict, by field."""
    return _defaults.get(kind, {})


def deprecated() -> Mapping[type, Mapping[str, str]]:
    """Return the deprecated fields of every args TypedDict, each with a sentence that names its replacement."""
    return _deprecated


def rules_of(kind: type) -> Rules:
    """Return the rules of an args TypedDict."""
    return _rules.get(kind, lambda _fields: None)


def extend(kind: type, base: type) -> None:
    """Register the rules of an args TypedDict for another one that has additional fields."""
    _rules[kind], _defaults[kind] = _rules[base], _defaults[base]
    _not_offered[kind], _deprecated[kind] = _not_offered[base], _deprecated[base]


@dataclass(frozen=True)
class Enum:
    """Name of a Literal type in other languages."""

    title: str
    description: str


ENUMS: dict[Any, Enum] = {}
"""Registered Literal types."""


def enum(literal: Any, title: str, description: str) -> None:
    """Register the name of a Literal type, which other languages see as an enum."""
    ENUMS[literal] = Enum(title, description)


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
    """Return the args with integers as ints (plugin hosts turn them into floats), or raise :class:`InvalidArgs` with
    every problem. Deprecated fields are a warning each.

    ``longest`` is the maximum length of the component's name, so that the names that Kubernetes and the engine derive
    from it fit into 63 characters. ``spell`` returns the user's spelling of a field's name. ``found`` are problems that
    are already known.
    """
    problems = Problems(spell)
    problems.extend(found)
    wrong = dns_label(name, longest)
    if wrong is not None:
        problems.append(Problem("name", message(wrong, shown(name, False))))
    clean = _conform(kind, args, "", False, problems)
    if problems:
        count = "1 invalid input" if len(problems) == 1 else f"{len(problems)} invalid inputs"
        lines = "\n".join(f"  {line}" for line in problems.lines)
        raise InvalidArgs(f"{component} {name!r}: {count}, nothing was declared:\n{lines}")
    for warning in problems.deprecated:
        pulumi.log.warn(f"{component} {name!r}: {warning}")
    return cast(T, clean)


class Resolved(Mapping[str, Any]):
    """Accepted fields of an args TypedDict, with defaults filled in. Immutable, and not checked again."""

    def __init__(self, kind: type, values: Mapping[str, Any], spell: Callable[[str], str] = str) -> None:
        """Create accepted fields; ``spell`` returns the user's spelling of a field's name."""
        self.kind = kind
        self.spell = spell
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> typing.Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._values == dict(cast("Mapping[str, Any]", other))

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({', '.join(self._values)})"

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def resolved(
    component: str,
    name: str,
    kind: type[T],
    args: Mapping[str, Any],
    *,
    longest: int,
    spell: Callable[[str], str] = str,
    found: Sequence[Problem] = (),
) -> T:
    """Return the args with defaults filled in, or raise :class:`InvalidArgs` with every problem.

    The parameters are those of :func:`accepted`. Args that are already resolved are returned unchanged.
    """
    if isinstance(args, Resolved) and args.kind is kind:
        return cast(T, args)
    clean = accepted(component, name, kind, args, longest=longest, spell=spell, found=found)
    return cast(T, filled(kind, clean, spell))


def part(args: Mapping[str, Any], kind: type[T]) -> T:
    """Return the fields of resolved args that another TypedDict has as well, under the same rules."""
    return cast(T, Resolved(kind, {name: value for name, value in args.items() if name in hints(kind)}))


def overridden(args: T, own: T) -> T:
    """Return args with the fields of other args of the same TypedDict set over them."""
    return cast(T, {**cast("Mapping[str, Any]", args), **cast("Mapping[str, Any]", own)})


def plain(value: Any) -> Any:
    """Return a value with plain maps and lists instead of resolved ones, as Kubernetes objects need it."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [plain(inner) for inner in cast("list[Any]", value)]
    return value


def filled(hint: Any, value: Any, spell: Callable[[str], str] = str) -> Any:
    """Return an accepted value with defaults filled in, at any depth.

    :param spell: Function that returns the user's spelling of a field's name.
    """
    hint = plain_type(hint)
    if isinstance(value, list):
        item = (*typing.get_args(hint), Any)[0]
        return [filled(item, inner, spell) for inner in cast("list[Any]", value)]
    if isinstance(value, Resolved) or not isinstance(value, Mapping) or not _is_typed_dict(hint):
        return cast(Any, value)
    given = {**defaults_of(hint), **cast("Mapping[str, Any]", value)}
    return Resolved(
        hint, {name: filled(field, given[name], spell) for name, field in hints(hint).items() if name in given}, spell
    )


def _judged_later(
    value: pulumi.Input[Any], predicate: Predicate, key: str, secret: bool, do: str
) -> pulumi.Output[Any]:
    """Return an Output that is checked in an ``apply`` through which every use of it passes."""

    def judge(known: Any, hidden: bool) -> Any:
        wrong = predicate(known)
        if wrong is not None:
            raise InvalidArgs(str(Problem(key, message(wrong, shown(known, hidden), do))))
        return known

    return _later(value, secret, judge)


def _conformed_later(
    hint: Any, value: pulumi.Input[Any], key: str, secret: bool, spell: Callable[[str], str]
) -> pulumi.Output[Any]:
    """Return an Output of the field's type. It raises :class:`InvalidArgs` if its value has another type."""

    def conform(known: Any, hidden: bool) -> Any:
        problems = Problems(spell)
        clean = _conform(hint, known, key, hidden, problems)
        if problems:
            raise InvalidArgs("\n".join(problems.lines))
        return clean

    return _later(value, secret, conform)


def _later(value: pulumi.Input[Any], secret: bool, check: Callable[[Any, bool], Any]) -> pulumi.Output[Any]:
    """Return the result of a check, which gets the value and whether it is a secret, of its field or by the user."""
    output = pulumi.Output.secret(value) if secret else pulumi.Output.from_input(value)
    return pulumi.Output.all(output, output.is_secret()).apply(lambda known: check(*known))


_LONGEST_SHOWN = 300


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _without_credentials(text: str) -> str:
    """Return a text without the credentials of a URL, which are before ``@`` or after ``?``."""
    text = re.sub(r"^([^:/@]*://)?(?(1)|[^@/]*:(?!/)).*@", r"\1***@", text, flags=re.S)
    return re.sub(r"^([^:/?]*://[^?]*)\?.*", r"\1?***", text, flags=re.S)


def message(wrong: str, got: str = "", do: str = "") -> str:
    """Return the text of a problem: ``<what is wrong> (got <value>). <What to do>.``

    :param got: Value, from :func:`shown`. Empty if the value does not matter, such as that of a forbidden field.
    :param do: Sentence with its full stop. Empty if the first sentence already says what to do.
    """
    text = f"{wrong} ({got})" if got else wrong
    return f"{text}. {do}" if do else text


def shown(value: object, secret: bool) -> str:
    """Return the value in a message: ``got …``; without the value if it is a secret."""
    if secret:
        return "value not shown"
    if isinstance(value, str):
        text = f'"{_printable(_without_credentials(value))}"'
        if len(text) > _LONGEST_SHOWN:
            text = f'{text[:_LONGEST_SHOWN]}…" ({len(value)} characters)'
    elif isinstance(value, bool):
        text = str(value).lower()
    elif value is None:
        text = "null"
    elif isinstance(value, Mapping):
        text = "a map" if value else "an empty map"
    elif isinstance(value, Sequence):
        text = "a list" if value else "an empty list"
    else:
        text = str(value)
    return f"got {text}"


_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can contain and no other encoding."""
_STRINGIFIED = "Calling __str__ on an Output"
"""Text that Pulumi's SDK inserts for an Output in an f-string."""


def _is_typed_dict(hint: object) -> bool:
    return isinstance(hint, type) and typing.is_typeddict(hint)


def _conform(hint: Any, value: Any, key: str, secret: bool, problems: Problems) -> Any:
    if isinstance(value, Resolved) and value.kind is plain_type(hint):
        return value
    if is_output(value):
        if takes_output(hint):
            return _conformed_later(plain_type(hint), value, key, secret, problems.spell)
        wrong = "must be known before the deployment, because it decides what is declared"
        problems.append(Problem(key, message(wrong, "got an Output")))
        return None
    hint = plain_type(hint)
    origin = typing.get_origin(hint)
    if _is_typed_dict(hint):
        if not isinstance(value, Mapping):
            problems.append(Problem(key, message("must be a map", shown(value, secret))))
            return None
        return _conform_fields(hint, cast("Mapping[str, Any]", value), key, secret, problems)
    if origin in (list, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            problems.append(Problem(key, message("must be a list", shown(value, secret))))
            return None
        item = typing.get_args(hint)[0]
        items = cast("Sequence[Any]", value)
        return [_conform(item, inner, f"{key}[{position}]", secret, problems) for position, inner in enumerate(items)]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            problems.append(Problem(key, message("must be a map", shown(value, secret))))
            return None
        item = typing.get_args(hint)[1]
        pairs = cast("Mapping[str, Any]", value)
        found: dict[str, Any] = {}
        for name, inner in pairs.items():
            if not isinstance(cast(Any, name), str):
                problems.append(Problem(key, message("each key must be text", shown(name, False))))
                continue
            before = len(problems)
            found[name] = _conform(item, inner, join(key, name), secret, problems)
            if len(problems) > before and isinstance(inner, Mapping) and plain_type(item) in (str, int):
                problem = problems.pop()
                path = f"""'{problems.spell(key)}["{_printable(_dotted(name, inner))}"]'"""
                do = f"Quote a name with dots: --path {path}"
                problems.append(Problem(problem.key, message(problem.message, do=do)))
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
            wrong = "must not be text made from an Output"
            problems.append(Problem(key, message(wrong, do="Pass the Output itself, or use Output.concat.")))
            return None
        right = isinstance(value, str) and _SURROGATE.search(value) is None
        return _plain(right, value, key, secret, "text", problems)
    return value


def _dotted(name: str, value: Any) -> str:
    """Return the dotted name that Pulumi split into nested maps, as it does with unquoted dots."""
    while isinstance(value, Mapping) and len(cast("Mapping[str, Any]", value)) == 1:
        ((part, value),) = cast("Mapping[str, Any]", value).items()
        name += f".{part}"
    return name


def _plain(right: bool, value: Any, key: str, secret: bool, form: str, problems: Problems) -> Any:
    if not right:
        problems.append(Problem(key, message(f"must be {form}", shown(value, secret))))
    return value


def _folded(name: str) -> str:
    """Return a name without the differences between spellings: ``hostPID`` and ``host_pid`` are the same."""
    return name.replace("_", "").lower()


def _conform_fields(kind: type, value: Mapping[str, Any], key: str, secret: bool, problems: Problems) -> dict[str, Any]:
    types_by_field = hints(kind)
    names = {problems.spell(name): name for name in types_by_field}
    fields: dict[str, Any] = {}
    stated: set[str] = set()
    for written, field in value.items():
        name = names.get(written)
        where = join(key, str(written))
        if name is None:
            # Compared in camelCase, because another language's spelling is close to no key.
            known = {camel(field_name): problems.spell(field_name) for field_name in types_by_field}
            near = difflib.get_close_matches(camel(str(written)), known, n=1)
            listed = f"Known keys: {', '.join(sorted(known.values()))}." if known else "Remove it."
            hint = f"Did you mean {known[near[0]]}?" if near else listed
            alternatives = {_folded(one): sentence for one, sentence in _not_offered.get(kind, {}).items()}
            instead = spelled(alternatives.get(_folded(str(written)), ""), problems.spell)
            problems.append(Problem(where, instead or message("unknown key", do=hint)))
            continue
        stated.add(name)
        if field is None:
            continue
        if name in _deprecated.get(kind, {}):
            instead = spelled(_deprecated[kind][name], problems.spell)
            problems.deprecated.append(f"{_printable(where)}: deprecated. {instead}")
        before = len(problems)
        clean = _conform(types_by_field[name], field, where, secret or name in SECRETS, problems)
        if len(problems) == before:
            fields[name] = clean
    missing = cast("frozenset[str]", vars(kind)["__required_keys__"]) - stated
    problems.extend(Problem(join(key, problems.spell(name)), "required") for name in sorted(missing))
    given = frozenset(name for name in stated if value[problems.spell(name)] is not None)
    if kind in _rules:
        _rules[kind](Fields(key, fields, given, secret, problems, defaults_of(kind)))
    return fields
