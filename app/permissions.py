"""Every permission there is; equal to `annex.permissions()` in SQL, which a test holds."""

from enum import StrEnum


class Permission(StrEnum):
    """What a role, a key or an event may name."""

    WORKSPACE_READ = "workspace:read"
    WORKSPACE_UPDATE = "workspace:update"
    WORKSPACE_DELETE = "workspace:delete"
    MEMBERS_READ = "members:read"
    MEMBERS_MANAGE = "members:manage"
    ROLES_READ = "roles:read"
    ROLES_MANAGE = "roles:manage"
    INVITATIONS_READ = "invitations:read"
    INVITATIONS_MANAGE = "invitations:manage"
    KEYS_READ = "keys:read"
    KEYS_MANAGE = "keys:manage"
    EVENTS_READ = "events:read"
    EVENTS_PUBLISH = "events:publish"
    EVENTS_AUDIT = "events:audit"
    SUBSCRIPTIONS_MANAGE = "subscriptions:manage"
    PREFERENCES_MANAGE = "preferences:manage"
