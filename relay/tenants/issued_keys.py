"""The keys of a tenant: issue, list, get, rotate, revoke. See ``registry`` for what holds for all of these.

A key's text exists in the answer to issue and rotate and nowhere else. Deliberately not here: deletion. A revoked
key stays, so that its id in the ledger keeps its meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.cursors import Page, check_limit, decode_cursor, decode_time, encode_cursor, split_page
from relay.db.etags import check_if_match, make_etag
from relay.errors import FieldError, KeyNotFound, RequestInvalid
from relay.ledger.audit import Act, Actor, record
from relay.tenants.cuts import KEY_ACTION, Cut, RunningUploads, ask_for_cut, note_of
from relay.tenants.keys import issue_key as make_key
from relay.tenants.registry import NAME_LONGEST, get_tenant, is_name, lock_tenant
from relay.tenants.rows import ApiKeyRow
from relay.tenants.tenant import Key, Scope

_OVERLAP_LONGEST = timedelta(days=366)
ALL_SCOPES = (Scope.UPLOAD, Scope.READ)


@dataclass(frozen=True, slots=True)
class KeyDraft:
    """A key that is to be issued. ``expires_at`` has a time zone."""

    name: str | None = None
    scopes: Sequence[str] = ALL_SCOPES
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just issued; ``text`` is shown once. ``replaces`` is the id of the key it was rotated from."""

    key: Key
    text: str = field(repr=False)
    replaces: str | None = None


def etag_of(key: Key) -> str:
    """Make the entity tag of a key; it changes when the key expires, as what is shown of it does.

    ``last_used_at`` is left out, though it is shown: an operator cannot change it, and a tag that changed whenever
    somebody uses the key would make every If-Match fail while it is in use. Nothing else is done with tags here: no
    answer is ever replaced by a 304.
    """
    return make_etag(key.id, key.expires_at, key.revoked_at, key.status(datetime.now(UTC)))


