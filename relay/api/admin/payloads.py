"""What the documents of the admin side share: strictness, times, pages.

A ``Document`` comes in: unknown members and values of another type are refused, nothing is converted but
times. A ``Payload`` goes out. Each noun's own documents lie next to its routes.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Generic, Self, TypeVar

from fastapi import Header, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from relay.db.cursors import LIMIT_DEFAULT, LIMIT_MOST, Page
from relay.tenants.cuts import RunningUploads

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(value: object) -> datetime:
    """Read a time as RFC 3339 writes it ("Internet Date/Time Format"), as UTC.

    Raises:
        ValueError: it is not one, or lies outside the years 1 to 9999.
    """
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("send a time with its zone, such as 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("send a time that exists, in the years 1 to 9999") from None


GivenTime = Annotated[datetime, BeforeValidator(parse_time)]
UtcTime = Annotated[datetime, AfterValidator(parse_time)]
IfMatch = Annotated[str | None, Header(alias="If-Match")]

WhatRuns = Annotated[
    RunningUploads, Query(description="What becomes of the uploads that run: they finish, or are cut on every host within a second.")
]


class Document(BaseModel):
    """What an operator sends."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Payload(BaseModel):
    """What an operator is shown."""

    model_config = ConfigDict(frozen=True)


class PageParameters(BaseModel):
    """Which page of a listing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(LIMIT_DEFAULT, ge=1, le=LIMIT_MOST)
    cursor: str | None = None


PageQuery = Annotated[PageParameters, Query()]
Item = TypeVar("Item")
Shown = TypeVar("Shown", bound=BaseModel)


class Listing(Payload, Generic[Shown]):
    """One page; ``next`` is the cursor of the following one, null at the end."""

    items: tuple[Shown, ...]
    next: str | None

    @classmethod
    def of(cls, page: Page[Item], show: Callable[[Item], Shown]) -> Self:
        """Show each item of a page."""
        return cls(items=tuple(show(item) for item in page.items), next=page.next)
