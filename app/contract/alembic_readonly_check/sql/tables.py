"""What belongs to a table, taken apart: constraints, indexes, policies, grants, triggers."""

import re
from typing import Any

from pglast import ast
from pglast.enums import ConstrType, SortByDir, SortByNulls

from alembic_readonly_check.facts import (
    Check,
    Exclusion,
    ForeignKey,
    Grant,
    Index,
    IndexKey,
    Policy,
    Trigger,
    Unique,
)
from alembic_readonly_check.sql.constants import Shape
from alembic_readonly_check.sql.expressions import Scope, shape_of
from alembic_readonly_check.sql.parsing import (
    Unparsable,
    identifier,
    names_of,
    parse_one,
    quoted,
    text_of,
    value_of,
)

ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}

MATCHES = {"s": "SIMPLE", "f": "FULL", "p": "PARTIAL"}


def _relation_name(node: Any, schema: str) -> str:
    return f"{node.schemaname or schema}.{node.relname}"


def _deferral(node: Any) -> str:
    if node.initdeferred:
        return " DEFERRABLE INITIALLY DEFERRED"
    return " DEFERRABLE" if node.deferrable else ""


def parse_constraint(name: str, text: str, schema: str) -> ForeignKey | Unique | Check | Exclusion:
    """Take a table constraint apart; unqualified tables are of `schema`; raises `Unparsable`."""
    if not_valid := re.search(r"\s+NOT\s+VALID\s*$", text, re.IGNORECASE):
        text = text[: not_valid.start()]
    statement = parse_one(
        f'ALTER TABLE "t" ADD CONSTRAINT "x" {text}', ast.AlterTableStmt, "it is not one constraint"
    )
    if len(statement.cmds) != 1:
        raise Unparsable("it is not one constraint")
    node = statement.cmds[0].def_
    match node.contype:
        case ConstrType.CONSTR_FOREIGN:
            return ForeignKey(
                name,
                names_of(node.fk_attrs),
                _relation_name(node.pktable, schema),
                names_of(node.pk_attrs),
                _action(node.fk_del_action) + _set_columns(node),
                _action(node.fk_upd_action),
                MATCHES[node.fk_matchtype or "s"],
                _deferral(node),
                not not_valid,
            )
        case ConstrType.CONSTR_UNIQUE:
            return Unique(
                name,
                names_of(node.keys),
                names_of(node.including),
                not node.nulls_not_distinct,
                _deferral(node),
            )
        case ConstrType.CONSTR_CHECK:
            expression = text[text.index("(") + 1 : text.rindex(")")].strip()
            return Check(name, expression, not not_valid, not node.is_no_inherit)
        case ConstrType.CONSTR_EXCLUSION:
            return Exclusion(name, " ".join(text.split()))
    raise Unparsable("it is neither a foreign key, a unique, a check nor an exclusion")


def _action(letter: str | None) -> str:
    return ACTIONS[letter or "a"]


def _set_columns(node: Any) -> str:
    columns = names_of(node.fk_del_set_cols)
    return f" ({', '.join(columns)})" if columns else ""


def parse_exclusion(text: str, scope: Scope) -> Shape | str:
    """Give the shape of an exclusion constraint, blind to the spelling of its predicate."""
    try:
        statement = parse_one(
            f'ALTER TABLE "t" ADD CONSTRAINT "x" {text}', ast.AlterTableStmt, "it is no constraint"
        )
        return shape_of(statement.cmds[0].def_, scope)
    except Unparsable:
        return text


def parse_index(name: str, text: str, table: str) -> Index:
    """Take `[UNIQUE] method (keys) …` apart; raises `Unparsable`."""
    unique = bool(re.match(r"\s*UNIQUE\b", text, re.IGNORECASE))
    rest = re.sub(r"^\s*UNIQUE\b", "", text, flags=re.IGNORECASE)
    if not re.match(r"\s*[a-z_]+\s*\(", rest, re.IGNORECASE):
        raise Unparsable("an index reads `btree (column, …)`, with UNIQUE before it if it is")
    word = "UNIQUE " if unique else ""
    statement: Any = parse_one(
        f'CREATE {word}INDEX "x" ON {quoted(table)} USING {rest}',
        ast.IndexStmt,
        "it is not one index",
    )
    return Index(
        name,
        tuple(_key(element) for element in statement.indexParams),
        unique,
        statement.accessMethod or "btree",
        tuple(element.name for element in statement.indexIncludingParams or ()),
        text_of(statement.whereClause) if statement.whereClause is not None else None,
        not statement.nulls_not_distinct,
        options=tuple(
            f"{option.defname}={value_of(option.arg) if option.arg is not None else 'true'}"
            for option in statement.options or ()
        ),
    )


