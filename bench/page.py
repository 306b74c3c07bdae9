"""``docs/benchmarks.md``: the verdicts, the figures, the chart, the machine and the method, written from results."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.chart import draw, panels
from bench.judgement import noise_of_all
from bench.network import told_network
from bench.processes import ROOT
from bench.record import Results
from bench.rows import Row, all_rows
from bench.table import VERDICT_HEAD, Block, blocks, told_noise, told_verdict

PAGE = ROOT / "docs/benchmarks.md"
CHART = ROOT / "docs/benchmarks.svg"
METHOD = Path(__file__).with_name("method.md")

BEGINNING = """# Benchmarks

What Relay costs beside the proxies that one would use instead, all of them on one machine, in one run, round after round.

```sh
make bench        # four rows, four peers, at most ten minutes
make bench-full   # everything; when it is cut, the next one goes on where it ended
```

This page is written by `.venv/bin/python -m bench render` from the results of `make bench-full`; how the benchmark is built is
told in [its own page](../bench/README.md).
"""


def write_page(results: Results, page: Path, chart: Path) -> None:
    """Write the page and its chart."""
    about = results.about
    rows = all_rows(is_full=bool(about.get("full")), is_small=about.get("scale") == "small")
    shown = list(panels(rows, results))
    if shown:
        chart.write_text(draw(shown), encoding="utf-8")
    page.write_text("\n".join(_page(rows, results, chart.name if shown else None)), encoding="utf-8")


def _page(rows: Sequence[Row], results: Results, chart: str | None) -> Iterator[str]:
    yield BEGINNING
    if results.about:
        yield from _machine(results.about)
        yield from _verdicts(rows, results)
        if chart is not None:
            yield f"![Processor time of Relay and its peers]({chart})\n"
        yield "## Figures\n"
        yield (
            "Medians over the rounds. A ratio is Relay's figure divided by that server's of the same round: median, least and most. The "
            "last columns are the processor seconds of one trial that Postgres, the generator and the sink took beside it.\n"
        )
        for block in blocks(rows, results):
            yield from _block(block)
    else:
        yield "No run has been recorded yet.\n"
    yield METHOD.read_text(encoding="utf-8").rstrip("\n") + "\n"


def _machine(about: dict[str, Any]) -> Iterator[str]:
    yield "## Machine\n"
    yield "| | |\n|---|---|"
    facts = {
        "Measured": about["at"],
        "Commit": about.get("commit") or "unknown",
        "Processor": f"{about['processor']}, {about['cores']} cores",
        "Memory": f"{about['memory_gib']} GiB",
        "Kernel": about["kernel"],
        "Network": told_network(about),
        "Relay runs on": f"{about['python']}, its own default loop",
        "Load before": about["load"],
        **{f"Peers: {name}": version for name, version in about["peers"].items()},
    }
    for name, value in facts.items():
        yield f"| {name} | {value} |"
    yield ""


def _verdicts(rows: Sequence[Row], results: Results) -> Iterator[str]:
    noise = noise_of_all(rows, results)
    yield "## Verdicts\n"
    yield f"nginx against itself, over all rows: {told_noise(noise) or 'not measured'}.\n"
    if results.about.get("scale") == "small":
        yield "**This was a small run, to try the benchmark: its figures mean nothing.**\n"
    elif noise.is_too_much:
        yield f"**nginx differs from itself by {noise.off_by:.1%}, more than 5 %: nothing is judged.**\n"
    yield from _table(
        ["Row", *VERDICT_HEAD[1:]],
        [[f"{block.row.title}: {cells[0]}", *cells[1:]] for block in blocks(rows, results) for cells in map(told_verdict, block.verdicts)],
        is_text=True,
    )


def _block(block: Block) -> Iterator[str]:
    yield f"### {block.row.title}\n"
    yield f"Rounds: {block.rounds}." + (f" nginx against itself: {told_noise(block.noise)}." if told_noise(block.noise) else "") + "\n"
    if block.lines:
        yield from _table(block.head, block.lines, is_text=False)
    for note in block.notes:
        yield f"- {note}"
    if block.notes:
        yield ""


def _table(head: list[str], lines: list[list[str]], *, is_text: bool) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---|" + ("---|" if is_text else "--:|") * (len(head) - 1)
    for line in lines:
        yield f"| {' | '.join(line)} |"
    yield ""
