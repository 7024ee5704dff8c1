"""Save what the catalog queries answer, so that a check can run where no database is reached."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from alembic_readonly_check.db import catalog, queries
from alembic_readonly_check.db.guard import Reader
from alembic_readonly_check.facts import Json, Schema
from alembic_readonly_check.findings import CannotCheck

FORMAT = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The raw answers by query; no row of a table is among them, and no secret."""

    format: int
    schemas: tuple[str, ...]
    answers: Json
    history: str | None = None


def take(reader: Reader) -> Snapshot:
    """Ask every catalog query and keep the answers."""
    return Snapshot(
        FORMAT,
        reader.schemas,
        {name: json.loads(reader.ask(name)) for name in queries.QUERIES},
        applied(reader),
    )


def applied(reader: Reader) -> str | None:
    """Read the history of migrations; None if the database keeps none."""
    return reader.ask("history") if reader.ask("history exists") == "true" else None


def encode(snapshot: Snapshot) -> str:
    """Write a snapshot with one fact a line, so that two of them can be compared by eye."""
    return json.dumps(asdict(snapshot), indent=1, ensure_ascii=False) + "\n"


def read(path: Path) -> Snapshot:
    """Read a snapshot; raises `CannotCheck` if it is none, or of another version of this tool."""
    try:
        held = json.loads(path.read_bytes())
        snapshot = Snapshot(**held | {"schemas": tuple(held["schemas"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CannotCheck(f"{path.name} is not a snapshot: {error}.") from None
    if snapshot.format != FORMAT or set(snapshot.answers) != set(queries.QUERIES):
        raise CannotCheck(f"{path.name} was taken by another version; take it anew.")
    return snapshot


def facts(snapshot: Snapshot, scope: catalog.Scope, label: str) -> Schema:
    """Turn a snapshot into facts; raises `CannotCheck` if it lacks a schema that is compared."""
    if missing := [schema for schema in scope.schemas if schema not in snapshot.schemas]:
        raise CannotCheck(f"The snapshot lacks schema {', '.join(missing)}; take it anew.")
    return catalog.build(snapshot.answers, scope, label)
