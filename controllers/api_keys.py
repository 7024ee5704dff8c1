from typing import Any
from uuid import UUID

from litestar import Controller, Request, Response, delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

import db_models as m
from app.auth.dependencies import Caller, may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.http.idempotency import Idempotent
from app.http.preconditions import IfMatch, expected_versions
from app.permissions import Permission
from app.runtime import runtime_of
from app.schemas import api_keys as s
from app.services import api_keys


class ApiKeyController(Controller):
    tags = ("api-keys",)

    @get("/workspaces/{ws:str}/api-keys", operation_id="listApiKeys", opt=may(Permission.KEYS_READ))
    async def list_api_keys(
        self, read: Reading, cursor: Cursor = None, limit: Limit = 50
    ) -> s.ApiKeyPage:
        """List a workspace's API keys, newest first."""
        return await read.page(m.ApiKey.of, s.ApiKeyPage, cursor, limit, [m.ApiKey.id])

    @post(
        "/workspaces/{ws:str}/api-keys",
        operation_id="createApiKey",
        opt=may(Permission.KEYS_MANAGE),
    )
    async def create_api_key(
        self, once: Idempotent, data: JSONBody[s.ApiKeyCreate]
    ) -> Response[s.ApiKeyWithSecret]:
        """Create an API key."""
        values, answer = api_keys.creation(data)
        return await once.respond(api_keys.created, values, answer, api_keys.SECRETS)

    @delete(
        "/workspaces/{ws:str}/api-keys/{key_id:uuid}",
        operation_id="revokeApiKey",
        opt=may(Permission.KEYS_MANAGE),
    )
    async def revoke_api_key(
        self, write: Writing, key_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Revoke an API key."""
        values = {"key_id": key_id, "versions": expected_versions(if_match)}
        await write.call(api_keys.revoked, values)

    @post(
        "/workspaces/{ws:str}/api-keys/{key_id:uuid}/rotate",
        operation_id="rotateApiKey",
        opt=may(Permission.KEYS_MANAGE),
    )
    async def rotate_api_key(
        self,
        once: Idempotent,
        key_id: FromPath[UUID],
        data: JSONBody[s.ApiKeyRotate],
        if_match: IfMatch = None,
    ) -> Response[s.ApiKeyWithSecret]:
        """Replace an API key by a new one."""
        values, answer = api_keys.rotation(key_id, data, expected_versions(if_match))
        return await once.respond(api_keys.rotated, values, answer, api_keys.SECRETS)

    @post("/api-keys/verify", operation_id="verifyApiKey", status_code=200, opt=may("any"))
    async def verify_api_key(
        self,
        request: Request[Any, Any, Any],
        read: Reading,
        data: JSONBody[s.ApiKeyVerification],
    ) -> s.ApiKeyVerdict:
        """Tell whether an API key is good."""
        return await api_keys.verify(read, runtime_of(request).limiter, data)

    @post("/api-keys/token", operation_id="exchangeApiKey", opt=may("key"))
    async def exchange_api_key(
        self,
        request: Request[Any, Any, Any],
        principal: Caller,
        data: JSONBody[s.ApiKeyTokenCreate],
    ) -> s.ApiKeyToken:
        """Exchange the calling API key for a short token."""
        ttl = api_keys.TOKEN_SECONDS if data.ttl_seconds is UNSET else data.ttl_seconds
        return runtime_of(request).signer.sign(principal, ttl)
