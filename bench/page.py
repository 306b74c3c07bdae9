"""docs/benchmarks.md from results (to come)."""

from pathlib import Path

from bench.processes import ROOT
from bench.record import Results

PAGE = ROOT / "docs/benchmarks.md"
CHART = ROOT / "docs/benchmarks.svg"


def write_page(results: Results, page: Path, chart: Path) -> None:
    """Write the page."""
    raise NotImplementedError
