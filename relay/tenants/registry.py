"""Tenants: create, list, get, change, delete. REST and CLI both call this; neither touches a row.

Every function takes an open session and leaves the commit to its caller; every change writes its audit row into the
same transaction. Deletion is soft: the slug stays taken for ever, keys stop, the ledger stays, and every function
here and in ``issued_keys``, ``routing`` and ``owned_destinations`` answers as if the tenant had never been.
Changed rows are locked before their entity tag is compared. Who is told of a change: the triggers on the tables.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from relay.db.cursors import Page, check_limit, decode_cursor, encode_cursor, split_page
from relay.db.etags import check_if_match, make_etag
from relay.destinations.registry import is_destination_name, merge_patch, stamp
from relay.destinations.rows import DestinationRow
from relay.errors import FieldError, RequestInvalid, TenantExists, TenantNotFound
from relay.ledger.audit import Act, Actor, record
from relay.tenants.cuts import Cut, RunningUploads, ask_for_cut, note_of
from relay.tenants.rows import TenantRow
from relay.tenants.tenant import Limits, Tenant, TenantStatus

NAME_LONGEST = 200
_CONTENT_TYPES_MOST = 100
_BYTES_MOST = 2**63 - 1
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MEDIA_TOKEN = r"[A-Za-z0-9!#$&^_.+-]{1,127}"  # noqa: S105 - the grammar of a media type, no password
_CONTENT_TYPE = re.compile(rf"(?:\*/\*|{_MEDIA_TOKEN}/(?:\*|{_MEDIA_TOKEN}))")


@dataclass(frozen=True, slots=True)
class TenantDraft:
    """A tenant that is to be made."""

    slug: str
    name: str | None = None
    limits: Limits = field(default_factory=Limits)
    content_types: tuple[str, ...] = ()
    default_destination: str | None = None


def etag_of(tenant: Tenant) -> str:
    """Make the entity tag of a tenant."""
    return make_etag(tenant.id, tenant.updated_at.isoformat(), tenant.default_destination)


def show(tenant: Tenant) -> dict[str, Any]:
    """Show a tenant as the audit keeps it."""
    return {
        "slug": tenant.slug,
        "name": tenant.name,
        "status": str(tenant.status),
        "limits": {"max_upload_bytes": tenant.limits.max_upload_bytes},
        "content_types": list(tenant.content_types),
        "default_destination": tenant.default_destination,
    }


async def create_tenant(session: AsyncSession, actor: Actor, draft: TenantDraft) -> Tenant:
    """Make a tenant.

    Raises:
        RequestInvalid: a member is wrong.
        TenantExists: the slug is taken, perhaps by a deleted tenant.
    """
    _check_draft(draft)
    row = TenantRow(
        id=uuid7(),
        slug=draft.slug,
        name=draft.name,
        limits=_limits_as_json(draft.limits),
        content_types=list(draft.content_types),
    )
    try:
        async with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        if "uq_tenants" in str(error.orig):
            raise TenantExists from None
        raise
    await session.refresh(row)
    tenant = read_tenant(row, None)
    record(session, actor, Act("tenant.create", tenant.slug, tenant.slug, after=show(tenant)))
    return tenant


async def list_tenants(session: AsyncSession, limit: int, cursor: str | None) -> Page[Tenant]:
    """List tenants by slug.

    Raises:
        RequestInvalid: the limit is out of range or the cursor broken.
    """
    check_limit(limit)
    # Byte order, as cursors compare: the database's own collation may differ from host to host.
    slug = TenantRow.slug.collate("C")
    query = _query().order_by(slug).limit(limit + 1)
    if cursor is not None:
        query = query.where(slug > decode_cursor(cursor, 1)[0])
    rows, is_more = split_page((await session.execute(query)).all(), limit)
    tenants = tuple(read_tenant(row, default) for row, default in rows)
    return Page(tenants, encode_cursor(tenants[-1].slug) if is_more else None)


async def get_tenant(session: AsyncSession, slug: str) -> Tenant:
    """Get one tenant.

    Raises:
        TenantNotFound: there is none of this slug, or it was deleted.
    """
    found = (await session.execute(_query().where(TenantRow.slug == slug))).one_or_none() if _SLUG.fullmatch(slug) else None
    if found is None:
        raise TenantNotFound
    return read_tenant(found[0], found[1])


async def lock_tenant(session: AsyncSession, slug: str) -> TenantRow:
    """Lock the row of one tenant until the transaction ends.

    Raises:
        TenantNotFound: there is none of this slug, or it was deleted.
    """
    query = select(TenantRow).where(TenantRow.slug == slug, TenantRow.deleted_at.is_(None))
    query = query.with_for_update().execution_options(populate_existing=True)
    row = await session.scalar(query) if _SLUG.fullmatch(slug) else None
    if row is None:
        raise TenantNotFound
    return row


async def change_tenant(
    session: AsyncSession,
    actor: Actor,
    slug: str,
    changes: Mapping[str, Any],
    if_match: str | None = None,
    running_uploads: RunningUploads = RunningUploads.FINISH,
) -> Tenant:
    """Change members of a tenant: ``name status limits content_types default_destination``, as merge patch.

    Members that ``changes`` does not name stay as they are; ``None`` puts a member back to its default. Uploads that run
    finish; those of a tenant that is disabled may be cut on every host.

    Raises:
        TenantNotFound: there is none of this slug.
        EtagMismatch: it changed since the caller read it.
        RequestInvalid: a member is wrong or cannot be changed.
    """
    is_cutting = running_uploads is RunningUploads.CUT
    if is_cutting and changes.get("status") != TenantStatus.DISABLED:
        message = 'Only the uploads of a tenant that this very change disables can be cut: send "status": "disabled".'
        raise RequestInvalid(errors=[FieldError(("query", "running_uploads"), "running_uploads_invalid", message)])
    row = await lock_tenant(session, slug)
    before = read_tenant(row, await _default_of(session, row))
    check_if_match(etag_of(before), if_match)
    wanted = _apply(before, changes)
    row.name = wanted.name
    row.status = wanted.status
    row.limits = _limits_as_json(wanted.limits)
    row.content_types = list(wanted.content_types)
    if wanted.default_destination != before.default_destination:
        row.default_destination_id = await _find_default(session, row, wanted.default_destination)
    await stamp(session, row)
    after = read_tenant(row, wanted.default_destination)
    record(session, actor, Act("tenant.change", slug, slug, show(before), show(after) | note_of(running_uploads)))
    if is_cutting:
        await ask_for_cut(session, Cut(slug))
    return after


async def delete_tenant(
    session: AsyncSession,
    actor: Actor,
    slug: str,
    if_match: str | None = None,
    running_uploads: RunningUploads = RunningUploads.FINISH,
) -> None:
    """Delete a tenant for good: its keys stop, its slug stays taken, its entries stay in the ledger.

    Uploads that run finish, or are cut on every host.

    Raises:
        TenantNotFound: there is none of this slug.
        EtagMismatch: it changed since the caller read it.
    """
    row = await lock_tenant(session, slug)
    before = read_tenant(row, await _default_of(session, row))
    check_if_match(etag_of(before), if_match)
    row.deleted_at = func.clock_timestamp()
    await stamp(session, row)
    record(session, actor, Act("tenant.delete", slug, slug, show(before), note_of(running_uploads) or None))
    if running_uploads is RunningUploads.CUT:
        await ask_for_cut(session, Cut(slug))


def read_tenant(row: TenantRow, default_destination: str | None) -> Tenant:
    """Make the frozen value of a row and the name of its default destination."""
    return Tenant(
        id=row.id,
        slug=row.slug,
        name=row.name,
        status=TenantStatus(row.status),
        limits=Limits(max_upload_bytes=row.limits.get("max_upload_bytes")),
        content_types=tuple(row.content_types),
        default_destination=default_destination,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _query() -> Any:
    query = select(TenantRow, DestinationRow.name).outerjoin(DestinationRow, DestinationRow.id == TenantRow.default_destination_id)
    return query.where(TenantRow.deleted_at.is_(None))


async def _default_of(session: AsyncSession, row: TenantRow) -> str | None:
    if row.default_destination_id is None:
        return None
    return await session.scalar(select(DestinationRow.name).where(DestinationRow.id == row.default_destination_id))


async def _find_default(session: AsyncSession, row: TenantRow, name: str | None) -> Any:
    if name is None:
        return None
    # Locked against deletion: the foreign key must still hold at the end of this transaction.
    query = select(DestinationRow.id).where(DestinationRow.tenant_id == row.id, DestinationRow.name == name)
    found = await session.scalar(query.with_for_update(key_share=True))
    if found is None:
        raise RequestInvalid(errors=[_no_destination("default_destination")])
    return found


def _no_destination(member: str) -> FieldError:
    return FieldError(("body", member), "destination_not_found", "Name one of the tenant's destinations.")


def _limits_as_json(limits: Limits) -> dict[str, Any]:
    return {"max_upload_bytes": limits.max_upload_bytes} if limits.max_upload_bytes is not None else {}


# ── what a tenant may be ─────────────────────────────────────────────────────────────────────────


def _check_draft(draft: TenantDraft) -> None:
    errors = [*_name_errors(draft.name), *_limit_errors(draft.limits), *_content_type_errors(draft.content_types)]
    if not _SLUG.fullmatch(draft.slug):
        message = "Use 1 to 63 of a-z, 0-9 and hyphens, with no hyphen at either end."
        errors.insert(0, FieldError(("body", "slug"), "slug_invalid", message))
    if draft.default_destination is not None:
        errors.append(_no_destination("default_destination"))
    if errors:
        raise RequestInvalid(errors=errors)


def _apply(tenant: Tenant, changes: Mapping[str, Any]) -> Tenant:
    """Make the tenant as the changes want it; everything wrong with them becomes one ``RequestInvalid``."""
    errors: list[FieldError] = []
    for member, value in changes.items():
        change = _CHANGES.get(member)
        if change is None:
            errors.append(FieldError(("body", member), "member_unknown", f"These can be changed: {', '.join(_CHANGES)}."))
            continue
        tenant = change(tenant, value, errors)
    if errors:
        raise RequestInvalid(errors=errors)
    return tenant


def _change_name(tenant: Tenant, value: Any, errors: list[FieldError]) -> Tenant:
    errors.extend(_name_errors(value))
    return replace(tenant, name=value)


def _change_status(tenant: Tenant, value: Any, errors: list[FieldError]) -> Tenant:
    try:
        return replace(tenant, status=TenantStatus(value))
    except ValueError:
        errors.append(FieldError(("body", "status"), "status_invalid", f"Use one of: {', '.join(TenantStatus)}."))
        return tenant


def _change_limits(tenant: Tenant, value: Any, errors: list[FieldError]) -> Tenant:
    if not isinstance(value, Limits):
        merged = merge_patch({"max_upload_bytes": tenant.limits.max_upload_bytes}, value or {})
        unknown = set(merged) - {"max_upload_bytes"} if isinstance(merged, dict) else {""}
        if unknown:
            errors.append(FieldError(("body", "limits"), "limits_invalid", "Send an object whose only member is max_upload_bytes."))
            return tenant
        value = Limits(**merged) if value is not None else Limits()
    errors.extend(_limit_errors(value))
    return replace(tenant, limits=value)


def _change_content_types(tenant: Tenant, value: Any, errors: list[FieldError]) -> Tenant:
    errors.extend(_content_type_errors(value or ()))
    return tenant if errors else replace(tenant, content_types=tuple(value or ()))


def _change_default_destination(tenant: Tenant, value: Any, errors: list[FieldError]) -> Tenant:
    if value is not None and not is_destination_name(value):
        errors.append(_no_destination("default_destination"))
    return replace(tenant, default_destination=value)


_CHANGES: Mapping[str, Callable[[Tenant, Any, list[FieldError]], Tenant]] = {
    "name": _change_name,
    "status": _change_status,
    "limits": _change_limits,
    "content_types": _change_content_types,
    "default_destination": _change_default_destination,
}


def _name_errors(name: object) -> list[FieldError]:
    if name is None or is_name(name):
        return []
    return [FieldError(("body", "name"), "name_invalid", f"Use 1 to {NAME_LONGEST} printable characters, or null.")]


def is_name(name: object) -> bool:
    """True for text that may stand as the name of a tenant or key."""
    return isinstance(name, str) and 0 < len(name) <= NAME_LONGEST and name.isprintable()


def _limit_errors(limits: Limits) -> list[FieldError]:
    most: object = limits.max_upload_bytes  # callers that read JSON may have put anything here
    if most is None or (isinstance(most, int) and not isinstance(most, bool) and 1 <= most <= _BYTES_MOST):
        return []
    return [FieldError(("body", "limits", "max_upload_bytes"), "limit_invalid", f"Use 1 to {_BYTES_MOST} bytes, or null.")]


def _content_type_errors(patterns: object) -> list[FieldError]:
    if not isinstance(patterns, list | tuple) or len(patterns) > _CONTENT_TYPES_MOST:
        return [FieldError(("body", "content_types"), "content_types_invalid", f"Send a list of at most {_CONTENT_TYPES_MOST} patterns.")]
    return [
        FieldError(("body", "content_types", index), "content_type_invalid", "Use a type such as text/plain or image/*.")
        for index, pattern in enumerate(patterns)
        if not (isinstance(pattern, str) and _CONTENT_TYPE.fullmatch(pattern))
    ]
