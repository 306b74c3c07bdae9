"""``relay demo-tenant``: the demo's tenant in a relay that runs already, and the lines that ``relay demo`` prints.

For the compose file's profile ``demo``. Nothing is started and no schema is changed here. A second run finds what
the first one made and prints the same key: it is kept in the data directory's ``demo.json``.
"""

import asyncio
import os
import time
from pathlib import Path

import click

from relay.cli import Failure
from relay.cli.demo import POLL_SECONDS, READY_SECONDS, Lines, first_token
from relay.cli.demo_file import DemoFile
from relay.cli.example_bucket import ExampleBucket
from relay.cli.health import NoAnswer, ask_readiness
from relay.cli.prepare import make_demo
from relay.cli.refusal import DemoGone
from relay.settings import EMBEDDED, load_settings

PATIENT_POLL_SECONDS = 20 * POLL_SECONDS


@click.command(hidden=True)
@click.option("--url", required=True, help="Where users reach the main door; printed.")
@click.option("--admin-url", required=True, help="Where users reach the admin side; printed.")
@click.option("--ask-url", required=True, help="Where this process reaches the relay; it has to become ready.")
@click.option("--upstream-url", required=True, help="Where the relay reaches the example upstream.")
@click.option("--bucket-url", help="Where the relay reaches the example bucket, if there is one.")
@click.option("--bucket-key-file", type=click.Path(path_type=Path), help="File with the bucket's access key: its id, a comma, its secret.")
def demo_tenant(url: str, admin_url: str, ask_url: str, upstream_url: str, bucket_url: str | None, bucket_key_file: Path | None) -> None:
    """Make the demo's tenant in a running installation; the compose file's profile 'demo' does it."""
    settings = load_settings()
    database_url = settings.database.url.get_secret_value() if settings.database.url else EMBEDDED
    if database_url == EMBEDDED:
        raise Failure("'relay demo-tenant' needs the RELAY_DATABASE_URL of a running relay; 'relay demo' starts one by itself.")
    bucket = find_bucket(bucket_url, bucket_key_file)
    wait_until_ready(ask_url, READY_SECONDS)
    file = DemoFile.of(settings.data.dir)
    try:
        asyncio.run(make_demo(database_url, settings, file, upstream_url, bucket))
    except DemoGone as error:
        raise Failure(str(error)) from None
    wait_until_ready(ask_url, READY_SECONDS)
    lines = Lines(url.rstrip("/"), admin_url.rstrip("/"), first_token(os.environ), file.load())
    for line in [*([lines.bucket()] if bucket is not None else []), *lines.all()]:
        click.echo(line)


def find_bucket(url: str | None, key_file: Path | None) -> ExampleBucket | None:
    """Find the bucket that the options describe.

    Raises:
        UsageError: one of them is missing.
        Failure: the file cannot be read.
    """
    if url is None and key_file is None:
        return None
    if url is None or key_file is None:
        raise click.UsageError("--bucket-url and --bucket-key-file belong together.")
    try:
        return ExampleBucket(url.rstrip("/"), key_file.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{key_file} cannot be read ({type(error).__name__})") from None


def wait_until_ready(url: str, seconds: float) -> None:
    """Return once ``/readyz`` has answered 200.

    Raises:
        Failure: it did not in this time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            readiness = ask_readiness(url)
            if readiness.is_ready:
                return
            found = ", ".join(f"{name} {value}" for name, value in readiness.checks.items())
        except NoAnswer as error:
            found = str(error)
        if time.monotonic() > deadline:
            raise Failure(f"{url}/readyz does not answer 200 after {seconds:.0f} s ({found})")
        time.sleep(PATIENT_POLL_SECONDS)
