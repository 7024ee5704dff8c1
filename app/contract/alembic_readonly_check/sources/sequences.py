"""Read the sequences of SQLAlchemy's `MetaData`: those that it names, and those of identities."""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Column as SqlColumn
from sqlalchemy import Identity, MetaData
from sqlalchemy import Sequence as SqlSequence
from sqlalchemy.sql.schema import IdentityOptions

from alembic_readonly_check.facts import Sequence
from alembic_readonly_check.sql.types import SEQUENCE_LIMITS


def sequences(
    metadata: MetaData, default_schema: str, is_compared: Callable[[str], bool]
) -> dict[str, Sequence]:
    """Read the sequences that a model names, by name."""
    found = {}
    for held in _sequences(metadata):
        schema = held.schema or default_schema
        if is_compared(schema):
            name = f"{schema}.{held.name}"
            data_type = held.data_type
            type_ = str(data_type.compile()).lower() if data_type is not None else "bigint"
            found[name] = _sequence(name, type_, held, None)
    return found


def _sequences(metadata: MetaData) -> Iterator[SqlSequence]:
    yield from metadata._sequences.values()
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.default, SqlSequence):
                yield column.default


def identity(column: SqlColumn[Any], subject: str, type_: str) -> Sequence | None:
    """Read how an identity counts; None if the column is none, or of a type that hides it."""
    held = column.identity
    if not isinstance(held, Identity) or type_ not in SEQUENCE_LIMITS:
        return None
    return _sequence(subject, type_, held, subject)


def _sequence(name: str, type_: str, held: IdentityOptions, owner: str | None) -> Sequence:
    """Fill in what Postgres does where the model says nothing."""
    type_ = {"int": "integer"}.get(type_, type_)
    limit = SEQUENCE_LIMITS.get(type_, SEQUENCE_LIMITS["bigint"])
    step = held.increment if held.increment is not None else 1
    lowest, highest = (1, limit - 1) if step > 0 else (-limit, -1)
    low = lowest if held.minvalue is None or held.nominvalue else held.minvalue
    high = highest if held.maxvalue is None or held.nomaxvalue else held.maxvalue
    return Sequence(
        name,
        type_,
        held.start if held.start is not None else low if step > 0 else high,
        step,
        None if low == lowest else low,
        None if high == highest else high,
        held.cache or 1,
        bool(held.cycle),
        owner,
    )