def _key(element: Any) -> IndexKey:
    descending = element.ordering == SortByDir.SORTBY_DESC
    nulls_first = {SortByNulls.SORTBY_NULLS_FIRST: True, SortByNulls.SORTBY_NULLS_LAST: False}.get(
        SortByNulls(element.nulls_ordering), descending
    )
    return IndexKey(
        identifier(element.name) if element.name is not None else text_of(element.expr),
        names_of(element.collation)[-1] if element.collation else None,
        names_of(element.opclass)[-1] if element.opclass else None,
        descending,
        nulls_first,
    )


def parse_partition_key(text: str) -> tuple[str, tuple[str, ...]]:
    """Split `RANGE (a, lower(b))` into the strategy and its keys; raises `Unparsable`."""
    statement = parse_one(
        f'CREATE TABLE "t" () PARTITION BY {text}', ast.CreateStmt, "it is not a partition key"
    )
    if statement.partspec is None:
        raise Unparsable("it is not a partition key")
    strategy = str(getattr(statement.partspec.strategy, "name", statement.partspec.strategy))
    return strategy.rpartition("_")[2], tuple(
        identifier(element.name) if element.name is not None else text_of(element.expr)
        for element in statement.partspec.partParams
    )


def parse_policy(name: str, text: str, table: str) -> Policy:
    """Take `[AS …] FOR … TO … USING (…) WITH CHECK (…)` apart; raises `Unparsable`."""
    statement = parse_one(
        f'CREATE POLICY "x" ON {quoted(table)} {text}', ast.CreatePolicyStmt, "it is not one policy"
    )
    return Policy(
        name,
        (statement.cmd_name or "all").upper(),
        tuple(sorted(_role(role) for role in statement.roles or ())) or ("PUBLIC",),
        text_of(statement.qual) if statement.qual is not None else None,
        text_of(statement.with_check) if statement.with_check is not None else None,
        bool(statement.permissive),
    )


def _role(node: Any) -> str:
    return node.rolename if node.rolename is not None else "PUBLIC"


ALL_PRIVILEGES = ("DELETE", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE")


def parse_grant(grantee: str, text: str) -> Grant:
    """Take `SELECT, UPDATE (a, b)` apart; ALL means every privilege that all versions know."""
    statement = parse_one(
        f'GRANT {text} ON "t" TO "x"', ast.GrantStmt, "it is not a list of privileges"
    )
    privileges: set[tuple[str, str | None]] = set()
    for node in statement.privileges or ():
        columns: tuple[str | None, ...] = names_of(node.cols) or (None,)
        privileges.update((node.priv_name.upper(), column) for column in columns)
    if not statement.privileges:
        privileges.update((word, None) for word in ALL_PRIVILEGES)
    return Grant("PUBLIC" if grantee.upper() == "PUBLIC" else grantee, frozenset(privileges))


def parse_trigger(name: str, text: str, table: str) -> Trigger:
    """Read what follows a trigger's name, ON left out; raises `Unparsable`."""
    trigger_shape(text, table)
    return Trigger(name, " ".join(text.split()))


def trigger_shape(text: str, table: str, schema: str = "public", exact: bool = False) -> Shape:
    """Give the shape of a trigger, blind to the spelling of WHEN; raises `Unparsable`."""
    head = re.match(
        r"(?P<when>.*?\b(?:INSERT|UPDATE|DELETE|TRUNCATE)\b(?:\s+OF\s+[\w\", ]+?)?)"
        r"(?=\s+(?:ON|FROM|NOT\s+DEFERRABLE|DEFERRABLE|INITIALLY|REFERENCING|FOR|WHEN|EXECUTE)\b)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    if head is None:
        raise Unparsable("a trigger reads `BEFORE UPDATE FOR EACH ROW EXECUTE FUNCTION f()`")
    rest = re.sub(r"^\s*ON\s+\S+", "", text[head.end() :], flags=re.IGNORECASE)
    timing = head["when"]
    constraint = "CONSTRAINT " if re.match(r"\s*CONSTRAINT\b", timing, re.IGNORECASE) else ""
    timing = re.sub(r"^\s*CONSTRAINT\b", "", timing, flags=re.IGNORECASE)
    statement = parse_one(
        f'CREATE {constraint}TRIGGER "x" {timing} ON {quoted(table)} {rest}',
        ast.CreateTrigStmt,
        "it is not one trigger",
    )
    if names_of(statement.funcname)[:-1] == (schema,):
        statement.funcname = statement.funcname[-1:]
    return shape_of(statement, Scope(table, (), schema, exact))
