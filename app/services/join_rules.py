from collections.abc import Sequence
from typing import Any
from uuid import UUID

from litestar import Response
from msgspec.structs import asdict
from sqlalchemy import ColumnElement, Select, bindparam, column, func, select
from sqlalchemy.types import Boolean, Text, Uuid

import db_models as m
from app.database.reads import Read, returned
from app.http.responses import StructResponse
from app.schemas import join_rules as s
from app.schemas.pages import Page


def created(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.create_join_rule; its parameters are `creation`."""
    made = func.annex.create_join_rule(
        workspace_id,
        bindparam("kind", type_=Text),
        bindparam("value", type_=Text),
        bindparam("role", type_=Text),
        bindparam("needs_approval", type_=Boolean),
    )
    return select(returned(made, s.JoinRule, m.JoinRule))


def creation(new: s.JoinRuleCreate) -> dict[str, Any]:
    """Return the parameters of `created`; a taken domain raises `RuleTaken` when it is called."""
    return {**asdict(new), "needs_approval": new.needs_approval is True}


def answer(rows: Sequence[Any]) -> Response[s.JoinRule]:
    """Answer with the rule."""
    [row] = rows
    return StructResponse(s.JoinRule(*row), status_code=201)


def deleted(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.delete_join_rule."""
    call = func.annex.delete_join_rule(workspace_id, bindparam("join_rule_id", type_=Uuid))
    return select(call.label("deleted"))


def mine(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.my_join_rules."""
    found = func.annex.my_join_rules().table_valued(
        column("id", Uuid),
        column("workspace_id", Uuid),
        column("workspace_slug", Text),
        column("workspace_name", Text),
        column("role", Text),
        column("needs_approval", Boolean),
        column("is_requested", Boolean),
        name="o",
    )
    return select(*found.c)


async def list_mine(read: Read) -> s.JoinOfferPage:
    """Read the rules by which the caller may join."""
    _, rows = await read.rows(mine, {})
    return s.JoinOfferPage([s.JoinOffer(*row) for row in rows], Page(None))
