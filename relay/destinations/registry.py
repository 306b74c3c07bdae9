"""Destinations as their owners configure them: create, list, get, change, delete.

Everything here names the tenant by ``Owner`` and trusts that it exists: ``tenants/owned_destinations`` finds the
tenant, keeps its default destination, and is what REST and CLI call. Credentials enter as JSON, are sealed before
they reach a row, and never come out again but sealed. Every change writes its audit row in the same transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from relay.db.cursors import Page, check_limit, decode_cursor, encode_cursor, split_page
from relay.db.etags import check_if_match, make_etag
from relay.destinations.destination import DestinationSpec
from relay.destinations.kinds import name_secrets, order_config, parse_config, parse_secrets
from relay.destinations.rows import DestinationRow
from relay.destinations.sealing import Sealer
from relay.errors import DestinationExists, DestinationInUse, DestinationNotFound, FieldError, RequestInvalid
from relay.ledger.audit import Act, Actor, record

_NAME_LONGEST = 100


@dataclass(frozen=True, slots=True)
class Owner:
    """The tenant that a destination belongs to."""

    id: UUID
    slug: str


@dataclass(frozen=True, slots=True)
class DestinationDraft:
    """A destination that is to be made. ``config`` and ``secrets`` are JSON as the owner sent it."""

    name: str
    kind: str
    config: Mapping[str, Any]
    secrets: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class DestinationChange:
    """A change of one destination: ``config`` and ``secrets`` as merge patch (RFC 7396), if it is still as ``if_match`` says.

    A ``secrets`` of ``None`` inside ``members`` removes every credential; an absent one keeps them all.
    """

    members: Mapping[str, Any] = field(repr=False)
    if_match: str | None = None


def etag_of(spec: DestinationSpec) -> str:
    """Make the entity tag of a destination."""
    return make_etag(spec.id, spec.version.isoformat())


def show(spec: DestinationSpec) -> dict[str, Any]:
    """Show a destination as the audit keeps it: names of credentials, never their values."""
    return {"name": spec.name, "kind": spec.kind, "config": dict(spec.config), "secret_names": list(spec.secret_names)}


def read_spec(row: DestinationRow, owner: Owner) -> DestinationSpec:
    """Make the frozen value of a row."""
    return DestinationSpec(
        id=row.id,
        tenant=owner.slug,
        name=row.name,
        kind=row.kind,
        config=order_config(row.kind, row.config),
        sealed=row.sealed,
        secret_names=tuple(row.secret_names),
        created_at=row.created_at,
        version=row.updated_at,
    )


async def create_destination(session: AsyncSession, actor: Actor, sealer: Sealer, owner: Owner, draft: DestinationDraft) -> DestinationSpec:
    """Make a destination.

    Raises:
        RequestInvalid: a member is wrong, or credentials are given and RELAY_SECRET_KEY is not set.
        DestinationExists: the tenant has one of this name.
    """
    _check_name(draft.name)
    config = parse_config(draft.kind, draft.config)
    secrets = parse_secrets(draft.kind, draft.secrets or {})
    names = name_secrets(draft.kind, secrets)
    config.check_beside(names, lambda: secrets)
    identity = uuid7()
    row = DestinationRow(
        id=identity,
        tenant_id=owner.id,
        name=draft.name,
        kind=draft.kind,
        config=config.model_dump(mode="json"),
        sealed=sealer.seal(secrets, identity=identity) if secrets else None,
        secret_names=names,
    )
    try:
        async with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        if "uq_destinations" in str(error.orig):
            raise DestinationExists from None
        raise
    await session.refresh(row)
    spec = read_spec(row, owner)
    record(session, actor, Act("destination.create", owner.slug, spec.name, after=show(spec)))
    return spec


async def list_destinations(session: AsyncSession, owner: Owner, limit: int, cursor: str | None) -> Page[DestinationSpec]:
    """List a tenant's destinations by name.

    Raises:
        RequestInvalid: the limit is out of range or the cursor broken.
    """
    check_limit(limit)
    query = select(DestinationRow).where(DestinationRow.tenant_id == owner.id)
    # Byte order, as cursors compare: the database's own collation may differ from host to host.
    name = DestinationRow.name.collate("C")
    if cursor is not None:
        query = query.where(name > decode_cursor(cursor, 1)[0])
    rows, is_more = split_page((await session.scalars(query.order_by(name).limit(limit + 1))).all(), limit)
    return Page(tuple(read_spec(row, owner) for row in rows), encode_cursor(rows[-1].name) if is_more else None)


async def get_destination(session: AsyncSession, owner: Owner, name: str) -> DestinationSpec:
    """Get one destination.

    Raises:
        DestinationNotFound: the tenant has none of this name.
    """
    return read_spec(await _get_row(session, owner, name), owner)


async def find_destination(session: AsyncSession, owner: Owner, identity: UUID) -> DestinationSpec | None:
    """One destination by its id, whatever its name is by now; ``None`` when the tenant has it no more."""
    row = await session.scalar(select(DestinationRow).where(DestinationRow.tenant_id == owner.id, DestinationRow.id == identity))
    return read_spec(row, owner) if row is not None else None


async def change_destination(
    session: AsyncSession, actor: Actor, sealer: Sealer, before: DestinationSpec, change: DestinationChange
) -> DestinationSpec:
    """Change config and credentials of the destination that ``get_destination`` gave.

    Raises:
        DestinationNotFound: it is gone.
        EtagMismatch: it changed since the caller read it.
        RequestInvalid: a member is wrong, or credentials are given and RELAY_SECRET_KEY is not set.
        DestinationMisconfigured: credentials are to be kept that cannot be opened any more.
    """
    _check_members(change.members)
    row = await session.scalar(
        select(DestinationRow).where(DestinationRow.id == before.id).with_for_update().execution_options(populate_existing=True)
    )
    if row is None:
        raise DestinationNotFound
    owner = Owner(row.tenant_id, before.tenant)
    before = read_spec(row, owner)
    check_if_match(etag_of(before), change.if_match)
    config = parse_config(row.kind, merge_patch(row.config, change.members.get("config", {})))
    row.config = config.model_dump(mode="json")
    if "secrets" in change.members:
        _change_secrets(row, sealer, change.members["secrets"])
    config.check_beside(row.secret_names, lambda: _open_secrets(row, sealer))
    await stamp(session, row)
    after = read_spec(row, owner)
    record(session, actor, Act("destination.change", owner.slug, after.name, show(before), show(after)))
    return after


async def delete_destination(session: AsyncSession, actor: Actor, owner: Owner, name: str, if_match: str | None = None) -> None:
    """Delete a destination; a tenant whose default it was has none afterwards.

    Raises:
        DestinationNotFound: the tenant has none of this name.
        DestinationInUse: a route leads to it.
        EtagMismatch: it changed since the caller read it.
    """
    row = await _get_row(session, owner, name, is_locked=True)
    before = read_spec(row, owner)
    check_if_match(etag_of(before), if_match)
    try:
        async with session.begin_nested():
            await session.delete(row)
    except IntegrityError as error:
        if "fk_routes" in str(error.orig):
            raise DestinationInUse from None
        raise
    record(session, actor, Act("destination.delete", owner.slug, name, before=show(before)))


def merge_patch(target: object, patch: object) -> Any:
    """Apply a JSON merge patch (RFC 7396, "Processing Merge Patch Documents")."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


