"""``relay live``: the uploads that run on this host at this moment. Asks the workers themselves, by the data directory."""

import asyncio
import os
from pathlib import Path
from uuid import UUID

import click

from relay.api.admin.live import LiveListing
from relay.cli.desk import Desk, Options, at_desk, desk_options, page_options, say, show_page
from relay.errors import WorkerUnreachable
from relay.settings import load_settings
from relay.uploads.live import TOLD_TO_END, Live, LivePage, cancel_upload
from relay.uploads.live_folder import LIVE_FOLDER, LiveFolder
from relay.uploads.siblings import Siblings

COLUMNS = ("upload_id", "tenant", "path", "bytes_in", "declared_length", "rate_bytes_per_second", "age_seconds", "client_address")


@click.group()
def live() -> None:
    """See the uploads that run on this host, and end one."""


@live.command("list")
@click.option("--tenant", help="Of this tenant.")
@page_options
@desk_options
def list_live(options: Options, limit: int, cursor: str | None, tenant: str | None) -> None:
    """List the uploads that run, newest first. Needs no database."""
    data_dir = _data_dir(options)

    async def work() -> LivePage:
        return await _live_of(data_dir).list_uploads(tenant, limit, cursor)

    if not LiveFolder(data_dir / LIVE_FOLDER).workers():
        click.echo(f"no worker runs in {data_dir}: name its data directory by --data-dir or RELAY_DATA_DIR", err=True)
    found = asyncio.run(work())
    show_page(options, LiveListing.of_live(found).model_dump(mode="json"), COLUMNS)
    if found.unreachable:
        click.echo(f"{found.unreachable} of the workers did not answer: what runs there is missing", err=True)


@live.command()
@click.argument("upload_id", type=click.UUID)
@desk_options
def cut(options: Options, upload_id: UUID) -> None:
    """End an upload that runs; nothing of it is delivered."""

    async def work(desk: Desk) -> bool:
        async with desk.database.transaction() as session:
            return await cancel_upload(session, desk.actor, _live_of(desk.settings.data.dir), upload_id)

    if not at_desk(options, work):
        raise WorkerUnreachable(TOLD_TO_END)
    say(options, f"upload {upload_id} has ended")


def _data_dir(options: Options) -> Path:
    environment = dict(os.environ)
    if options.data_dir is not None:
        environment["RELAY_DATA_DIR"] = str(options.data_dir)
    return load_settings(environment).data.dir


def _live_of(data_dir: Path) -> Live:
    return Live(Siblings(LiveFolder(data_dir / LIVE_FOLDER)))
