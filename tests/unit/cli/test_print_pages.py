"""The pages printed from code: complete, and a stale one is noticed."""

from pathlib import Path

from click.testing import CliRunner

from relay.cli.print_pages import PAGES, main, print_command_line, print_environment, print_metrics, print_settings
from relay.settings import load_settings, variables


def test_stale_page_fails_the_check_and_is_not_touched(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["--root", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(main, ["--root", str(tmp_path), "--check"]).exit_code == 0
    stale = tmp_path / "docs/errors.md"
    stale.write_text("old")
    result = CliRunner().invoke(main, ["--root", str(tmp_path), "--check"])
    assert result.exit_code == 1
    assert result.output == "stale: docs/errors.md. Run 'make docs' and commit what it writes.\n"
    assert stale.read_text() == "old"


def test_every_setting_is_on_the_page_and_in_the_example() -> None:
    for name, _ in variables():
        assert f"| `{name}` |" in print_settings()
        assert f"#{name}=" in print_environment()


def test_defaults_of_the_example_are_the_defaults() -> None:
    given = dict(line[1:].split("=", 1) for line in print_environment().splitlines() if line.startswith("#RELAY_"))
    assert load_settings({name: value for name, value in given.items() if value}) == load_settings({})


def test_every_metric_is_listed_under_the_names_that_are_scraped() -> None:
    names = [line.split("`")[1] for line in print_metrics().splitlines() if line.startswith("| `")]
    assert sorted(names) == sorted(
        [
            "relay_requests_total",
            "relay_received_bytes_total",
            "relay_delivered_bytes_total",
            "relay_uploads_running",
            "relay_request_seconds",
            "relay_upstream_wait_seconds",
            "relay_journal_entries",
            "relay_journal_oldest_seconds",
            "relay_ledger_shipped_total",
            "relay_ledger_rejected_total",
            "relay_tls_handshakes_total",
        ]
    )


def test_every_command_is_printed_and_no_hidden_one() -> None:
    page = print_command_line()
    for heading in ("relay serve", "relay destination set", "relay ledger list", "relay key revoke"):
        assert f"\n## {heading}\n" in page
    assert "worker --" not in page


def test_tables_have_as_many_cells_as_columns() -> None:
    for name in ("docs/settings.md", "docs/errors.md", "docs/metrics.md"):
        rows = [line.replace("\\|", "") for line in PAGES[name]().splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1, name
