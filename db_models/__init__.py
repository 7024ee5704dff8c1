"""The tables of docs/datamodel.md, mapped read-only."""

from db_models.api_keys import ApiKey
from db_models.base import Base, ReadOnlyMapping
from db_models.event_types import EventType, EventTypeChange
from db_models.events import Event, EventKey
from db_models.idempotency import IdempotencyKey
from db_models.invitations import Invitation, Removal
from db_models.join_rules import JoinRule, PublicMailDomain
from db_models.limits import Limit, Lock
from db_models.log import Erasure, LogEntry, LogState, Pending, Reader, Retention, Trail
from db_models.mails import Mail, MailBacklog, MailState, UnsubscribeToken
from db_models.members import Member
from db_models.migrations import AppliedMigration
from db_models.notifications import Fanout, Inbox, Notification, Suppression
from db_models.preferences import Preference
from db_models.profiles import Profile
from db_models.roles import Role
from db_models.subscriptions import Subscription
from db_models.workspaces import Workspace

__all__ = [
    "ApiKey",
    "AppliedMigration",
    "Base",
    "Erasure",
    "Event",
    "EventKey",
    "EventType",
    "EventTypeChange",
    "Fanout",
    "IdempotencyKey",
    "Inbox",
    "Invitation",
    "JoinRule",
    "Limit",
    "Lock",
    "LogEntry",
    "LogState",
    "Mail",
    "MailBacklog",
    "MailState",
    "Member",
    "Notification",
    "Pending",
    "Preference",
    "Profile",
    "PublicMailDomain",
    "ReadOnlyMapping",
    "Reader",
    "Removal",
    "Retention",
    "Role",
    "Subscription",
    "Suppression",
    "Trail",
    "UnsubscribeToken",
    "Workspace",
]
