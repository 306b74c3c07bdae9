"""``relay doctor``: looks at everything that Relay needs, and says what to do about what is missing."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from relay.cli import FAILED, Failure
from relay.cli.database_checks import check_database
from relay.cli.desk import find_database
from relay.cli.findings import Finding, fail, ok, warn
from relay.cli.host_checks import check_host
from relay.settings import EMBEDDED, Settings, SettingsInvalid, load_settings

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all findings as one JSON object.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Look at this data directory and the embedded Postgres in it.")
def doctor(data_dir: Path | None, *, as_json: bool) -> None:
    """Check everything that Relay needs on this host, and say what to do.

    Run it as the user that runs Relay, with the same settings. It changes nothing and prints no secret. Exit
    code 1 if a check fails; warnings do not count.
    """
    findings = []
    for finding in examine(data_dir):
        findings.append(finding)
        if not as_json:
            tell(finding)
    failed = sum(finding.state == "fail" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(finding) for finding in findings]}, ensure_ascii=False, indent=2))
    else:
        click.echo(f"{len(findings)} checks, {failed} failed")
    if failed:
        click.get_current_context().exit(FAILED)


def tell(finding: Finding) -> None:
    """Print one finding: a line, and what to do below it."""
    click.echo(f"{click.style(finding.state.ljust(4), fg=COLOURS[finding.state])}  {finding.check}: {finding.detail}")
    if finding.advice is not None:
        click.echo(f"      {finding.advice}")


def examine(data_dir: Path | None) -> Iterator[Finding]:
    """Make every check, one by one; what cannot be checked without another one is left out."""
    environment = dict(os.environ) | ({"RELAY_DATA_DIR": str(data_dir)} if data_dir is not None else {})
    try:
        settings = load_settings(environment)
    except SettingsInvalid as error:
        yield fail("settings", str(error), "docs/settings.md lists every setting. Nothing else was checked.")
        return
    yield ok("settings", "every RELAY_* variable is known and can be read")
    where = _find_database(settings, data_dir)
    yield from check_host(settings if isinstance(where, Finding) else where[0])
    if isinstance(where, Finding):
        yield where
    else:
        yield from asyncio.run(_gather(*where))


def _find_database(settings: Settings, data_dir: Path | None) -> tuple[Settings, str] | Finding:
    url = settings.database.url
    try:
        return find_database(data_dir)
    except Failure as error:
        if url is None and data_dir is None:
            advice = "Set it to postgresql://user:password@host/name, or to 'embedded'; or look at a running demo by --data-dir."
            return fail("postgres", "RELAY_DATABASE_URL is not set", advice)
        if url is not None and url.get_secret_value() == EMBEDDED:
            return warn("postgres", f"the embedded one in {settings.data.dir} does not run", "Start Relay, then look again.")
        return fail("postgres", error.message, "Nothing of the database was checked.")


async def _gather(settings: Settings, url: str) -> list[Finding]:
    return [finding async for finding in check_database(settings, url)]
