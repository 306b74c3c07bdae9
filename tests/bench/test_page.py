"""The page and its chart are written from results, whatever is missing in them."""

from pathlib import Path
from xml.etree import ElementTree as ET

from bench.page import METHOD, PAGE, write_page
from bench.record import LEAST_ROUNDS, Results
from bench.rows import all_rows
from bench.table import told_on_terminal
from bench.trials import Trial

ABOUT = {
    "at": "2026-01-31 12:00 UTC",
    "processor": "A processor",
    "cores": 2,
    "memory_gib": 8.0,
    "kernel": "Linux",
    "python": "Python",
    "network": "the host",
    "congestion": "cubic",
    "load": 0.0,
    "commit": "abc",
    "peers": {"nginx": "nginx/1"},
    "scale": "real",
    "full": True,
}


def full_results() -> Results:
    """A run in which everybody needs the same, but Relay half of it."""
    results = Results(about=dict(ABOUT))
    for row in all_rows(is_full=True):
        for number in range(LEAST_ROUNDS):
            for entrant in row.entrants:
                trial = Trial(row=row.name, entrant=entrant.name, round=number, requests=10, bytes=10 * entrant.load.size, seconds=1.0)
                trial.own_cpu = 0.5 if entrant.name == "Relay" else 1.0
                trial.values = {bound.metric: 1.0 for bound in row.bounds}
                results.take({"kind": "trial", **trial.as_record()})
            results.take({"kind": "round", "row": row.name, "round": number})
    return results


def test_full_run_becomes_a_page_and_a_chart(tmp_path: Path) -> None:
    page, chart = tmp_path / "page.md", tmp_path / "chart.svg"
    write_page(full_results(), page, chart)
    text = page.read_text(encoding="utf-8")
    assert "A processor, 2 cores" in text
    assert "| Network | the loopback of the host, cubic |" in text
    assert "| 1 GiB × 1: CPU s/GiB ÷ nginx 256k | 0.50 (0.50–0.50) | ≤ 1.3: holds | ≤ 0.9: holds |" in text
    assert "| 1 GiB × 1: GiB/s ÷ textbook | 1.00 (1.00–1.00) | ≥ 1.8: not reached |  |" in text
    assert "(chart.svg)" in text
    bars = [element for element in ET.parse(chart).iter() if element.tag.endswith("rect")]  # noqa: S314 - written just now
    assert len(bars) == 1 + 4 * 9


def test_page_without_a_run_says_so(tmp_path: Path) -> None:
    write_page(Results(), tmp_path / "page.md", tmp_path / "chart.svg")
    assert "No run has been recorded yet." in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert not (tmp_path / "chart.svg").exists()


def test_page_that_is_kept_tells_the_method_of_now() -> None:
    assert METHOD.read_text(encoding="utf-8").strip() in PAGE.read_text(encoding="utf-8"), "run `python -m bench render`"


def test_run_that_is_off_says_that_it_judges_nothing() -> None:
    results = full_results()
    for rounds in results.trials.values():
        for trials in rounds.values():
            for name, trial in trials.items():
                trial.own_cpu *= 1.2 if name.endswith("again") else 1.0
    lines = list(told_on_terminal(all_rows(is_full=True), results))
    assert "this run judges nothing" in lines[-1]
    assert not any("holds" in line or "not reached" in line for line in lines)
