"""``relay usage``: how much each tenant sent, a day a line."""

from datetime import date

import click

from relay.api.admin.payloads import Listing
from relay.api.admin.usage import UsagePayload
from relay.cli.desk import Desk, Options, at_desk, desk_options, page_options, show_page
from relay.cli.times import Day
from relay.ledger.usage import UsageFilter, list_usage

COLUMNS = tuple(UsagePayload.model_fields)


@click.command()
@click.option("--tenant", help="Of this tenant.")
@click.option("--since", type=Day(), help="On this day (UTC) or later, such as 2026-01-31.")
@click.option("--until", type=Day(), help="Before this day (UTC).")
@page_options
@desk_options
def usage(options: Options, tenant: str | None, since: date | None, until: date | None, limit: int, cursor: str | None) -> None:
    """See how much each tenant sent, a day a line, newest first."""
    filters = UsageFilter(tenant=tenant, since=since, until=until)

    async def work(desk: Desk) -> Listing[UsagePayload]:
        async with desk.database.transaction() as session:
            return Listing.of(await list_usage(session, filters, limit, cursor), UsagePayload.of)

    show_page(options, at_desk(options, work).model_dump(mode="json"), COLUMNS)
