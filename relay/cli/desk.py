"""What every command of an operator works with: a database, an actor's name, a way to print.

Which database: the embedded one of ``--data-dir`` if that is given, else RELAY_DATABASE_URL, else the
embedded one of RELAY_DATA_DIR. An embedded one must be running. Beside a demo, what the demo made up
(its sealing key, its disk folder) holds for commands too.
"""

import asyncio
import functools
import getpass
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from pydantic import BaseModel

from relay.cli import Failure
from relay.cli.demo_file import DemoFile, demo_environment
from relay.db.embedded import find_running
from relay.db.engine import Database
from relay.ledger.audit import Actor
from relay.settings import EMBEDDED, Settings, load_settings
from relay.tenants.cuts import RunningUploads

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Options:
    """The options that every command of an operator has."""

    data_dir: Path | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class Desk:
    """What one command works with."""

    actor: Actor
    database: Database
    settings: Settings


def desk_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--json`` and ``--data-dir`` to a command; it gets them as its first argument, ``Options``."""

    @click.option("--json", "as_json", is_flag=True, help="Print what the REST interface answers.")
    @click.option("--data-dir", type=click.Path(path_type=Path), help="Join the embedded Postgres that runs in this data directory.")
    @functools.wraps(command)
    def with_options(*arguments: Any, data_dir: Path | None, as_json: bool, **more: Any) -> None:
        command(Options(data_dir, as_json), *arguments, **more)

    return with_options


def page_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--limit`` and ``--cursor`` to a command that lists."""
    limit = click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Items on a page.")
    return limit(click.option("--cursor", help="The 'next' of the page before.")(command))


def cut_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--cut-running`` to a command that shuts somebody out; it gets ``running_uploads``."""
    told = {False: RunningUploads.FINISH, True: RunningUploads.CUT}
    return click.option(
        "--cut-running",
        "running_uploads",
        is_flag=True,
        callback=lambda _context, _parameter, is_given: told[is_given],
        help="End the uploads that run, too, on every host; else they finish.",
    )(command)


def at_desk(options: Options, work: Callable[[Desk], Awaitable[Result]]) -> Result:
    """Open the database, do the work, close it."""
    settings, url = find_database(options.data_dir)

    async def open_and_work() -> Result:
        database = Database(url, settings.database)
        try:
            return await work(Desk(Actor(f"cli:{_user()}"), database, settings))
        finally:
            await database.close()

    return asyncio.run(open_and_work())


def find_database(data_dir: Path | None) -> tuple[Settings, str]:
    """Find the settings and the database that a command means.

    Raises:
        Failure: none is set and none is running.
        SettingsInvalid: a setting is wrong.
    """
    environment = dict(os.environ)
    if data_dir is not None:
        environment["RELAY_DATA_DIR"] = str(data_dir)
    settings = load_settings(environment)
    url = settings.database.url.get_secret_value() if settings.database.url else EMBEDDED
    if url != EMBEDDED and data_dir is None:
        return settings, url
    running = find_running(settings.data.dir)
    if running is None:
        raise Failure(
            f"No Postgres runs in {settings.data.dir}. Start 'relay demo' there, name its data directory by --data-dir, "
            "or set RELAY_DATABASE_URL to a Postgres of yours."
        )
    state = DemoFile.of(settings.data.dir).find()
    return (load_settings({**environment, **demo_environment(settings, state)}) if state else settings), running


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


# ── printing ─────────────────────────────────────────────────────────────────────────────────────


def show(options: Options, payload: BaseModel) -> None:
    """Print one object: as REST gives it, or a member a line."""
    members = payload.model_dump(mode="json")
    if options.as_json:
        _print_json(members)
        return
    width = max(len(name) for name in members) + 1
    for name, value in members.items():
        click.echo(f"{name + ':':<{width}} {_text(value)}".rstrip())


def show_page(options: Options, listing: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Print a page of a listing: as REST gives it, or some columns of it as a table."""
    if options.as_json:
        _print_json(listing)
        return
    rows = [[name.upper().replace("_", " ") for name in columns]]
    rows += [[_text(item[name]) for name in columns] for item in listing["items"]]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if listing["next"]:
        click.echo(f"more: --cursor {listing['next']}", err=True)


def say(options: Options, message: str) -> None:
    """Confirm a change that gives nothing back; REST answers nothing either."""
    if not options.as_json:
        click.echo(message)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _text(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(_text(item) for item in value) or "-"
        case str() if "\n" in value:
            return f"{value.splitlines()[0]} …"
        case dict():
            return ", ".join(f"{name}={_text(item)}" for name, item in value.items() if item is not None) or "-"
        case _:
            return str(value)
