"""The pages that are printed from code: settings, errors, metrics, command line, OpenAPI, ``.env.example``.

``python -m relay.cli.print_pages`` (``make docs``) writes them; ``--check`` (``make check``) fails when one is
stale. What they say stands in the code, next to what it is about: mend it there.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import click
from prometheus_client import Metric
from pydantic import ByteSize

import relay as package
from relay.api.openapi import describe
from relay.app import create_app
from relay.cli import FAILED, relay
from relay.errors import ClientFault, ClientGone, DependencyFault, RelayError, RelayFault
from relay.settings import CLIENT_VARIABLES, INJECTED_BY_KUBERNETES, is_secret, load_settings, variables
from relay.telemetry import REGISTRY

ROOT = Path(package.__file__).resolve().parent.parent
NOTE = "<!-- Printed from code by `make docs`; change it there. -->"
WIDTH = 100
CULPRITS: tuple[tuple[type[RelayError], str], ...] = (
    (ClientFault, "The request is at fault. Sending it again unchanged fails again."),
    (ClientGone, "The client left. Seen in log and ledger only; nobody is there to read an answer."),
    (DependencyFault, "A destination or Postgres let us down. The same request may succeed later."),
    (RelayFault, "Relay could not do what it promises."),
)


def print_settings() -> str:
    """Print the page of settings."""
    injected = ", ".join(f"`{name}*`" for name in INJECTED_BY_KUBERNETES)
    lines = [
        "# Settings",
        "",
        NOTE,
        "",
        "Settings are environment variables. A `RELAY_*` variable that is none of these stops the start and names the nearest one",
        f"(except what Kubernetes injects: {injected}). Times are in seconds; sizes are in bytes or written as `8MiB`;",
        "lists are separated by commas. A secret may come from a file: append `_FILE` to its name.",
        "",
        "| Variable | Default | What it is |",
        "|---|---|---|",
    ]
    for name, field in variables():
        secret = " A secret." if is_secret(field) else ""
        lines.append(f"| `{name}` | {_code(_default(field))} | {_cell(field.description)}{secret} |")
    lines += [
        "",
        "## Of the client",
        "",
        "`relay upload` reads these; a relay does not mind them.",
        "",
        "| Variable | Default | What it is |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` |  | {_cell(text)} |" for name, text in CLIENT_VARIABLES.items()]
    return _page(lines)


def print_environment() -> str:
    """Print ``.env.example``."""
    lines = [
        "# Every setting with its default. Copy this file to .env and take the # away where you want another value.",
        "# Printed from code by `make docs`; docs/settings.md is the same as a page.",
    ]
    for name, field in variables():
        lines += ["", f"# {field.description}", f"#{name}={_default(field)}"]
    return _page(lines)


def print_errors() -> str:
    """Print the page of errors."""
    lines = [
        "# Errors",
        "",
        NOTE,
        "",
        "Every refusal is `application/problem+json` with a `code` that never changes its meaning. `Retry-After` is in seconds.",
    ]
    for culprit, meaning in CULPRITS:
        lines += [
            "",
            f"## {culprit.__name__}",
            "",
            meaning,
            "",
            "| Code | Status | Log level | Retry-After | What to do |",
            "|---|--:|---|--:|---|",
        ]
        for leaf in sorted(_leaves(culprit), key=lambda leaf: (leaf.status, leaf.code)):
            level = logging.getLevelName(leaf.level).lower()
            retry = leaf.retry_after_seconds if leaf.retry_after_seconds is not None else ""
            lines.append(f"| `{leaf.code}` | {leaf.status} | {level} | {retry} | {_cell(leaf.advice)} |")
    return _page(lines)


def print_metrics() -> str:
    """Print the page of metrics."""
    lines = [
        "# Metrics",
        "",
        NOTE,
        "",
        "`GET /metrics` answers in Prometheus's text format, summed over all workers of the host. What other workers than the one that",
        "answers have counted is at most a second old; a worker that is killed takes that second with it. The ledger is exact.",
        "",
        "| Metric | Type | Labels | What it tells |",
        "|---|---|---|---|",
    ]
    for metric, labels in _metrics():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        lines.append(f"| `{name}` | {metric.type} | {', '.join(f'`{label}`' for label in labels)} | {_cell(metric.documentation)} |")
    return _page(lines)


def print_command_line() -> str:
    """Print the page of the command line."""
    lines = [
        "# Command line",
        "",
        NOTE,
        "",
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found or conflict.",
        "",
        'Completion: `eval "$(relay completion bash)"`; `zsh` and `fish` likewise.',
    ]
    for path, text in _helps(relay, click.Context(relay, info_name="relay", terminal_width=WIDTH, help_option_names=["-h", "--help"])):
        lines += ["", f"## {path}", "", "```text", text.rstrip(), "```"]
    return _page(lines)


def print_interface() -> str:
    """Print the OpenAPI document."""
    return json.dumps(describe(create_app(load_settings({}))), ensure_ascii=False, indent=2) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "docs/settings.md": print_settings,
    "docs/errors.md": print_errors,
    "docs/metrics.md": print_metrics,
    "docs/cli.md": print_command_line,
    ".env.example": print_environment,
    "docs/openapi.json": print_interface,
}


@click.command()
@click.option("--check", "is_check", is_flag=True, help="Write nothing; fail when a page is stale.")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, help="Where the pages lie.")
def main(root: Path, *, is_check: bool) -> None:
    """Print the pages that come from code."""
    stale = [name for name, print_page in PAGES.items() if not _is_current(root / name, print_page())]
    if is_check and stale:
        click.echo(f"stale: {', '.join(stale)}. Run 'make docs' and commit what it writes.", err=True)
        raise SystemExit(FAILED)
    for name in stale:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(PAGES[name](), encoding="utf-8")
        click.echo(f"wrote {name}")


def _is_current(path: Path, page: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == page


def _page(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _default(field: Any) -> str:
    value = field.default
    if value is None or value == ():
        return ""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    if ByteSize in (field.annotation, *get_args(field.annotation)):
        return re.sub(r"\.0(?=\D)", "", ByteSize(value).human_readable())
    return str(value) if not isinstance(value, bool) else json.dumps(value)


def _leaves(culprit: type[RelayError]) -> Iterator[type[RelayError]]:
    if "code" in vars(culprit):
        yield culprit
    for child in culprit.__subclasses__():
        yield from _leaves(child)


def _metrics() -> Iterator[tuple[Metric, tuple[str, ...]]]:
    for collector in REGISTRY._collector_to_names:  # noqa: SLF001 - the only way to the labels of a metric without samples
        labels: tuple[str, ...] = getattr(collector, "_labelnames", ())
        for metric in collector.collect():
            yield metric, labels


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _helps(child, click.Context(child, info_name=name, parent=context, terminal_width=WIDTH))


if __name__ == "__main__":
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    main()
