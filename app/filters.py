"""The one filter grammar of lists and streams, with the same meaning in SQL and in Python."""

import contextlib
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
from litestar.params import QueryParameter
from msgspec import Meta
from sqlalchemy import ColumnElement, any_, bindparam, cast, func, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Text

from app.errors import InvalidRequest
from app.schemas.problems import FieldError

Types = Annotated[str | None, QueryParameter(name="types", min_length=1, max_length=1000)]
Topics = Annotated[str | None, QueryParameter(name="topics", min_length=1, max_length=1000)]
WhereClause = Annotated[str, Meta(max_length=500, pattern=r"^data(\.[A-Za-z0-9_-]{1,64}){1,8}:")]
Where = Annotated[list[WhereClause] | None, QueryParameter(name="where", max_items=5)]

CLAUSE = re.compile(r"data((?:\.[A-Za-z0-9_-]{1,64}){1,8}):(.*)", re.DOTALL)
INDEX = re.compile(r"-?[0-9]+")
MAX_PATTERNS = 20
"""Items of `types` and of `topics`: each costs a comparison for each event and reader."""
MAX_EXPONENT = 1000
"""Of a number to compare with; Postgres refuses the largest that can be written."""
decode_exactly = msgspec.json.Decoder(float_hook=Decimal)
decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
decode_array = msgspec.json.Decoder(list[msgspec.Raw])
TEXTS = ARRAY(Text)
MISSING = object()


class Document:
    """JSON of which only what is asked for is decoded, and that once.

    Decoded whole, numbers take twenty times their text. What was decoded is kept as long as this:
    let it go soon. Neither Postgres nor msgspec writes a space before a value.
    """

    __slots__ = ("inside", "raw", "value")

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.inside: Any = msgspec.UNSET
        self.value: Any = msgspec.UNSET

    def at(self, path: Sequence[str]) -> Any:
        """Return the scalar at a path; `MISSING` if there is none that Python can decode."""
        found = self
        for step in path:
            if (inside := found.step(step)) is None:
                return MISSING
            found = inside
        return found.scalar

    def step(self, name: str) -> "Document | None":
        """Return what is at a name or an index, if there is something."""
        if self.inside is msgspec.UNSET:
            self.inside = self.opened()
        inside = self.inside
        if isinstance(inside, dict):
            key: Any = name
            found = inside.get(name)
        elif inside and INDEX.fullmatch(name) and -len(inside) <= int(name) < len(inside):
            # As Postgres counts: from the end when negative.
            key = int(name)
            found = inside[key]
        else:
            return None
        if isinstance(found, msgspec.Raw):
            found = inside[key] = Document(found)
        return found

    def opened(self) -> dict[str, Any] | list[Any] | None:
        """Decode an object or an array down to its members, and no further."""
        try:
            match memoryview(self.raw)[:1].tobytes():
                case b"{":
                    return decode_object.decode(self.raw)
                case b"[":
                    return decode_array.decode(self.raw)
        except (msgspec.DecodeError, RecursionError):
            pass  # Nested beyond what can be read: no `where` finds anything in it.
        return None

    @property
    def scalar(self) -> Any:
        """Decode a scalar; `MISSING` for all else."""
        if self.value is msgspec.UNSET:
            self.value = MISSING
            if memoryview(self.raw)[:1].tobytes() not in b"{[":
                with contextlib.suppress(msgspec.DecodeError, ArithmeticError, ValueError):
                    self.value = decode_exactly.decode(self.raw)
        return self.value


class HasFilteredParts(Protocol):
    """What of an event a filter looks at; `data` only if it has a `where`."""

    @property
    def type(self) -> str: ...

    @property
    def topics(self) -> list[str]: ...

    @property
    def data(self) -> Document: ...


class Parts(NamedTuple):
    """An event taken apart, so that many filters share what they decode."""

    type: str
    topics: list[str]
    data: Document


class Clause(msgspec.Struct, frozen=True, dict=True):
    """The scalar at a path of the event's data equals a value."""

    path: tuple[str, ...]
    value: str

    @cached_property
    def scalars(self) -> list[Any]:
        """The JSON scalars that the value stands for: its text, and what else it spells."""
        found: list[Any] = [self.value]
        try:
            scalar = decode_exactly.decode(self.value)
        except (msgspec.DecodeError, ArithmeticError):
            return found
        if isinstance(scalar, Decimal) and abs(scalar.adjusted()) > MAX_EXPONENT:
            return found
        if scalar is None or isinstance(scalar, bool | int | Decimal):
            found.append(scalar)
        return found

    def matches(self, data: Document) -> bool:
        """Say whether an event's data has one of the scalars at the path."""
        found = data.at(self.path)
        return found is not MISSING and any(is_same(found, scalar) for scalar in self.scalars)

    @property
    def texts(self) -> list[str]:
        """The same scalars as JSON texts, for SQL: jsonb compares numbers by value."""
        quoted = msgspec.json.encode(self.value).decode()
        return [quoted, self.value] if len(self.scalars) > 1 else [quoted]


