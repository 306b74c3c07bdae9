"""The process of the example upstream; what it answers stands in ``example_upstream``.

``relay demo`` starts it and tells it its settings; in a container of its own it reads them from its environment.
"""

import click

from relay.cli.example_upstream import run
from relay.cli.parents import Parent
from relay.settings import load_settings


@click.command(hidden=True)
@click.option("--parent", type=int, help="Process id of the supervisor, where there is one.")
def upstream(parent: int | None) -> None:
    """The example upstream; 'relay demo' starts it."""
    if parent is not None:
        Parent(parent).wait_for_settings()
    run(load_settings().demo.upstream_listen)
