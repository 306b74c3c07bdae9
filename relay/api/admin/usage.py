"""``/admin/v1/usage``: what each tenant sent, a day a line."""

import re
from datetime import date
from typing import Annotated, Any, Self

from fastapi import Query
from pydantic import BeforeValidator, ConfigDict, Field

from relay.api.admin.operators import ALWAYS, OperatorDesk, operator_router
from relay.api.admin.payloads import Listing, PageParameters, Payload
from relay.api.openapi import declare
from relay.errors import SearchTooSlow
from relay.ledger.usage import Usage, UsageFilter, list_usage

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EXAMPLE: dict[str, Any] = {
    "tenant": "acme",
    "day": "2026-01-31",
    "uploads": 1_204,
    "delivered": 1_190,
    "rejected": 3,
    "refused": 9,
    "failed": 2,
    "bytes_in": 734_003_200,
    "bytes_delivered": 731_906_048,
}


def parse_day(value: object) -> date:
    """Read a day as RFC 3339 writes it ("full-date").

    Raises:
        ValueError: it is not one.
    """
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError("send a day that exists, such as 2026-01-31")


GivenDay = Annotated[date, BeforeValidator(parse_day)]


class UsageParameters(PageParameters):
    """Which days of whom, and which page of them."""

    tenant: str | None = Field(None, description="Slug of the tenant, be it deleted or not.")
    since: GivenDay | None = Field(None, description="This day (UTC) or later.", examples=["2026-01-01"])
    until: GivenDay | None = Field(None, description="Before this day (UTC).", examples=["2026-02-01"])

    def filters(self) -> UsageFilter:
        """Give the filter without the page."""
        return UsageFilter(tenant=self.tenant, since=self.since, until=self.until)


class UsagePayload(Payload):
    """What one tenant sent on one day (UTC), by when it ended. Bytes are those of bodies."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    tenant: str
    day: date
    uploads: int
    delivered: int
    rejected: int
    refused: int
    failed: int
    bytes_in: int
    bytes_delivered: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Show a day."""
        return cls(**{name: getattr(usage, name) for name in cls.model_fields})


router = operator_router("/usage", "usage")


@router.get("", operation_id="list_usage", responses=declare(*ALWAYS, SearchTooSlow))
async def show_usage(query: Annotated[UsageParameters, Query()], desk: OperatorDesk) -> Listing[UsagePayload]:
    """List days that something was sent on, newest first, the tenants of one day by slug."""
    async with desk.reading() as session:
        return Listing.of(await list_usage(session, query.filters(), query.limit, query.cursor), UsagePayload.of)
