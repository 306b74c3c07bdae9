"""The chart of the page: bars of the medians with their ranges, as SVG, made by hand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.judgement import Spread, figures, own_metrics
from bench.record import Results
from bench.rows import NGINX_AGAIN, RELAY, Row
from bench.table import WORDS, told

WIDTH = 760
NAME_WIDTH = 170
BAR_WIDTH = 480
LINE_HEIGHT = 20
PANEL_GAP = 44
OURS, THEIRS, RANGE, INK = "#0b6e4f", "#9aa5b1", "#1f2933", "#1f2933"


@dataclass(frozen=True, slots=True)
class Panel:
    """One group of bars; the shorter the better."""

    title: str
    bars: Sequence[tuple[str, Spread, str]]
    """Name, figures, and the median as text."""


def panels(rows: Sequence[Row], results: Results) -> Iterator[Panel]:
    """What the starred rows show of processor time."""
    for row in rows:
        if not row.is_starred:
            continue
        metric, _ = own_metrics(row)
        rounds = results.rounds_of(row.name)
        bars = []
        for entrant in row.entrants:
            spread = Spread.of(figures(rounds, entrant.name, metric))
            if spread is not None and entrant.name != NGINX_AGAIN:
                bars.append((entrant.name, spread, told(metric, spread)))
        if bars:
            yield Panel(f"{row.title}: {WORDS[metric][0]}, less is better", sorted(bars, key=lambda bar: bar[1].median))


def draw(shown: Sequence[Panel]) -> str:
    """The whole picture."""
    height = sum(PANEL_GAP + LINE_HEIGHT * len(panel.bars) for panel in shown) + LINE_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    top = 0
    for panel in shown:
        lines += _draw_panel(panel, top)
        top += PANEL_GAP + LINE_HEIGHT * len(panel.bars)
    return "\n".join([*lines, "</svg>", ""])


def _draw_panel(panel: Panel, top: int) -> Iterator[str]:
    longest = max(spread.most for _, spread, _ in panel.bars) or 1.0
    yield f'<text x="16" y="{top + 30}" font-weight="600" fill="{INK}">{escape(panel.title)}</text>'
    for index, (name, spread, label) in enumerate(panel.bars):
        y = top + PANEL_GAP + index * LINE_HEIGHT
        length, low, high = (value / longest * BAR_WIDTH for value in (spread.median, spread.least, spread.most))
        middle = y + LINE_HEIGHT // 2 - 2
        weight = ' font-weight="600"' if name == RELAY else ""
        yield f'<text x="{NAME_WIDTH - 8}" y="{y + 12}" text-anchor="end" fill="{INK}"{weight}>{escape(name)}</text>'
        fill = OURS if name == RELAY else THEIRS
        yield f'<rect x="{NAME_WIDTH}" y="{y}" width="{length:.1f}" height="{LINE_HEIGHT - 5}" fill="{fill}"/>'
        yield f'<path d="M{NAME_WIDTH + low:.1f} {middle}H{NAME_WIDTH + high:.1f}" stroke="{RANGE}" stroke-width="1.5"/>'
        yield f'<text x="{NAME_WIDTH + max(length, high) + 8:.1f}" y="{y + 12}" fill="{INK}">{escape(label)}</text>'
