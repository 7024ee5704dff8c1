"""Turn one row of a catalog query into one fact."""

import re
from collections.abc import Iterable
from typing import Any

from alembic_readonly_check.facts import (
    Check,
    Column,
    Domain,
    Exclusion,
    ForeignKey,
    Function,
    Grant,
    Index,
    IndexKey,
    Json,
    Policy,
    PrimaryKey,
    Publication,
    Sequence,
    Table,
    Trigger,
    Unique,
    View,
)
from alembic_readonly_check.sql.parsing import identifier
from alembic_readonly_check.sql.tables import ACTIONS, MATCHES, parse_index
from alembic_readonly_check.sql.types import SEQUENCE_LIMITS, held_type


def group(rows: Iterable[Json], key: str) -> dict[str, list[Json]]:
    groups: dict[str, list[Json]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def table_of(
    row: Json,
    columns: list[Json],
    constraints: list[Json],
    indexes: list[Json],
    policies: list[Json],
    triggers: list[Json],
) -> Table:
    by_kind = group(constraints, "kind")
    primary = next((_primary_key(key) for key in by_kind.get("p", [])), None)
    unvalidated = {column for key in by_kind.get("n", []) for column in key["columns"] or ()}
    return Table(
        row["name"],
        tuple(_column(column, column["name"] in unvalidated) for column in columns),
        primary,
        tuple(_foreign_key(key) for key in by_kind.get("f", []) if not key["of_parent"]),
        tuple(_unique(key) for key in by_kind.get("u", [])),
        tuple(_check(key) for key in by_kind.get("c", [])),
        tuple(Exclusion(key["name"], key["definition"]) for key in by_kind.get("x", [])),
        tuple(_index(index) for index in indexes),
        row["partition_key"],
        row["parent"],
        row["bounds"],
        row["rls"],
        tuple(_policy(policy) for policy in policies),
        _grants(row["acl"], columns),
        tuple(_trigger(trigger) for trigger in triggers),
        row["comment"],
        extra(row, *_SETTINGS),
    )


_SETTINGS = (
    "owner options toast_options persistence replica_identity tablespace inherits forced own"
    " disabled"
).split()
_FUNCTION_SETTINGS = (
    "kind volatility strict leakproof parallel settings language cost rows library owner arguments"
    " aggregate"
).split()


def extra(row: Json, *keys: str) -> str:
    """Spell what only two catalogs are compared on."""
    return " ".join(f"{key}={row[key]}" for key in keys if row.get(key) not in (None, False))


def _column(row: Json, unvalidated: bool) -> Column:
    expression, generated = row["expression"], row["generated"] in ("s", "v")
    stored = {"s": " STORED", "v": " VIRTUAL"}.get(row["generated"], "")
    return Column(
        row["name"],
        held_type(row["type"]),
        not row["not_null"],
        None if generated else expression,
        expression if generated else None,
        {"a": "ALWAYS", "d": "BY DEFAULT"}.get(row["identity"]),
        row["collation"],
        row["comment"],
        row["type"],
        extra=extra(row, "storage", "compression", "options", "statistics")
        + stored
        + (" NOT NULL NOT VALID" if unvalidated else ""),
        stored=row["generated"] == "s" if generated else None,
    )


def _deferral(row: Json) -> str:
    if row["deferred"]:
        return " DEFERRABLE INITIALLY DEFERRED"
    return " DEFERRABLE" if row["deferrable"] else ""


def _primary_key(row: Json) -> PrimaryKey:
    return PrimaryKey(
        row["name"], tuple(row["columns"]), _deferral(row), tuple(row["include"] or ())
    )


def _foreign_key(row: Json) -> ForeignKey:
    set_columns = f" ({', '.join(row['set_columns'])})" if row["set_columns"] else ""
    return ForeignKey(
        row["name"],
        tuple(row["columns"]),
        row["target"],
        tuple(row["target_columns"]),
        ACTIONS[row["on_delete"]] + set_columns,
        ACTIONS[row["on_update"]],
        MATCHES[row["match"]],
        _deferral(row),
        row["valid"] and row["enforced"],
    )


def _unique(row: Json) -> Unique:
    return Unique(
        row["name"],
        tuple(row["columns"]),
        tuple(row["include"] or ()),
        row["nulls_distinct"] is not False,
        _deferral(row),
    )


def _check(row: Json) -> Check:
    return Check(
        row["name"], row["expression"], row["valid"] and row["enforced"], not row["no_inherit"]
    )


def _index(row: Json) -> Index:
    keys, rest = row["columns"][: row["keys"]], row["columns"][row["keys"] :]
    if row["definition"] and any(key["collation"] for key in keys):
        # What collation an expression has by itself, only the whole definition tells.
        _, _, text = row["definition"].partition(" USING ")
        parsed = parse_index(row["name"], text, row["relation"])
        for key, held in zip(keys, parsed.keys, strict=True):
            key["collation"] = held.collation
    return Index(
        row["name"],
        tuple(
            IndexKey(
                identifier(key["column"]) if key.get("column") else key["expression"],
                key["collation"],
                (
                    f"{key['opclass']} ({', '.join(key['parameters'])})"
                    if key["parameters"]
                    else key["opclass"]
                ),
                bool(key["options"] & 1),
                bool(key["options"] & 2),
                key.get("usual"),
            )
            for key in keys
        ),
        row["unique"],
        row["method"],
        tuple(column.get("column") or column["expression"] for column in rest),
        row["predicate"],
        row["nulls_distinct"],
        row["valid"],
        tuple(row["options"] or ()),
    )


def _policy(row: Json) -> Policy:
    commands = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}
    return Policy(
        row["name"],
        commands[row["command"]],
        tuple(sorted(row["roles"])),
        row["using"],
        row["with_check"],
        row["permissive"],
    )


