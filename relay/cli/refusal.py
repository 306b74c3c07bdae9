"""How a process says why it cannot start: one line for what is foreseen, the whole trace for a bug."""

import logging

import click

from relay.cli import describe
from relay.db.schema import SchemaOutdated
from relay.errors import RelayError
from relay.settings import SettingsInvalid

logger = logging.getLogger(__name__)


class DemoGone(Exception):
    """The demo's tenant was deleted, and slugs are unique for ever."""


def say_refusal(failure: BaseException | None) -> None:
    """Tell on standard error why this process does not start."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if isinstance(failure, RelayError):
        click.echo(f"error: {describe(failure)}", err=True)
    elif isinstance(failure, SettingsInvalid | SchemaOutdated | DemoGone):
        click.echo(f"error: {failure}", err=True)
    else:
        logger.error("cannot start", exc_info=failure)
