"""The process of the example upstream; what it answers stands in ``example_upstream``."""

import click

from relay.cli.example_upstream import run
from relay.cli.parents import Parent
from relay.settings import load_settings


@click.command(hidden=True)
@click.option("--parent", type=int, required=True, help="Process id of the supervisor.")
def upstream(parent: int) -> None:
    """The example upstream; 'relay demo' starts it."""
    Parent(parent).wait_for_settings()
    run(load_settings().demo.upstream_listen)
