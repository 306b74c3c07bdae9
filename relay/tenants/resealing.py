"""Credentials of all tenants under the first key of RELAY_SECRET_KEY: the end of a key's rotation, and how far it is.

A rotation is: put the new key in front of the old one on every host, restart, seal anew, take the old key away.
What stays true: a credential is sealed anew only after it was opened; what cannot be opened is left as it is and
told; neither plain nor sealed text leaves this module. A destination's ETag stays: nothing that an operator sees
has changed.
"""

from collections import Counter
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from relay.destinations.rows import DestinationRow
from relay.destinations.sealing import Sealer, find_key_id
from relay.errors import DestinationMisconfigured, RequestInvalid
from relay.ledger.audit import Act, Actor, record
from relay.tenants.rows import TenantRow

BATCH = 100
UNREADABLE = "?"
"""Stands for the key id of what is damaged."""


@dataclass(frozen=True, slots=True)
class Place:
    """A destination, by the names that its operator knows."""

    tenant: str
    destination: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction did. ``last`` is where the next one goes on, ``None`` at the end."""

    resealed: int
    current: int
    unopened: tuple[Place, ...]
    last: UUID | None


@dataclass(frozen=True, slots=True)
class Survey:
    """How many credentials each key id seals, and which do not open here."""

    sealed_by: Counter[str]
    unopened: tuple[Place, ...]
    last: UUID | None


async def reseal_some(session: AsyncSession, actor: Actor, sealer: Sealer, after: UUID | None) -> Batch:
    """Seal up to ``BATCH`` destinations anew, those after this id; the rows are locked until the transaction ends.

    Raises:
        RequestInvalid: no key is set.
    """
    if sealer.key_id is None:
        raise RequestInvalid("Set RELAY_SECRET_KEY, the new key in front of those of before: there is no key to seal with.")
    rows = (await session.execute(_sealed_after(after).with_for_update(of=DestinationRow))).all()
    resealed, unopened = 0, []
    for row, slug in rows:
        key_id = find_key_id(row.sealed)
        if key_id == sealer.key_id:
            continue
        try:
            row.sealed = sealer.seal(sealer.open(row.sealed or b"", identity=row.id), identity=row.id)
        except DestinationMisconfigured:
            unopened.append(Place(slug, row.name))
            continue
        act = Act("destination.reseal", slug, row.name, {"sealed_by": key_id}, {"sealed_by": sealer.key_id})
        record(session, actor, act)
        resealed += 1
    current = len(rows) - resealed - len(unopened)
    return Batch(resealed, current, tuple(unopened), rows[-1][0].id if len(rows) == BATCH else None)


async def survey_some(session: AsyncSession, sealer: Sealer, after: UUID | None) -> Survey:
    """Look at up to ``BATCH`` destinations after this id and change nothing."""
    rows = (await session.execute(_sealed_after(after))).all()
    unopened = []
    for row, slug in rows:
        try:
            sealer.open(row.sealed or b"", identity=row.id)
        except DestinationMisconfigured:
            unopened.append(Place(slug, row.name))
    sealed_by = Counter(find_key_id(row.sealed) or UNREADABLE for row, _ in rows)
    return Survey(sealed_by, tuple(unopened), rows[-1][0].id if len(rows) == BATCH else None)


def _sealed_after(after: UUID | None) -> Select[DestinationRow, str]:
    query = select(DestinationRow, TenantRow.slug).join(TenantRow, TenantRow.id == DestinationRow.tenant_id)
    query = query.where(DestinationRow.sealed.is_not(None)).order_by(DestinationRow.id).limit(BATCH)
    return query if after is None else query.where(DestinationRow.id > after)