def is_same(a: Any, b: Any) -> bool:
    """Compare JSON scalars; unlike in Python, true is not 1."""
    numbers = (int, Decimal)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, numbers) and isinstance(b, numbers):
        return a == b
    return type(a) is type(b) and bool(a == b)


class Filter(msgspec.Struct, frozen=True, dict=True):
    """Which events a reader wants; an empty part lets everything through."""

    types: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    where: tuple[Clause, ...] = ()

    @classmethod
    def read(cls, types: str | None, topics: str | None, where: Sequence[str] | None) -> "Filter":
        """Read the query parameters; raises `InvalidRequest` that names the wrong one."""
        if types is None and topics is None and not where:
            return EVERYTHING
        clauses = []
        for text in where or ():
            found = CLAUSE.fullmatch(text)
            if not found or len(text) > 500 or "\0" in text:
                raise InvalidRequest(
                    "`where` takes data.path:value.",
                    errors=[FieldError("where", "not data.path:value")],
                )
            clauses.append(Clause(tuple(found[1][1:].split(".")), found[2]))
        return cls(split("types", types), split("topics", topics), tuple(clauses))

    @cached_property
    def compiled(self) -> tuple[frozenset[str], tuple[str, ...], frozenset[str]]:
        """Whole types, beginnings of types, topics: each compared at once."""
        return (
            frozenset(t for t in self.types if not t.endswith("*")),
            tuple(t[:-1] for t in self.types if t.endswith("*")),
            frozenset(self.topics),
        )

    def matches(self, event: HasFilteredParts) -> bool:
        """Say whether an event passes."""
        names, prefixes, topics = self.compiled
        if self.types and event.type not in names and not event.type.startswith(prefixes):
            return False
        if topics and topics.isdisjoint(event.topics):
            return False
        if not self.where:
            return True
        data = event.data
        return all(clause.matches(data) for clause in self.where)

    @property
    def shape(self) -> "FilterShape":
        """What the filter's SQL depends on."""
        return FilterShape(bool(self.types), bool(self.topics), len(self.where))

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of its SQL."""
        found: dict[str, Any] = {
            "types_": [t for t in self.types if not t.endswith("*")],
            "prefixes_": [t[:-1] for t in self.types if t.endswith("*")],
            "topics_": list(self.topics),
        }
        for n, clause in enumerate(self.where):
            found |= {f"path_{n}": list(clause.path), f"values_{n}": clause.texts}
        return found


class FilterShape(msgspec.Struct, frozen=True):
    """Writes a filter as SQL, the same for equal shapes."""

    has_types: bool
    has_topics: bool
    clauses: int

    def conditions(self, columns: Any) -> list[ColumnElement[bool]]:
        """Write the conditions on an event's columns; parameters are `Filter.values`."""
        found: list[ColumnElement[bool]] = []
        if self.has_types:
            prefix = func.unnest(bindparam("prefixes_", type_=TEXTS)).column_valued("prefix")
            found.append(
                or_(
                    columns.type == any_(bindparam("types_", type_=TEXTS)),
                    select(prefix).where(func.starts_with(columns.type, prefix)).exists(),
                )
            )
        if self.has_topics:
            found.append(columns.topics.overlap(bindparam("topics_", type_=TEXTS)))
        for n in range(self.clauses):
            at = columns.data.op("#>", return_type=JSONB())(bindparam(f"path_{n}", type_=TEXTS))
            scalars = cast(bindparam(f"values_{n}", type_=TEXTS), ARRAY(JSONB))
            found.append(at == any_(scalars))
        return found


EVERYTHING = Filter()
"""The one filter without parts, told by its identity."""


def split(name: str, text: str | None) -> tuple[str, ...]:
    """Split a comma-separated parameter.

    Raises `InvalidRequest` for more than 20 items, and for one that no event can have: an empty
    one, a type that is no type's name, or a wildcard elsewhere than in a type's `.*`.
    """
    if text is None:
        return ()
    items = tuple(t.strip(" ") for t in text.split(","))
    if len(items) > MAX_PATTERNS:
        raise InvalidRequest(
            f"`{name}` takes at most {MAX_PATTERNS} names.",
            errors=[FieldError(name, f"{len(items)} names")],
        )
    for item in items:
        if not ITEMS[name].fullmatch(item):
            raise InvalidRequest(HINTS[name], errors=[FieldError(name, f"`{item}` is not one")])
    return items


# What an item may be: a type's name, its beginning with `.*`, or `*`; a topic without a wildcard.
ITEMS = {
    "types": re.compile(r"\*|[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*([.][*])?"),
    "topics": re.compile(r"(?![*]\Z)(?!.*[.:][*]\Z)[^\x00]+", re.DOTALL),
}
HINTS = {
    "types": "`types` takes names separated by commas; `invoice.*` is all below invoice.",
    "topics": "`topics` takes whole topics separated by commas; it knows no wildcard.",
}
