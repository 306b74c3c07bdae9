"""``relay ledger``: read what happened."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import click

from relay.cli import Failure
from relay.cli.desk import Desk, Options, at_desk, desk_options, page_options, show_page
from relay.cli.times import Time
from relay.db.cursors import Page
from relay.ledger.accounts import list_entries
from relay.ledger.entry import Outcome
from relay.ledger.exports import FORMS, export_entries
from relay.ledger.searches import EntryFilter

COLUMNS = ("started_at", "tenant", "method", "path", "outcome", "code", "status", "bytes_in", "bytes_delivered", "upload_id")


@click.group()
def ledger() -> None:
    """Read what happened."""


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose entries to a command; it gets them as ``wanted``."""

    @click.option("--tenant", help="Of this tenant.")
    @click.option("--upload-id", type=click.UUID, help="Of this upload.")
    @click.option("--request-id", type=click.UUID, help="Of this request.")
    @click.option("--outcome", type=click.Choice([str(outcome) for outcome in Outcome]), help="That ended so.")
    @click.option("--path-prefix", help="Whose path begins with this.")
    @click.option("--since", type=Time(), help="Begun at this time or later, such as 2026-01-31T12:00:00Z.")
    @click.option("--until", type=Time(), help="Begun before this time.")
    @functools.wraps(command)
    def with_filter(*arguments: Any, **options: Any) -> None:
        chosen = {name: options.pop(name) for name in EntryFilter.__slots__}
        command(*arguments, wanted=_filter(**chosen), **options)

    return with_filter


@ledger.command("list")
@filter_options
@page_options
@desk_options
def list_ledger(options: Options, limit: int, cursor: str | None, wanted: EntryFilter) -> None:
    """List entries, newest first."""

    async def work(desk: Desk) -> Page[dict[str, Any]]:
        async with desk.database.transaction() as session:
            return await list_entries(session, wanted, limit, cursor)

    page = at_desk(options, work)
    show_page(options, {"items": list(page.items), "next": page.next}, COLUMNS)


@ledger.command("export")
@click.option("--format", "form", type=click.Choice(list(FORMS)), default="ndjson", show_default=True, help="How entries are written.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="A file, which appears when it is whole; default: standard output.",
)
@filter_options
@click.option("--data-dir", type=click.Path(path_type=Path), help="Join the embedded Postgres that runs in this data directory.")
def export_ledger(form: str, output: Path | None, data_dir: Path | None, wanted: EntryFilter) -> None:
    """Write all entries, newest first, however many."""

    async def work(desk: Desk) -> None:
        with _whole_file(output) if output is not None else _standard_output() as file:
            async for page in export_entries(desk.database, wanted, FORMS[form]):
                if output is not None:
                    file.write(page)
                else:
                    with _explained():
                        file.write(page)

    at_desk(Options(data_dir, as_json=False), work)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place, and put it there when it is whole and on disk; else leave nothing.

    Raises:
        Failure: it cannot be written, or what is there is no file.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise Failure(f"{path} is no file. Without --output the export goes to standard output.")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise Failure(f"{path} cannot be written ({error.strerror}).") from None
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    yield sys.stdout.buffer
    with _explained():
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say in words why standard output takes no more; a reader that went away needs no words."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is still buffered would fail once more at the end of the process.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise Failure(f"Standard output cannot be written ({error.strerror}). The export is cut.") from None


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