def _grants(acl: list[list[Any]] | None, columns: list[Json]) -> tuple[Grant, ...]:
    held: dict[str, set[tuple[str, str | None]]] = {}
    for grantee, privilege, grantable in acl or ():
        held.setdefault(grantee, set()).add((_privilege(privilege, grantable), None))
    for column in columns:
        for grantee, privilege, grantable in column["acl"] or ():
            held.setdefault(grantee, set()).add((_privilege(privilege, grantable), column["name"]))
    return tuple(Grant(grantee, frozenset(held[grantee])) for grantee in sorted(held))


def _privilege(name: str, grantable: bool) -> str:
    return f"{name} WITH GRANT OPTION" if grantable else name


def _trigger(row: Json) -> Trigger:
    match = re.match(
        r"CREATE (CONSTRAINT )?TRIGGER (?:\"(?:[^\"]|\"\")+\"|\S+) (.*)",
        row["definition"],
        re.DOTALL,
    )
    definition = (match[1] or "") + match[2] if match else row["definition"]
    return Trigger(row["name"], definition, row["enabled"])


def view_of(row: Json, columns: list[Json], indexes: list[Json], triggers: list[Json]) -> View:
    held = " ".join(
        [
            *(str(_index(index)) for index in indexes),
            *(f"{one['definition']} {one['enabled']}" for one in triggers),
            *(f"{one['name']} DEFAULT {one['expression']}" for one in columns if one["expression"]),
            *(f"{one['name']} COMMENT {one['comment']}" for one in columns if one["comment"]),
        ]
    )
    return View(
        row["name"],
        tuple((column["name"], column["type"]) for column in columns),
        row["kind"] == "m",
        tuple(sorted(row["options"] or ())),
        row["definition"],
        _grants(row["acl"], columns),
        f"{extra(row, 'owner', 'comment')} {held}".strip(),
    )


def function_of(row: Json) -> Function:
    inputs = tuple(
        (name, type_) for name, type_, mode in row["parameters"] or () if mode in ("i", "b", "v")
    )
    return Function(
        row["name"],
        inputs,
        row["returns"] or "",
        row["definer"],
        frozenset(grantee for grantee, _, _ in row["acl"] or ()),
        f"{extra(row, *_FUNCTION_SETTINGS)} {_granting(row)}\n{row['text']}",
        _search_path(row),
    )


def _granting(row: Json) -> str:
    """Name those who may pass on the right to execute."""
    return " ".join(f"{grantee}*" for grantee, _, grantable in row["acl"] or () if grantable)


def _search_path(row: Json) -> str | None:
    """Say where a function of SQL text looks names up; None if that was settled when it was made.

    The body of a C function is no SQL, and the names of BEGIN ATOMIC and RETURN are bound.
    """
    bound = re.match(r"\s*(BEGIN\s+ATOMIC|RETURN)\b", row["text"] or "", re.IGNORECASE)
    if row["language"] in ("c", "internal") or (row["language"] == "sql" and bound):
        return None
    paths = [s.partition("=")[2] for s in row["settings"] or () if s.startswith("search_path=")]
    return paths[0] if paths else "the caller's"


def domain_of(row: Json, checks: list[Json]) -> Domain:
    return Domain(
        row["name"],
        row["base"],
        not row["not_null"],
        row["default"],
        row["collation"],
        tuple(_check(check) for check in checks if check["kind"] == "c"),
    )


def sequence_of(row: Json) -> Sequence:
    """Leave the bounds out where they are the type's own, as a document would."""
    limit = SEQUENCE_LIMITS[row["type"]]
    rising = row["increment"] > 0
    lowest, highest = (1, limit - 1) if rising else (-limit, -1)
    return Sequence(
        row["name"],
        row["type"],
        row["start"],
        row["increment"],
        None if row["minimum"] == lowest else row["minimum"],
        None if row["maximum"] == highest else row["maximum"],
        row["cache"],
        row["cycle"],
        row["owned_by"],
    )


def publication_of(row: Json) -> Publication:
    tables = ("*",) if row["all_tables"] else tuple(row["tables"] or ())
    return Publication(
        row["name"],
        tables,
        extra(row, "insert", "update", "delete", "truncate", "via_root", "limits"),
    )
