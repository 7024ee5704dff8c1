"""The sides of a comparison, its rules, and the codes that its differences bear."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from alembic_readonly_check.facts import Schema
from alembic_readonly_check.findings import Location
from alembic_readonly_check.platforms import NONE, Platform
from alembic_readonly_check.sql.expressions import Scope

Family = Literal["DM", "DB", "DC", "MG"]

CODES: dict[str, dict[Family, str]] = {
    "table": {"DM": "DM101", "DB": "DB201", "DC": "DC301"},
    "column": {"DM": "DM102", "DB": "DB202", "DC": "DC302"},
    "type": {"DM": "DM103", "DB": "DB203", "DC": "DC303"},
    "collation": {"DM": "DM103", "DB": "DB230", "DC": "DC303"},
    "null": {"DM": "DM104", "DB": "DB204", "DC": "DC304"},
    "default": {"DM": "DM105", "DB": "DB205", "DC": "DC305"},
    "primary key": {"DM": "DM106", "DB": "DB206", "DC": "DC306"},
    "foreign key": {"DM": "DM107", "DB": "DB207", "DC": "DC307"},
    "unique": {"DM": "DM108", "DB": "DB208", "DC": "DC308"},
    "check": {"DM": "DM109", "DB": "DB209", "DC": "DC309"},
    "check text": {"DM": "DM109", "DB": "DB231", "DC": "DC309"},
    "exclusion": {"DM": "DM109", "DB": "DB236", "DC": "DC309"},
    "index": {"DM": "DM110", "DB": "DB210", "DC": "DC310"},
    "predicate": {"DM": "DM110", "DB": "DB233", "DC": "DC310"},
    "include": {"DM": "DM110", "DB": "DB234", "DC": "DC310"},
    "method": {"DM": "DM110", "DB": "DB235", "DC": "DC310"},
    "enum": {"DM": "DM111", "DB": "DB211", "DC": "DC311"},
    "comment": {"DM": "DM112", "DB": "DB212", "DC": "DC312"},
    "generated": {"DM": "DM113", "DB": "DB213", "DC": "DC313"},
    "order": {"DM": "DM114", "DC": "DC314"},
    "rls": {"DC": "DC320"},
    "policy": {"DC": "DC321"},
    "grant": {"DC": "DC322"},
    "trigger": {"DC": "DC323"},
    "function": {"DC": "DC324"},
    "view": {"DC": "DC325"},
    "extension": {"DC": "DC326"},
    "partition": {"DM": "DM101", "DB": "DB237", "DC": "DC327"},
    "publication": {"DC": "DC328"},
    "sequence": {"DB": "DB240", "DC": "DC329"},
    "domain": {"DM": "DM103", "DB": "DB238", "DC": "DC330"},
    "other": {"DC": "DC390"},
    "extra": {},
}
"""Kind of difference -> its code in each family; two catalogs (MG) always end in MG403."""


# A rule that holds later or not for old rows: its own code for the models, else that of its kind.
DEFERRED = {"DB": "DB239"}
UNVALIDATED = {"DB": "DB232"}


class Forbidden(Exception):
    """Say in the server's words what the role of the check may not read, and so not compare."""


class Planner(Protocol):
    """What can put an expression to a server without executing it."""

    def plan(self, expression: str, names: Scope, type_: str | None = None) -> str | None:
        """Write the expression as the server understands it; None if it refuses.

        Raises `Forbidden` if the role lacks a right that reading it takes.
        """
        ...


@dataclass(frozen=True, slots=True)
class Side:
    """One description: what it says, what to call it in a message, where its facts are written.

    `is_unreadable` tells which subjects it states in a way that nobody can read; those are findings
    of their own and no drift.
    """

    schema: Schema
    label: str
    locate: Callable[[str, str | None], Location | None] = lambda _table, _column: None
    is_unreadable: Callable[[str], bool] = lambda _: False


@dataclass(frozen=True, slots=True)
class Rules:
    """What the comparison leaves out or takes for granted, from the configuration."""

    default_schema: str = "public"
    rolling_partitions: bool = True
    hosting: Platform = NONE
    schemas: tuple[str, ...] = ()
