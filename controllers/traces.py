from uuid import UUID

from litestar import Controller, get
from litestar.params import FromPath

from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.permissions import Permission
from app.schemas import traces as s
from app.services import traces


class TraceController(Controller):
    path = "/workspaces/{ws:str}/events/{event_id:uuid}/trace"
    tags = ("events",)

    @get(operation_id="traceEvent", opt=may(Permission.EVENTS_AUDIT))
    async def trace_event(
        self, read: Reading, event_id: FromPath[UUID], cursor: Cursor = None, limit: Limit = 50
    ) -> s.TracePage:
        """Show what became of an event, recipient by recipient."""
        return await traces.page(read, event_id, cursor, limit)
