"""Times and days on the command line: written as REST takes them."""

from datetime import date, datetime

import click

from relay.api.admin.payloads import parse_time
from relay.api.admin.usage import parse_day


class Time(click.ParamType[datetime]):
    """A time as RFC 3339 writes it."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return parse_time(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Day(click.ParamType[date]):
    """A day as RFC 3339 writes it."""

    name = "day"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return parse_day(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