async def stamp(session: AsyncSession, row: Any) -> None:
    """Give a locked row a time of change later than the one it has, and read it back.

    The clock alone would not do: it may be set back, and two changes may share its microsecond.
    """
    kind = type(row)
    row.updated_at = func.greatest(func.clock_timestamp(), kind.updated_at + text("interval '1 microsecond'"))
    await session.flush()
    await session.refresh(row)


def _open_secrets(row: DestinationRow, sealer: Sealer) -> Mapping[str, Any]:
    return sealer.open(row.sealed, identity=row.id) if row.sealed is not None else {}


def _change_secrets(row: DestinationRow, sealer: Sealer, patch: Mapping[str, Any] | None) -> None:
    secrets = parse_secrets(row.kind, merge_patch(_open_secrets(row, sealer), patch) if patch is not None else {})
    row.sealed = sealer.seal(secrets, identity=row.id) if secrets else None
    row.secret_names = name_secrets(row.kind, secrets)


async def _get_row(session: AsyncSession, owner: Owner, name: str, *, is_locked: bool = False) -> DestinationRow:
    query = select(DestinationRow).where(DestinationRow.tenant_id == owner.id, DestinationRow.name == name)
    if is_locked:
        query = query.with_for_update().execution_options(populate_existing=True)
    row = await session.scalar(query) if is_destination_name(name) else None
    if row is None:
        raise DestinationNotFound
    return row


def is_destination_name(name: object) -> bool:
    """True for text that may be the name of a destination."""
    return isinstance(name, str) and 0 < len(name) <= _NAME_LONGEST and name.isprintable() and "/" not in name


def _check_name(name: str) -> None:
    if not is_destination_name(name) or name in {".", ".."} or name != name.strip():
        error = FieldError(("body", "name"), "name_invalid", f"Use 1 to {_NAME_LONGEST} printable characters without slashes.")
        raise RequestInvalid(errors=[error])


def _check_members(members: Mapping[str, Any]) -> None:
    errors = [
        FieldError(("body", name), "member_unknown", "Only config and secrets can be changed.")
        for name in members
        if name not in {"config", "secrets"}
    ]
    if not isinstance(members.get("config", {}), Mapping):
        errors.append(FieldError(("body", "config"), "object_required", "Send an object."))
    if not isinstance(members.get("secrets") or {}, Mapping):
        errors.append(FieldError(("body", "secrets"), "object_required", "Send an object or null."))
    if errors:
        raise RequestInvalid(errors=errors)
