"""The command line: ``relay <noun> <verb>``, one module per noun.

A module is imported when its command is asked for, so that ``relay --help`` and the supervisor stay
light: neither FastAPI nor SQLAlchemy is loaded for them. The list below therefore repeats the first
line of every command's help; a test holds the two equal.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found or conflict.
"""

from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from relay.errors import RelayError, RequestInvalid
from relay.settings import SettingsInvalid

FAILED = 1
WRONG_USAGE = 2
NOT_FOUND_OR_CONFLICT = 3

COMMANDS = {
    "demo": "Start everything at once: Postgres, the relay, an example upstream and bucket, a tenant with a key.",
    "serve": "Run the relay: a supervisor and its workers.",
    "migrate": "Bring the database to the schema of this release.",
    "doctor": "Check everything that Relay needs on this host, and say what to do.",
    "health": "Ask a running relay whether it is ready, and print its checks.",
    "database": "Back up the database, and put a backup into an empty one.",
    "completion": "Print the script that completes 'relay' in a shell.",
    "tenant": "Create, show, change and delete tenants.",
    "key": "Issue, list, rotate and revoke the keys of a tenant.",
    "destination": "Say where a tenant's bytes go.",
    "route": "Lead a path prefix of a tenant to a destination.",
    "upload": "Send FILE to a tenant's destination; '-' sends standard input.",
    "live": "See the uploads that run on this host, and end one.",
    "ledger": "Read what happened.",
    "usage": "See how much each tenant sent, a day a line, newest first.",
    "audit": "See who changed what, newest first. With --json, also what it was before and after.",
}
HIDDEN = {
    "worker": "One worker process; the supervisor starts it.",
    "upstream": "The example upstream; 'relay demo' starts it.",
    "demo-tenant": "Make the demo's tenant in a running installation; the compose file's profile 'demo' does it.",
}


class Failure(click.ClickException):
    """A command failed; prints ``error: …`` and ends with the exit code that fits."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # the way click documents

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", err=True, file=file)


def describe(error: RelayError) -> str:
    """Say a failure in one line for people: what happened, what to do, the stable code."""
    members = "; ".join(f"{'.'.join(str(part) for part in item.location if part != 'body')}: {item.message}" for item in error.errors)
    return f"{members or error.detail} ({error.code})"


def exit_code_of(error: RelayError) -> int:
    """Choose the exit code of a failure by its status."""
    if isinstance(error, RequestInvalid):
        return WRONG_USAGE
    return NOT_FOUND_OR_CONFLICT if error.status in {404, 409, 412} else FAILED


class Commands(click.Group):
    """The commands by name; each one's module is imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS and cmd_name not in HIDDEN:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"relay.cli.{name}"), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # From the list: a shell waits for this, and nothing is imported for it.
        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RelayError as error:
            raise Failure(describe(error), exit_code_of(error)) from None
        except SettingsInvalid as error:
            raise Failure(str(error)) from None


def _print_version(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"relay {import_module('relay.telemetry').VERSION}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version and exit.")
def relay() -> None:
    """Relay uploads: every tenant's files stream to that tenant's own destination.

    Settings are RELAY_* environment variables; docs/settings.md lists them.
    """


def main() -> None:
    """Run the command line; the console script ``relay`` calls this."""
    relay(prog_name="relay")
