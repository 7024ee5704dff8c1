"""The tables of docs/datamodel.md, mapped read-only."""

from db_models.api_keys import ApiKey
from db_models.base import Base, ReadOnlyMapping
from db_models.events import Event, EventKey, LogEntry, LogState, Pending, Retention
from db_models.idempotency import IdempotencyKey
from db_models.profiles import Profile
from db_models.workspaces import Member, Role, Workspace

__all__ = [
    "ApiKey",
    "Base",
    "Event",
    "EventKey",
    "IdempotencyKey",
    "LogEntry",
    "LogState",
    "Member",
    "Pending",
    "Profile",
    "ReadOnlyMapping",
    "Retention",
    "Role",
    "Workspace",
]
