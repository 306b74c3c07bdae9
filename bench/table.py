"""The results as people read them: one block for each row, on the terminal and in the page alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.judgement import Noise, Spread, Verdict, figures, judge, noise_of, noise_of_all, own_metrics, ratios
from bench.record import Results
from bench.rows import RELAY, Bound, Metric, Row
from bench.trials import Trial

WORDS: dict[Metric, tuple[str, str]] = {
    "cpu_per_gib": ("CPU s/GiB", ".3f"),
    "cpu_per_request": ("CPU µs/request", ".0f"),
    "gib_per_second": ("GiB/s", ".2f"),
    "requests_per_second": ("requests/s", ",.0f"),
    "p50_ms": ("p50 ms", ".2f"),
    "p99_ms": ("p99 ms", ".2f"),
    "lag_p999_ms": ("loop lag p99.9 ms", ".2f"),
    "stalled": ("uploads stalled", ".0f"),
    "kib_each": ("KiB each", ".0f"),
    "total_mib": ("MiB in all", ".0f"),
    "left_mib": ("MiB left after", ".1f"),
    "again_mib": ("MiB in all, second time", ".0f"),
    "lost": ("uploads lost", ".0f"),
    "kib_per_tenant": ("KiB for each tenant", ".2f"),
    "refused": ("refused at first", ".0f"),
    "seconds_per_gib": ("s/GiB", ".2f"),
    "peak_mib": ("peak MiB", ".0f"),
    "mib_each": ("MiB each upload", ".1f"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """One row, ready to be printed. ``notes`` stand below it."""

    row: Row
    rounds: str
    head: list[str]
    lines: list[list[str]]
    verdicts: list[Verdict]
    noise: Noise
    notes: list[str]


def blocks(rows: Sequence[Row], results: Results) -> Iterator[Block]:
    """Every row of a run."""
    noise_of_run = noise_of_all(rows, results)
    for row in rows:
        rounds = results.rounds_of(row.name)
        skipped = results.skipped.get(row.name, {})
        head, lines = _lines(row, rounds)
        notes = [f"{name}: skipped, {reason}" for name, reason in skipped.items()]
        measured = len(results.complete.get(row.name, ()))
        counted = str(measured) if len(rounds) == measured else f"{len(rounds)} of {measured}"
        yield Block(row, counted, head, lines, judge(row, results, noise_of_run), noise_of(row, rounds), notes)


def _lines(row: Row, rounds: Sequence[dict[str, Trial]]) -> tuple[list[str], list[list[str]]]:
    if row.kind == "kept":
        metrics: list[Metric] = ["cpu_per_gib", "seconds_per_gib", "peak_mib", "mib_each"]
    elif row.kind == "load" and row.group != "lag" and row.load.rate is None:
        metrics = list(own_metrics(row))
    else:
        known = {name: None for each in rounds for trial in each.values() for name in trial.values}
        metrics = [metric for metric in WORDS if metric in known and (metric != "refused" or row.kind == "tenants")]
        metrics += ["cpu_per_request"] if row.kind == "tenants" or row.load.rate is not None else []
    # A metric of one entrant against another: Relay divided by it, within each round.
    ratio = metrics[0] if metrics and metrics[0] in {"cpu_per_gib", "cpu_per_request"} else None
    head = [
        "",
        *(WORDS[metric][0] for metric in metrics),
        *(["Relay ÷ it: CPU", "Relay ÷ it: time" if row.kind == "kept" else "Relay ÷ it: speed"] if ratio else []),
    ]
    head += ["Postgres s", "generator s", "sink s"]
    lines = []
    for entrant in row.entrants:
        if not any(entrant.name in each for each in rounds):
            continue
        cells = [entrant.name, *(told(metric, Spread.of(figures(rounds, entrant.name, metric))) for metric in metrics)]
        if ratio is not None:
            ours = row.entrants[0].name
            cells += [told_ratio(ratios(rounds, metric, ours, entrant.name)) if entrant.name != ours else "" for metric in metrics[:2]]
        lines.append([*cells, *_others(rounds, entrant.name)])
    return head, lines


def _others(rounds: Sequence[dict[str, Trial]], name: str) -> list[str]:
    trials = [each[name] for each in rounds if name in each]
    postgres = Spread.of([trial.postgres_cpu for trial in trials if trial.postgres_cpu is not None])
    generator, sink = Spread.of([trial.generator_cpu for trial in trials]), Spread.of([trial.sink_cpu for trial in trials])
    return [f"{spread.median:.2f}" if spread is not None else "" for spread in (postgres, generator, sink)]


def told(metric: Metric, spread: Spread | None) -> str:
    """A median in the metric's own form."""
    return "" if spread is None else format(spread.median, WORDS[metric][1])


def told_ratio(spread: Spread | None) -> str:
    """A median and its range."""
    return "" if spread is None else f"{spread.median:.2f} ({spread.least:.2f}–{spread.most:.2f})"


def told_bound(bound: Bound) -> str:
    """What is asked, in words."""
    word = WORDS[bound.metric][0]
    of = "" if bound.of == RELAY else f"{bound.of}: "
    beside = {"ratio": f" ÷ {bound.against}", "difference": f" over {bound.against}", "value": ""}[bound.how]
    return f"{of}{word}{beside}"


def told_limit(bound: Bound, limit: float | None) -> str:
    """A limit with its direction."""
    return "" if limit is None else f"{'≥' if bound.is_least else '≤'} {limit:g}"


def told_verdict(verdict: Verdict) -> list[str]:
    """A verdict as cells: what is asked, what was found, floor, aim."""
    bound, spread = verdict.bound, verdict.spread
    found = "" if spread is None else f"{spread.median:.2f} ({spread.least:.2f}–{spread.most:.2f})"
    floor = f"{told_limit(bound, bound.floor)}: {verdict.floor}" + (f" ({verdict.reason})" if verdict.reason else "")
    aim = f"{told_limit(bound, bound.aim)}: {verdict.aim}" if bound.aim is not None else ""
    return [told_bound(bound), found, floor, aim]


VERDICT_HEAD = ["", "median (range)", "floor", "aim"]


def told_noise(noise: Noise) -> str:
    """What nginx says of itself."""
    parts = [f"{word} {told_ratio(spread)}" for word, spread in (("CPU", noise.cpu), ("speed", noise.rate)) if spread is not None]
    return ", ".join(parts)


def aligned(head: list[str], lines: list[list[str]]) -> Iterator[str]:
    """A table for the terminal."""
    widths = [max(len(line[index]) for line in (head, *lines)) for index in range(len(head))]
    for line in (head, *lines):
        first, *others = (
            cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join([first, *others]).rstrip()


def told_on_terminal(rows: Sequence[Row], results: Results) -> Iterator[str]:
    """Everything, line by line."""
    for block in blocks(rows, results):
        yield ""
        yield f"{block.row.title}   (rounds: {block.rounds})"
        if block.lines:
            yield from ("  " + line for line in aligned(block.head, block.lines))
        if told_noise(block.noise):
            yield f"  nginx against itself: {told_noise(block.noise)}"
        yield from ("  " + line for line in aligned(VERDICT_HEAD, [told_verdict(verdict) for verdict in block.verdicts]))
        yield from ("  " + note for note in block.notes)
    noise = noise_of_all(rows, results)
    yield ""
    yield f"nginx against itself, all rows: {told_noise(noise) or 'not measured'}"
    if noise.is_too_much:
        yield f"It is off by {noise.off_by:.1%}, more than 5 %: this run judges nothing. Run it on a machine that does nothing else."
