"""``make migration``: write the migration from the last revision to the tables as they are declared now.

Compares with a Postgres of its own in a temporary folder, so that nobody's database is asked or changed.
"""

import tempfile
from pathlib import Path

import click
from alembic import command
from alembic.config import Config

from relay.cli import Failure
from relay.db.embedded import EmbeddedPostgres, EmbeddedUnusable
from relay.db.schema import HEAD, MIGRATIONS, REVISIONS, migrate


@click.command()
@click.argument("message")
def main(message: str) -> None:
    """Write a migration; read it before you believe it."""
    revision = f"{len(REVISIONS) + 1:04}"
    # A socket's path is short: the folder must be, too.
    with tempfile.TemporaryDirectory(prefix="relay-", ignore_cleanup_errors=True) as folder:
        postgres = EmbeddedPostgres(Path(folder), is_durable=False)
        try:
            url = postgres.start()
            migrate(url)
            config = Config(MIGRATIONS.parent / "alembic.ini")
            config.attributes["url"] = url
            command.revision(config, message, autogenerate=True, rev_id=revision, head=HEAD)
        except EmbeddedUnusable as error:
            raise Failure(str(error)) from None
        finally:
            postgres.stop()
    click.echo(f"revision {revision} is written: mend it, then add it to REVISIONS in relay/db/schema.py")


if __name__ == "__main__":
    main()
