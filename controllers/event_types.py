from typing import Annotated

from litestar import Controller, Response, get, put
from litestar.params import JSONBody, PathParameter

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.http.preconditions import IfMatch, IfNew, expected_versions, tagged
from app.schemas import event_types as s
from app.services import event_types

# \Z and not $, which in Python lets a line feed follow.
TypeName = Annotated[
    str, PathParameter(max_length=200, pattern=r"^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*\Z")
]


class EventTypeController(Controller):
    path = "/event-types"
    tags = ("event-types",)

    @get(operation_id="listEventTypes", opt=may("any"))
    async def list_event_types(
        self, read: Reading, cursor: Cursor = None, limit: Limit = 50
    ) -> s.EventTypePage:
        """List the catalogue's event types, newest first."""
        order = [m.EventType.id]
        return await read.page(event_types.listed, s.EventTypePage, cursor, limit, order)

    @put("/{name:str}", operation_id="putEventType", opt=may("operator", statuses=[200, 201]))
    async def put_event_type(
        self,
        write: Writing,
        name: TypeName,
        data: JSONBody[s.EventTypePut],
        if_match: IfMatch = None,
        if_none_match: IfNew = None,
    ) -> Response[s.EventType]:
        """Create or replace an event type."""
        is_new = None if if_match is None else False
        if if_none_match is not None:
            is_new = True
        versions = expected_versions(if_match)
        made, is_made = await event_types.put(write, name, data, versions, is_new)
        return tagged(made, status_code=201 if is_made else 200)