def show(key: Key) -> dict[str, Any]:
    """Show a key as the audit keeps it."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": [str(scope) for scope in ALL_SCOPES if scope in key.scopes],
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }


async def issue_key(session: AsyncSession, actor: Actor, slug: str, draft: KeyDraft) -> NewKey:
    """Issue a key.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RequestInvalid: a member is wrong.
    """
    _check_draft(draft)
    tenant = await lock_tenant(session, slug)
    new = await _make(session, tenant.id, draft)
    record(session, actor, Act("key.issue", slug, new.key.id, after=show(new.key)))
    return new


async def list_keys(session: AsyncSession, slug: str, limit: int, cursor: str | None) -> Page[Key]:
    """List a tenant's keys, oldest first; expired and revoked ones are among them.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RequestInvalid: the limit is out of range or the cursor broken.
    """
    check_limit(limit)
    tenant = await get_tenant(session, slug)
    query = select(ApiKeyRow).where(ApiKeyRow.tenant_id == tenant.id).order_by(ApiKeyRow.created_at, ApiKeyRow.id).limit(limit + 1)
    if cursor is not None:
        at, key_id = decode_cursor(cursor, 2)
        query = query.where(tuple_(ApiKeyRow.created_at, ApiKeyRow.id) > (decode_time(at), key_id))
    rows, is_more = split_page((await session.scalars(query)).all(), limit)
    last = rows[-1] if is_more else None
    return Page(tuple(read_key(row) for row in rows), encode_cursor(last.created_at.isoformat(), last.id) if last else None)


async def get_key(session: AsyncSession, slug: str, key_id: str) -> Key:
    """Get one key.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        KeyNotFound: the tenant has no key of this id.
    """
    tenant = await get_tenant(session, slug)
    return read_key(await _get_row(session, tenant.id, key_id))


async def rotate_key(session: AsyncSession, actor: Actor, slug: str, key_id: str, overlap: timedelta = timedelta(hours=1)) -> NewKey:
    """Issue a key with the name, scopes and expiry of this one, which goes on working for the overlap.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        KeyNotFound: the tenant has no key of this id.
        RequestInvalid: the overlap is out of range, or the key has stopped working.
    """
    if not timedelta() <= overlap <= _OVERLAP_LONGEST:
        message = f"Use 0 to {int(_OVERLAP_LONGEST.total_seconds())} seconds."
        raise RequestInvalid(errors=[FieldError(("body", "overlap_seconds"), "overlap_invalid", message)])
    tenant = await lock_tenant(session, slug)
    row = await _get_row(session, tenant.id, key_id, is_locked=True)
    before = read_key(row)
    now = datetime.now(UTC)
    if before.status(now) != "active":
        message = "An expired or revoked key cannot be rotated. Issue a new one."
        raise RequestInvalid(message, errors=[FieldError(("path", "key_id"), "key_not_active", message)])
    draft = KeyDraft(before.name, tuple(before.scopes), before.expires_at)
    issued = await _make(session, tenant.id, draft)
    row.expires_at = min(now + overlap, before.expires_at or datetime.max.replace(tzinfo=UTC))
    await session.flush()
    after = show(read_key(row)) | {"replaced_by": show(issued.key)}
    record(session, actor, Act("key.rotate", slug, key_id, show(before), after))
    return NewKey(issued.key, issued.text, key_id)


async def revoke_key(
    session: AsyncSession,
    actor: Actor,
    slug: str,
    key_id: str,
    if_match: str | None = None,
    running_uploads: RunningUploads = RunningUploads.FINISH,
) -> Key:
    """Revoke a key at once; a key that is revoked already stays as it is. Its uploads finish, or are cut on every host.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        KeyNotFound: the tenant has no key of this id.
        EtagMismatch: it changed since the caller read it.
    """
    tenant = await get_tenant(session, slug)
    row = await _get_row(session, tenant.id, key_id, is_locked=True)
    before = read_key(row)
    check_if_match(etag_of(before), if_match)
    is_cutting = running_uploads is RunningUploads.CUT
    if before.revoked_at is not None and not is_cutting:
        return before
    if before.revoked_at is None:
        row.revoked_at = func.clock_timestamp()
        await session.flush()
        await session.refresh(row)
    after = read_key(row)
    record(session, actor, Act(KEY_ACTION, slug, key_id, show(before), show(after) | note_of(running_uploads)))
    if is_cutting:
        await ask_for_cut(session, Cut(slug, key_id))
    return after


def read_key(row: ApiKeyRow) -> Key:
    """Make the frozen value of a row."""
    return Key(
        id=row.id,
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in row.scopes if scope in set(Scope)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


async def _make(session: AsyncSession, tenant_id: UUID, draft: KeyDraft) -> NewKey:
    made = make_key()
    row = ApiKeyRow(
        id=made.id,
        tenant_id=tenant_id,
        name=draft.name,
        secret_hash=made.secret_hash,
        scopes=[str(scope) for scope in ALL_SCOPES if scope in draft.scopes],
        expires_at=draft.expires_at,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return NewKey(read_key(row), made.text)


async def _get_row(session: AsyncSession, tenant_id: UUID, key_id: str, *, is_locked: bool = False) -> ApiKeyRow:
    query = select(ApiKeyRow).where(ApiKeyRow.tenant_id == tenant_id, ApiKeyRow.id == key_id)
    if is_locked:
        query = query.with_for_update().execution_options(populate_existing=True)
    row = await session.scalar(query) if key_id.isascii() and key_id.isalnum() else None
    if row is None:
        raise KeyNotFound
    return row


def _check_draft(draft: KeyDraft) -> None:
    errors = []
    if draft.name is not None and not is_name(draft.name):
        errors.append(FieldError(("body", "name"), "name_invalid", f"Use 1 to {NAME_LONGEST} printable characters, or null."))
    if not draft.scopes or not set(draft.scopes) <= set(Scope) or len(set(draft.scopes)) < len(draft.scopes):
        errors.append(FieldError(("body", "scopes"), "scopes_invalid", f"Use one or more of: {', '.join(Scope)}, each once."))
    if draft.expires_at is not None and (draft.expires_at.tzinfo is None or draft.expires_at <= datetime.now(UTC)):
        errors.append(FieldError(("body", "expires_at"), "expires_at_invalid", "Use a time in the future, with its time zone."))
    if errors:
        raise RequestInvalid(errors=errors)
