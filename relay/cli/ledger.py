"""``relay ledger``: read what happened."""

from datetime import datetime
from typing import Any
from uuid import UUID

import click

from relay.cli.desk import Desk, Options, at_desk, desk_options, page_options, show_page
from relay.cli.times import Time
from relay.db.cursors import Page
from relay.ledger.accounts import EntryFilter, list_entries
from relay.ledger.entry import Outcome

COLUMNS = ("started_at", "tenant", "method", "path", "outcome", "code", "status", "bytes_in", "bytes_delivered", "upload_id")


@click.group()
def ledger() -> None:
    """Read what happened."""


@ledger.command("list")
@click.option("--tenant", help="Of this tenant.")
@click.option("--upload-id", type=click.UUID, help="Of this upload.")
@click.option("--request-id", type=click.UUID, help="Of this request.")
@click.option("--outcome", type=click.Choice([str(outcome) for outcome in Outcome]), help="That ended so.")
@click.option("--path-prefix", help="Whose path begins with this.")
@click.option("--since", type=Time(), help="Begun at this time or later, such as 2026-01-31T12:00:00Z.")
@click.option("--until", type=Time(), help="Begun before this time.")
@page_options
@desk_options
def list_ledger(options: Options, limit: int, cursor: str | None, **filters: Any) -> None:
    """List entries, newest first."""
    wanted = _filter(**filters)

    async def work(desk: Desk) -> Page[dict[str, Any]]:
        async with desk.database.transaction() as session:
            return await list_entries(session, wanted, limit, cursor)

    page = at_desk(options, work)
    show_page(options, {"items": list(page.items), "next": page.next}, COLUMNS)


def _filter(
    *,
    outcome: str | None,
    upload_id: UUID | None,
    request_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    **text: str | None,
) -> EntryFilter:
    return EntryFilter(
        tenant=text["tenant"],
        path_prefix=text["path_prefix"],
        upload_id=upload_id,
        request_id=request_id,
        outcome=Outcome(outcome) if outcome else None,
        since=since,
        until=until,
    )
