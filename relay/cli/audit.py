"""``relay audit``: who changed what."""

from typing import Any

import click

from relay.api.admin.audit import AuditPayload
from relay.api.admin.payloads import Listing
from relay.cli.desk import Desk, Options, at_desk, desk_options, page_options, show_page
from relay.cli.times import Time
from relay.db.cursors import Page
from relay.ledger.audit import AuditFilter, AuditRecord, list_audit

COLUMNS = ("at", "actor", "action", "tenant", "target", "request_id")


@click.command()
@click.option("--tenant", help="Of this tenant.")
@click.option("--actor", help="By this one: operator, operator:<name> or cli:<user>.")
@click.option("--action", help="This was done, such as key.revoke.")
@click.option("--since", type=Time(), help="At this time or later, such as 2026-01-31T12:00:00Z.")
@click.option("--until", type=Time(), help="Before this time.")
@page_options
@desk_options
def audit(options: Options, limit: int, cursor: str | None, **filters: Any) -> None:
    """See who changed what, newest first. With --json, also what it was before and after."""
    wanted = AuditFilter(**filters)

    async def work(desk: Desk) -> Page[AuditRecord]:
        async with desk.database.transaction() as session:
            return await list_audit(session, wanted, limit, cursor)

    page = at_desk(options, work)
    listing = Listing.of(page, AuditPayload.of).model_dump(mode="json")
    if not options.as_json:  # a table of several tenants names them
        listing["items"] = [item | {"tenant": change.tenant} for item, change in zip(listing["items"], page.items, strict=True)]
    show_page(options, listing, COLUMNS)
