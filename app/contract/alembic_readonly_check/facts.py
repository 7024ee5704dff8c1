"""The one vocabulary every source is read into: a `Schema` of tables, types, functions, grants.

Names are `schema.object`, unquoted. Types are spelled as `format_type` spells them under an empty
search_path. Expressions keep the spelling of their source; only a comparison normalises them.
A fact that a source cannot know is None (a model knows no policies), and None is never compared.
"""

from dataclasses import dataclass, field
from typing import Any

from alembic_readonly_check.findings import Location

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A fact, and the line where its source states it, if that has lines."""

    location: Location | None = None


@dataclass(frozen=True, slots=True)
class Column(Placed):
    """A column; `implicit` marks a mapped integer key that may be either serial or identity.

    `fetched` marks a value that the model leaves to the server; `stored` is None where a source
    does not say whether a generated value is kept.
    """

    name: str
    type: str
    nullable: bool
    default: str | None = None
    generated: str | None = None
    identity: str | None = None
    collation: str | None = None
    comment: str | None = None
    raw_type: str = ""
    implicit: bool = False
    extra: str = ""
    fetched: bool = False
    stored: bool | None = None


def _include(columns: tuple[str, ...]) -> str:
    return f" INCLUDE ({', '.join(columns)})" if columns else ""


@dataclass(frozen=True, slots=True)
class PrimaryKey(Placed):
    """A primary key; `name` is None where the source does not say, `columns` is in key order."""

    name: str | None
    columns: tuple[str, ...]
    deferral: str = ""
    include: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"PRIMARY KEY ({', '.join(self.columns)}){_include(self.include)}{self.deferral}"


@dataclass(frozen=True, slots=True)
class ForeignKey(Placed):
    """A foreign key; `deferral` is empty, ` DEFERRABLE` or ` DEFERRABLE INITIALLY DEFERRED`."""

    name: str | None
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"
    match: str = "SIMPLE"
    deferral: str = ""
    valid: bool = True

    def __str__(self) -> str:
        match = f" MATCH {self.match}" if self.match != "SIMPLE" else ""
        update = f" ON UPDATE {self.on_update}" if self.on_update != "NO ACTION" else ""
        delete = f" ON DELETE {self.on_delete}" if self.on_delete != "NO ACTION" else ""
        return (
            f"FOREIGN KEY ({', '.join(self.columns)}) REFERENCES {self.target}"
            f"({', '.join(self.target_columns)}){match}{update}{delete}{self.deferral}"
            f"{'' if self.valid else ' NOT VALID'}"
        )


@dataclass(frozen=True, slots=True)
class Unique(Placed):
    """A unique constraint; `columns` is in key order."""

    name: str | None
    columns: tuple[str, ...]
    include: tuple[str, ...] = ()
    nulls_distinct: bool = True
    deferral: str = ""

    def __str__(self) -> str:
        nulls = "" if self.nulls_distinct else " NULLS NOT DISTINCT"
        return f"UNIQUE{nulls} ({', '.join(self.columns)}){_include(self.include)}{self.deferral}"


@dataclass(frozen=True, slots=True)
class Check(Placed):
    """A check constraint of a table or, in `Domain.checks`, of a domain."""

    name: str | None
    expression: str
    valid: bool = True
    inherited: bool = True

    def __str__(self) -> str:
        inherit = "" if self.inherited else " NO INHERIT"
        return f"CHECK ({self.expression}){inherit}{'' if self.valid else ' NOT VALID'}"


@dataclass(frozen=True, slots=True)
class Exclusion(Placed):
    """An exclusion constraint, kept as the definition that the source gives."""

    name: str | None
    definition: str

    def __str__(self) -> str:
        return self.definition


@dataclass(frozen=True, slots=True)
class IndexKey:
    """One key of an index; collation and operator class are None when they are the default.

    Only a catalog knows the `usual` operator class, which is the default's name.
    """

    expression: str
    collation: str | None = None
    opclass: str | None = None
    descending: bool = False
    nulls_first: bool = False
    usual: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        words = [self.expression, f'COLLATE "{self.collation}"' if self.collation else ""]
        words.append(self.opclass or "")
        if self.descending:
            words.append("DESC")
        if self.nulls_first != self.descending:
            words.append("NULLS FIRST" if self.nulls_first else "NULLS LAST")
        return " ".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class Index(Placed):
    """An index that backs no constraint."""

    name: str | None
    keys: tuple[IndexKey, ...]
    unique: bool = False
    method: str = "btree"
    include: tuple[str, ...] = ()
    predicate: str | None = None
    nulls_distinct: bool = True
    valid: bool = True
    options: tuple[str, ...] = ()
    optional: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        keys = ", ".join(str(key) for key in self.keys)
        nulls = "" if self.nulls_distinct else " NULLS NOT DISTINCT"
        options = f" WITH ({', '.join(self.options)})" if self.options else ""
        where = f" WHERE ({self.predicate})" if self.predicate else ""
        return (
            f"{'UNIQUE ' if self.unique else ''}{self.method} ({keys}){_include(self.include)}"
            f"{nulls}{options}{where}{'' if self.valid else ' INVALID'}"
        )


@dataclass(frozen=True, slots=True)
class Policy(Placed):
    """A row security policy; `command` is ALL, SELECT, INSERT, UPDATE or DELETE."""

    name: str
    command: str = "ALL"
    roles: tuple[str, ...] = ("PUBLIC",)
    using: str | None = None
    check: str | None = None
    permissive: bool = True

    def __str__(self) -> str:
        return (
            f"{'' if self.permissive else 'AS RESTRICTIVE '}FOR {self.command}"
            f" TO {', '.join(self.roles)}"
            f"{f' USING ({self.using})' if self.using else ''}"
            f"{f' WITH CHECK ({self.check})' if self.check else ''}"
        )


@dataclass(frozen=True, slots=True)
class Grant(Placed):
    """What one role may do: a privilege on the whole object, or only on some of its columns."""

    grantee: str
    privileges: frozenset[tuple[str, str | None]]

    def __str__(self) -> str:
        by_privilege: dict[str, list[str]] = {}
        for privilege, column in sorted(self.privileges, key=lambda p: (p[0], p[1] or "")):
            by_privilege.setdefault(privilege, []).extend([column] if column else [])
        return ", ".join(
            f"{name} ({', '.join(columns)})" if columns else name
            for name, columns in by_privilege.items()
        )


@dataclass(frozen=True, slots=True)
class Trigger(Placed):
    """A trigger; `definition` is what follows its name, `enabled` O, D, R or A (pg_trigger)."""

    name: str
    definition: str
    enabled: str = "O"

    def __str__(self) -> str:
        state = {"O": "", "D": " (disabled)", "R": " (replica)", "A": " (always)"}[self.enabled]
        return f"{self.definition}{state}"


@dataclass(frozen=True, slots=True)
class Table(Placed):
    """A table or a partition; `bounds` and `partition_of` are set on partitions alone."""

    name: str
    columns: tuple[Column, ...]
    primary_key: PrimaryKey | None = None
    foreign_keys: tuple[ForeignKey, ...] = ()
    uniques: tuple[Unique, ...] = ()
    checks: tuple[Check, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    indexes: tuple[Index, ...] = ()
    partition_key: str | None = None
    partition_of: str | None = None
    bounds: str | None = None
    rls: str | None = None
    policies: tuple[Policy, ...] | None = None
    grants: tuple[Grant, ...] | None = None
    triggers: tuple[Trigger, ...] | None = None
    comment: str | None = None
    extra: str = ""

    def column(self, name: str) -> Column | None:
        """Find a column by name."""
        return next((one for one in self.columns if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Enum(Placed):
    """An enum type; `values` is in sort order."""

    name: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(f"'{value}'" for value in self.values)


@dataclass(frozen=True, slots=True)
class Domain(Placed):
    """A domain over a base type."""

    name: str
    type: str
    nullable: bool = True
    default: str | None = None
    collation: str | None = None
    checks: tuple[Check, ...] = ()

    def __str__(self) -> str:
        default = f" DEFAULT {self.default}" if self.default else ""
        collation = f' COLLATE "{self.collation}"' if self.collation else ""
        checks = "".join(f" {check}" for check in self.checks)
        return f"{self.type}{collation}{default}{'' if self.nullable else ' NOT NULL'}{checks}"


@dataclass(frozen=True, slots=True)
class Sequence(Placed):
    """A sequence; bounds are None where the source leaves them to the type."""

    name: str
    type: str = "bigint"
    start: int = 1
    increment: int = 1
    minimum: int | None = None
    maximum: int | None = None
    cache: int = 1
    cycle: bool = False
    owned_by: str | None = None

    def __str__(self) -> str:
        low = "" if self.minimum is None else f" MINVALUE {self.minimum}"
        high = "" if self.maximum is None else f" MAXVALUE {self.maximum}"
        return (
            f"AS {self.type} INCREMENT BY {self.increment}{low}{high} START WITH {self.start}"
            f" CACHE {self.cache}{' CYCLE' if self.cycle else ''}"
        )


@dataclass(frozen=True, slots=True)
class View(Placed):
    """A view; `columns` pairs names with types, `definition` is known only to the catalog."""

    name: str
    columns: tuple[tuple[str, str], ...]
    materialized: bool = False
    options: tuple[str, ...] = ()
    definition: str | None = None
    grants: tuple[Grant, ...] | None = None
    extra: str = ""

    def __str__(self) -> str:
        columns = ", ".join(f"{name} {type_}" for name, type_ in self.columns)
        options = f" WITH ({', '.join(self.options)})" if self.options else ""
        return f"{'MATERIALIZED ' if self.materialized else ''}({columns}){options}"


@dataclass(frozen=True, slots=True)
class Function(Placed):
    """A function or procedure; `arguments` pairs names with types, in call order.

    `executors` are the roles beside the owner that may execute it; only a catalog knows its `body`.
    """

    name: str
    arguments: tuple[tuple[str, str], ...]
    returns: str
    definer: bool = False
    executors: frozenset[str] = frozenset()
    body: str | None = None
    search_path: str | None = None

    @property
    def signature(self) -> str:
        """Identify it as Postgres does: by name and input types."""
        return f"{self.name}({', '.join(type_ for _, type_ in self.arguments)})"

    def __str__(self) -> str:
        arguments = ", ".join(f"{name} {type_}".strip() for name, type_ in self.arguments)
        roles = ", ".join(sorted(self.executors)) or "nobody but its owner"
        told = f"{self.returns}, {'definer' if self.definer else 'invoker'}"
        return f"({arguments}) returns {told}, executable by {roles}"


@dataclass(frozen=True, slots=True)
class Extension(Placed):
    """An installed extension; `schema` is None where the source does not say."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        return f"SCHEMA {self.schema}" if self.schema else "installed"


@dataclass(frozen=True, slots=True)
class Publication(Placed):
    """A publication and those of the compared tables that it carries."""

    name: str
    tables: tuple[str, ...]
    extra: str = ""

    def __str__(self) -> str:
        return ", ".join(self.tables) or "no table"


@dataclass(frozen=True, slots=True)
class Other:
    """An object of a kind that is compared only between two catalogs: a rule, a cast, …"""

    kind: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything one source says; a kind it cannot know is None, `elsewhere` is not compared."""

    source: str
    tables: dict[str, Table] = field(default_factory=dict)
    partitions: dict[str, Table] = field(default_factory=dict)
    enums: dict[str, Enum] | None = None
    domains: dict[str, Domain] | None = None
    sequences: dict[str, Sequence] | None = None
    views: dict[str, View] | None = None
    functions: dict[str, Function] | None = None
    extensions: dict[str, Extension] | None = None
    publications: dict[str, Publication] | None = None
    others: tuple[Other, ...] = ()
    elsewhere: tuple[tuple[str, int], ...] = ()
    owned_sequences: dict[str, Sequence] = field(default_factory=dict)
