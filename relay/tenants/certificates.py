"""Certificates in the configuration of all tenants' destinations, and how long they are good: for the doctor."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from relay.destinations.http_config import HttpConfig
from relay.destinations.members import parse_members
from relay.destinations.rows import DestinationRow
from relay.errors import RequestInvalid
from relay.protocols.certificates import parse_certificates
from relay.tenants.resealing import Place
from relay.tenants.rows import TenantRow

BATCH = 100


@dataclass(frozen=True, slots=True)
class Term:
    """How long a destination's certificates are good: the first of what it shows, the last of what it trusts."""

    place: Place
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """Some of them. ``last`` is where the next batch goes on, ``None`` at the end."""

    terms: tuple[Term, ...]
    last: UUID | None


async def survey_some(session: AsyncSession, after: UUID | None) -> Batch:
    """Look at up to ``BATCH`` destinations with TLS settings of their own, those after this id. A broken configuration is left out."""
    query = select(DestinationRow, TenantRow.slug).join(TenantRow, TenantRow.id == DestinationRow.tenant_id)
    query = query.where(DestinationRow.kind == "http", DestinationRow.config.has_key("tls")).order_by(DestinationRow.id).limit(BATCH)
    rows = (await session.execute(query if after is None else query.where(DestinationRow.id > after))).all()
    terms = []
    for row, slug in rows:
        try:
            ends = list(_ends(parse_members(HttpConfig, row.config, "config")))
        except RequestInvalid:
            continue
        if ends:
            terms.append(Term(Place(slug, row.name), min(ends)))
    return Batch(tuple(terms), rows[-1][0].id if len(rows) == BATCH else None)


def _ends(config: HttpConfig) -> Iterator[datetime]:
    if config.tls is not None and config.tls.client_certificate is not None:
        yield parse_certificates(config.tls.client_certificate).chain_ends_at
    if config.tls is not None and config.tls.ca is not None:
        yield parse_certificates(config.tls.ca).last_ends_at
