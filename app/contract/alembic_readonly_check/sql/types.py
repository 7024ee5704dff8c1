"""One spelling of a type: as `format_type` prints it under an empty search_path."""

import re
from functools import lru_cache
from typing import Any

import pglast
from pglast import ast
from pglast.printers.dml import interval_ranges
from pglast.stream import RawStream

from alembic_readonly_check.sql.parsing import Unparsable, identifier, names_of, value_of, why

TYPE_NAMES = {
    "bool": "boolean",
    "bpchar": "character",
    "dec": "numeric",
    "decimal": "numeric",
    "float4": "real",
    "float8": "double precision",
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "interval": "interval",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "timetz": "time with time zone",
    "varbit": "bit varying",
    "varchar": "character varying",
}
"""pg_type name -> the name `format_type` prints; a name that is absent prints as it is."""


SEQUENCE_LIMITS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
"""A type of sequences -> the first number that it cannot hold."""


BUILT_IN = frozenset(TYPE_NAMES.values()) | frozenset(
    """bigint bit boolean box bytea character cidr circle date daterange datemultirange
    double inet int4multirange int4range int8multirange int8range integer interval json jsonb
    jsonpath line lseg macaddr macaddr8 money name numeric nummultirange numrange oid path
    pg_lsn pg_snapshot point polygon real record regclass regcollation regconfig regdictionary
    regnamespace regoper regoperator regproc regprocedure regrole regtype smallint text tid
    time timestamp timetz timestamptz trigger event_trigger tsmultirange tsquery tsrange
    tstzmultirange tstzrange tsvector txid_snapshot uuid void xid xid8 xml any anyarray
    anyelement anycompatible anycompatiblearray anyenum anynonarray anyrange cstring
    internal language_handler unknown int2vector oidvector aclitem""".split()
)

EXTENSION_TYPES = frozenset(
    """box2d box3d citext cube ean13 earth geography geometry geometry_dump gbox h3index halfvec
    hll hstore ip4 ip4r ip6 ip6r ipaddress iprange isbn isbn13 ismn ismn13 issn issn13 lo lquery
    ltree ltxtquery query_int raster rastbandarg roaringbitmap seg semver sparsevec topogeometry
    upc vector""".split()
)
"""Types that live in whatever schema their extension was put in, so they compare unqualified."""


@lru_cache(maxsize=4096)
def parse_type(text: str) -> str:
    """Spell a type as `format_type` does; raises `Unparsable` if it is none."""
    bare = re.sub(r"^\s*setof\s+", "", text, flags=re.IGNORECASE)
    if re.search(r";|--|/\*", bare):
        raise Unparsable("a type cannot hold a comment or a semicolon")
    try:
        statement: Any = pglast.parse_sql(f"SELECT NULL::{bare}")[0].stmt
    except pglast.parser.ParseError as error:
        raise Unparsable(why(error)) from None
    cast = statement.targetList[0].val if len(statement.targetList or ()) == 1 else None
    if not isinstance(cast, ast.TypeCast) or statement.fromClause or statement.whereClause:
        raise Unparsable(f"{text!r} is not a type")
    spelled = spell(cast.typeName)
    return f"SETOF {spelled}" if bare != text.strip() and bare != text else spelled


def is_known_type(type_: str) -> bool:
    """Tell whether a spelled type is one of Postgres' own or of a well-known extension's."""
    base = re.sub(r"\(.*?\)|\[\]", "", type_.removeprefix("SETOF ")).strip()
    return (
        base in BUILT_IN
        or base.rpartition(".")[2] in EXTENSION_TYPES
        or (" " in base and '"' not in base)
    )


def qualified(type_: str, schema: str) -> str:
    """Put an unqualified user type into a schema; Postgres' own and extensions' types stay bare."""
    if is_known_type(type_):
        base, _, rest = type_.partition("(")
        name = base.rpartition(".")[2]
        return (
            type_
            if name.removesuffix("[]") not in EXTENSION_TYPES
            else name + (f"({rest}" if rest else "")
        )
    return type_ if "." in type_ else f"{identifier(schema)}.{type_}"


def spell(name: Any) -> str:
    """Spell a parsed type name."""
    parts = [part.sval for part in name.names]
    if parts[0] == "pg_catalog":
        parts = parts[1:]
    if len(parts) == 1:
        own = TYPE_NAMES.get(parts[0], parts[0])
        base = own if own in BUILT_IN else identifier(own)
    else:
        base = ".".join(map(identifier, parts))
    modifiers = [_modifier(modifier) for modifier in name.typmods or ()]
    if base == "interval" and modifiers:
        fields = interval_ranges.get(int(modifiers[0]), "")
        precision = f"({modifiers[1]})" if len(modifiers) > 1 else ""
        base = f"interval{f' {fields}' if fields else ''}{precision}"
    elif base.startswith(("time ", "timestamp ")) and modifiers:
        head, _, tail = base.partition(" ")
        base = f"{head}({modifiers[0]}) {tail}"
    elif base == "numeric" and len(modifiers) == 1:
        base = f"numeric({modifiers[0]},0)"
    elif base in ("character", "bit") and modifiers == ["1"] and parts[0] in ("bpchar", "bit"):
        base = f"{base}(1)"
    elif modifiers:
        if base not in BUILT_IN:
            # An extension reads them as it likes: geometry(POINT,4326) comes back as Point.
            modifiers = [modifier.lower() for modifier in modifiers]
        base = f"{base}({','.join(modifiers)})"
    return base + ("[]" if name.arrayBounds else "")


def _modifier(node: Any) -> str:
    """Write one type modifier."""
    if isinstance(node, ast.A_Const):
        value = node.val
        return str(value.ival if isinstance(value, ast.Integer) else value_of(value))
    if isinstance(node, ast.ColumnRef):
        return str(names_of(node.fields)[0])
    return RawStream()(node)


def held_type(type_: str) -> str:
    """Spell what `format_type` printed as `parse_type` would: it keeps what an extension wrote."""
    if '"' in type_ or ("(" in type_ and type_.partition("(")[0] not in BUILT_IN):
        try:
            return parse_type(type_)
        except Unparsable:
            return type_
    return type_


def same_type(mine: str, theirs: str) -> bool:
    """Compare a stated type with a held one, which an extension may have brought from anywhere.

    The catalog spells what extensions bring without a schema.
    """
    one, other = bare(mine), bare(theirs)
    if one == other:
        return True
    brought = "." not in other and not is_known_type(other)
    return brought and one.rpartition(".")[2] == other


def bare(type_: str) -> str:
    """Spell a type without the schema that its extension happens to lie in."""
    return qualified(type_, "public") if "." in type_ else type_
