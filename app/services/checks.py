from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import Boolean, Integer, Text, Uuid

from app.database.reads import Read
from app.schemas import checks as s


def answers(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.check_permissions."""
    rows = func.annex.check_permissions(
        workspace_id, bindparam("questions", type_=JSONB)
    ).table_valued(
        column("ordinal", Integer),
        column("user_id", Uuid),
        column("allowed", Boolean),
        column("reason", Text),
        name="q",
    )
    return select(rows.c.user_id, rows.c.allowed, rows.c.reason).order_by(rows.c.ordinal)


async def check(read: Read, questions: list[s.CheckCreate]) -> s.Checks:
    """Answer questions from one snapshot; raises what `annex.check_permissions` raises."""
    _, rows = await read.rows(answers, {"questions": questions})
    return s.Checks([s.Check(q.permission, *r) for q, r in zip(questions, rows, strict=True)])
