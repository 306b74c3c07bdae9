"""Every command that there is, found by walking: help for all of it, wrong usage is 2, ``--json`` where something is shown."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from relay.cli import relay

SHOWS_NOTHING = {"demo", "serve", "migrate", "health", "database", "completion"}
"""What runs on, or answers with a word and an exit code."""


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield context.command_path.removeprefix("relay "), command
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from walk(child, click.Context(child, info_name=name, parent=context))


COMMANDS = dict(walk(relay, click.Context(relay, info_name="relay", **relay.context_settings)))


def test_there_are_many() -> None:
    assert len(COMMANDS) > 25
    assert {"tenant create", "destination reseal", "upload", "doctor", "completion"} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_says_what_it_is(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    assert command.help.splitlines()[0].endswith("."), command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{path} {parameter.name}"
            assert parameter.help.rstrip(")").endswith("."), f"{path} {parameter.name}: {parameter.help}"
    result = CliRunner().invoke(relay, [*path.split(), "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: relay {path} ")


@pytest.mark.parametrize("path", COMMANDS)
def test_an_unknown_option_is_wrong_usage_and_says_so(path: str) -> None:
    result = CliRunner().invoke(relay, [*path.split(), "--frobnicate"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--frobnicate" in result.stderr


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if any(each.required for each in command.params)])
def test_a_missing_argument_is_wrong_usage_and_names_it(path: str) -> None:
    result = CliRunner().invoke(relay, path.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Missing" in result.stderr


@pytest.mark.parametrize("path", [path for path in COMMANDS if path.split()[0] not in SHOWS_NOTHING])
def test_what_shows_something_shows_it_as_json_when_asked(path: str) -> None:
    names = {name for parameter in COMMANDS[path].params for name in parameter.opts}
    assert "--json" in names or "--format" in names, path
