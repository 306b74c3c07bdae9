"""``/admin/v1/tenants/{slug}/keys``: one function per verb. A key's text is shown when it is made, and never again."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from fastapi import Response
from pydantic import ConfigDict, Field

from relay.api.admin.operators import ALWAYS, WITH_DOCUMENT, OperatorDesk, operator_router
from relay.api.admin.payloads import Document, GivenTime, IfMatch, Listing, PageQuery, Payload, UtcTime, WhatRuns
from relay.api.contract import TIME
from relay.api.openapi import ADMIN_PREFIX, MADE, SHOWN, declare
from relay.errors import EtagMismatch, KeyNotFound, TenantNotFound
from relay.tenants import issued_keys
from relay.tenants.cuts import RunningUploads
from relay.tenants.issued_keys import ALL_SCOPES, KeyDraft, NewKey, etag_of
from relay.tenants.tenant import Key

ScopeName = Literal["upload", "read"]
YEAR_SECONDS = 366 * 86_400


EXAMPLE: dict[str, Any] = {
    "id": "k3a9x0q2m7b1c5d8",
    "name": "laptop",
    "scopes": ["upload"],
    "status": "active",
    "created_at": TIME,
    "expires_at": None,
    "last_used_at": None,
}
ISSUED = EXAMPLE | {"key": f"rk_{EXAMPLE['id']}_…"}


class KeyDocument(Document):
    """A key to be issued."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "laptop", "scopes": ["upload"]}]})

    name: str | None = None
    expires_at: GivenTime | None = None
    scopes: list[ScopeName] = Field(default_factory=lambda: [scope.value for scope in ALL_SCOPES])


class RotationDocument(Document):
    """How long the old key goes on working beside the new one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_seconds": 86_400}]})

    overlap_seconds: int = Field(3_600, ge=0, le=YEAR_SECONDS)


class KeyPayload(Payload):
    """A key, without its text."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    name: str | None
    scopes: tuple[ScopeName, ...]
    status: Literal["active", "expired", "revoked"]
    created_at: UtcTime
    expires_at: UtcTime | None
    last_used_at: UtcTime | None

    @classmethod
    def of(cls, key: Key) -> Self:
        """Show a key as it is now."""
        return cls.model_validate(_members(key))


class IssuedKeyPayload(KeyPayload):
    """A key that was just made: the only time that its text is shown."""

    model_config = ConfigDict(json_schema_extra={"examples": [ISSUED]})

    key: str

    @classmethod
    def of_new(cls, new: NewKey) -> Self:
        """Show a new key with its text."""
        return cls.model_validate(_members(new.key) | {"key": new.text})


class RotatedKeyPayload(IssuedKeyPayload):
    """A key that was just made in place of another one."""

    model_config = ConfigDict(json_schema_extra={"examples": [ISSUED | {"replaces": "b2r8s5t1u9v4w7x0"}]})

    replaces: str

    @classmethod
    def of_new(cls, new: NewKey) -> Self:
        """Show a new key with its text and the id of the one that it replaces."""
        return cls.model_validate(_members(new.key) | {"key": new.text, "replaces": new.replaces})


router = operator_router("/tenants/{slug}/keys", "keys")


@router.post("", status_code=201, operation_id="issue_key", responses=MADE | declare(*WITH_DOCUMENT, TenantNotFound))
async def issue_key(slug: str, desk: OperatorDesk, response: Response, document: KeyDocument | None = None) -> IssuedKeyPayload:
    """Issue a key. Its text is in this answer and nowhere else."""
    document = document or KeyDocument()
    draft = KeyDraft(name=document.name, scopes=document.scopes, expires_at=document.expires_at)
    async with desk.transaction() as session:
        new = await issued_keys.issue_key(session, desk.actor, slug, draft)
    _announce(response, slug, new.key)
    return IssuedKeyPayload.of_new(new)


@router.get("", operation_id="list_keys", responses=declare(*ALWAYS, TenantNotFound))
async def list_keys(slug: str, page: PageQuery, desk: OperatorDesk) -> Listing[KeyPayload]:
    """List a tenant's keys, oldest first, expired and revoked ones among them."""
    async with desk.transaction() as session:
        return Listing.of(await issued_keys.list_keys(session, slug, page.limit, page.cursor), KeyPayload.of)


@router.get("/{key_id}", operation_id="get_key", responses=SHOWN | declare(*ALWAYS, TenantNotFound, KeyNotFound))
async def get_key(slug: str, key_id: str, desk: OperatorDesk, response: Response) -> KeyPayload:
    """Get one key."""
    async with desk.transaction() as session:
        key = await issued_keys.get_key(session, slug, key_id)
    response.headers["ETag"] = etag_of(key)
    return KeyPayload.of(key)


@router.delete(
    "/{key_id}", status_code=204, operation_id="revoke_key", responses=declare(*ALWAYS, TenantNotFound, KeyNotFound, EtagMismatch)
)
async def revoke_key(
    slug: str, key_id: str, desk: OperatorDesk, if_match: IfMatch = None, running_uploads: WhatRuns = RunningUploads.FINISH
) -> None:
    """Revoke a key at once; it stays in the listing."""
    async with desk.transaction() as session:
        await issued_keys.revoke_key(session, desk.actor, slug, key_id, if_match, running_uploads)


@router.post(
    "/{key_id}/rotate",
    status_code=201,
    operation_id="rotate_key",
    responses=MADE | declare(*WITH_DOCUMENT, TenantNotFound, KeyNotFound),
)
async def rotate_key(
    slug: str,
    key_id: str,
    desk: OperatorDesk,
    response: Response,
    document: RotationDocument | None = None,
) -> RotatedKeyPayload:
    """Issue a key in place of this one, which goes on working for the overlap."""
    overlap = timedelta(seconds=(document or RotationDocument()).overlap_seconds)
    async with desk.transaction() as session:
        new = await issued_keys.rotate_key(session, desk.actor, slug, key_id, overlap)
    _announce(response, slug, new.key)
    return RotatedKeyPayload.of_new(new)


def _announce(response: Response, slug: str, key: Key) -> None:
    response.headers["Location"] = f"{ADMIN_PREFIX}/tenants/{slug}/keys/{key.id}"
    response.headers["ETag"] = etag_of(key)
    response.headers["Cache-Control"] = "no-store"


def _members(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": tuple(scope.value for scope in ALL_SCOPES if scope in key.scopes),
        "status": key.status(datetime.now(UTC)),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
    }
