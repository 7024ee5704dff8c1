"""Turn the answers of the catalog queries, fresh or saved, into facts."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from alembic_readonly_check.db.queries import QUERIES
from alembic_readonly_check.db.rows import (
    domain_of,
    extra,
    function_of,
    group,
    publication_of,
    sequence_of,
    table_of,
    view_of,
)
from alembic_readonly_check.facts import Enum, Extension, Json, Other, Schema, Table, View


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a catalog is compared: schemas, names left out (`fnmatch`), a schema's other name.

    `renamed` maps a schema as it is called in this database to the name to report: the scratch
    compile builds the models beside the migrated tables, in a schema of its own.
    """

    schemas: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    def excludes(self, name: str) -> bool:
        """Tell whether an object is left out by name."""
        return any(fnmatchcase(name, pattern) for pattern in self.exclude)


def read(ask: Callable[[str], str], scope: Scope, source: str) -> Schema:
    """Ask the ten queries by name and read the answers; `ask` sends one and returns its text."""
    answers = {name: json.loads(_unrename(ask(name), scope)) for name in QUERIES}
    return build(answers, scope, source)


def _unrename(text: str, scope: Scope) -> str:
    for inner, outer in scope.renamed:
        text = text.replace(inner, outer)
    return text


def build(answers: Json, scope: Scope, source: str) -> Schema:
    """Turn the answers, fresh or from a saved snapshot, into facts."""
    brought = Brought(answers["database"].get("brought") or ())
    for row in answers["columns"]:
        row["type"] = brought.bare(row["type"])
    for row in answers["functions"]:
        row["returns"] = brought.bare(row["returns"] or "")
        row["parameters"] = [
            [name, brought.bare(type_), mode] for name, type_, mode in row["parameters"] or ()
        ]
    columns = group(answers["columns"], "relation")
    constraints = group((row for row in answers["constraints"] if not row["of_domain"]), "owner")
    domain_checks = group((row for row in answers["constraints"] if row["of_domain"]), "owner")
    indexes = group(answers["indexes"], "relation")
    policies = group(answers["policies"], "relation")
    triggers = group(answers["triggers"], "relation")
    tables: dict[str, Table] = {}
    partitions: dict[str, Table] = {}
    views: dict[str, View] = {}
    others = [Other(*row) for row in answers["database"]["others"] or ()]
    for row in answers["relations"]:
        name = row["name"]
        if scope.excludes(name):
            continue
        held = columns.get(name, [])
        if [column["name"] for column in held] == ["version_num"]:
            continue  # Alembic's own table, which projects give other names.
        match row["kind"]:
            case "v" | "m":
                views[name] = view_of(row, held, indexes.get(name, []), triggers.get(name, []))
            case "f":
                others.append(
                    Other("foreign table", name, str([(c["name"], c["type"]) for c in held]))
                )
            case _:
                table = table_of(
                    row,
                    held,
                    constraints.get(name, []),
                    indexes.get(name, []),
                    policies.get(name, []),
                    triggers.get(name, []),
                )
                (partitions if row["parent"] else tables)[name] = table
    sequences = [
        sequence_of(row) for row in answers["sequences"] if not scope.excludes(row["name"])
    ]
    types = [row for row in answers["types"] if not scope.excludes(row["name"])]
    others += [
        Other(
            "composite type" if row["kind"] == "c" else "range type",
            row["name"],
            str(row["fields"] or row["subtype"]),
        )
        for row in types
        if row["kind"] in "cr"
    ]
    functions = [
        function_of(row) for row in answers["functions"] if not scope.excludes(row["name"])
    ]
    others += [
        Other("attribute", f"{kind} {row['name']}", told)
        for kind, keys in _ATTRIBUTES.items()
        for row in answers[kind]
        if not scope.excludes(row["name"]) and (told := extra(row, *keys))
    ]
    others += [
        Other("comment", row["name"], row["comment"])
        for kind in (
            "constraints",
            "indexes",
            "policies",
            "triggers",
            "functions",
            "types",
            "sequences",
        )
        for row in answers[kind]
        if row.get("comment") and not scope.excludes(row["name"])
    ]
    return Schema(
        source,
        tables,
        partitions,
        {r["name"]: Enum(r["name"], tuple(r["labels"] or ())) for r in types if r["kind"] == "e"},
        {
            r["name"]: domain_of(r, domain_checks.get(r["name"], []))
            for r in types
            if r["kind"] == "d"
        },
        {s.name: s for s in sequences if s.owned_by is None},
        views,
        {function.signature: function for function in functions},
        {
            row["name"]: Extension(row["name"], row["schema"])
            for row in answers["database"]["extensions"] or ()
        },
        {row["name"]: publication_of(row) for row in answers["database"]["publications"] or ()},
        tuple(others),
        tuple((name, count) for name, count in answers["database"]["schemas"] or ()),
        {s.name: s for s in sequences if s.owned_by is not None},
    )


class Brought:
    """The types that extensions brought, which are spelled without the schema they lie in."""

    def __init__(self, types: Iterable[str]) -> None:
        names = [re.escape(name) for name in types if "." in name and not name.endswith("[]")]
        self.pattern = re.compile(rf"\b(?:{'|'.join(names)})(?![\w.])") if names else None

    def bare(self, type_: str) -> str:
        """Take the schemas out of a type or of a function's result."""
        if self.pattern is None:
            return type_
        return self.pattern.sub(lambda match: match[0].partition(".")[2], type_)


_ATTRIBUTES = {
    "constraints": ("options", "period", "clustered"),
    "indexes": ("clustered", "replica_identity", "tablespace", "statistics"),
    "sequences": ("persistence", "owner", "acl"),
    "types": ("owner", "acl"),
}
"""What of an object is compared only between catalogs, and has no place among its facts."""
