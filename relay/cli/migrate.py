"""``relay migrate``: bring the database to the schema of this release."""

from pathlib import Path

import click

from relay.cli import Failure
from relay.cli.desk import find_database
from relay.db import schema


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Join the embedded Postgres that runs in this data directory.")
def migrate(data_dir: Path | None) -> None:
    """Bring the database to the schema of this release.

    Safe to run again and from several hosts at once; the previous release goes on running on the new schema.
    """
    _, url = find_database(data_dir)
    try:
        schema.migrate(url)
    except FileNotFoundError as error:
        raise Failure(str(error)) from None
    click.echo(f"the database is at revision {schema.HEAD}")
