"""The command line: ``python -m bench [run]`` and ``python -m bench render``."""

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from bench.generator import raise_file_limit
from bench.machine import describe
from bench.network import HOSTS, congestion_control, enter_network, told_network
from bench.page import CHART, PAGE, write_page
from bench.processes import ROOT, BrokenError
from bench.record import Record, read_results
from bench.rows import Row, all_rows
from bench.session import Plan, Session
from bench.table import told_on_terminal

RESULTS = ROOT / "build/bench/results.jsonl"
FULL_RESULTS = ROOT / "build/bench/results-full.jsonl"
ROUNDS = 7
SECONDS = {"short": 1.6, "full": 2.0, "small": 0.2}
LONGEST_SECONDS = 9.5 * 60
"""After so long the short run begins no further row: ten minutes are its promise."""


def parser() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Relay beside other proxies.")
    parser.set_defaults(action=run, full=False, is_continued=False, rounds=ROUNDS, scale="real", rows=None, results=None, database_url=None)
    commands = parser.add_subparsers(metavar="command")
    running = commands.add_parser("run", help="measure (the default)")
    running.add_argument("--full", action="store_true", help="every row and every peer")
    running.add_argument("--continue", dest="is_continued", action="store_true", help="do what is left of a run that was cut")
    running.add_argument("--rounds", type=int, default=ROUNDS)
    running.add_argument("--scale", choices=["real", "small"], default="real", help="small: to try the benchmark; judges nothing")
    running.add_argument("--rows", help="only these, by their short names, with commas")
    running.add_argument("--results", type=Path, help="where the results go")
    running.add_argument("--database-url", help="a migrated Postgres for Relay; default: an embedded one")
    running.add_argument("--host-network", action="store_true", help="on the host's own loopback, as it is set; so too with --database-url")
    running.set_defaults(action=run)
    rendering = commands.add_parser("render", help=f"print {PAGE.relative_to(ROOT)} and its chart from results")
    rendering.add_argument("results", type=Path, nargs="?")
    rendering.add_argument("--page", type=Path, default=PAGE)
    rendering.add_argument("--chart", type=Path, default=CHART)
    rendering.set_defaults(action=render)
    return parser


def chosen_rows(arguments: argparse.Namespace) -> list[Row]:
    """The rows of this run.

    Raises:
        BrokenError: there is no row of such a name.
    """
    rows = all_rows(is_full=arguments.full, is_small=arguments.scale == "small")
    if arguments.rows:
        names = arguments.rows.split(",")
        known = [row.name for row in rows]
        if unknown := set(names) - set(known):
            raise BrokenError(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        rows = [row for row in rows if row.name in names]
    return rows


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print the table."""
    rows = chosen_rows(arguments)
    path = arguments.results or (FULL_RESULTS if arguments.full else RESULTS)
    is_continued = arguments.is_continued and path.exists()
    record = Record(path, is_continued=is_continued)
    network = HOSTS if arguments.host_network or arguments.database_url else enter_network()
    about = describe() | {"network": network, "congestion": congestion_control(), "scale": arguments.scale, "full": arguments.full}
    check_same(path, record.results.about, about)
    record.add("run", about)
    length = "small" if arguments.scale == "small" else "full" if arguments.full else "short"
    deadline = time.monotonic() + LONGEST_SECONDS if length == "short" else None
    session = Session(
        record, Plan(rounds=arguments.rounds, seconds=SECONDS[length], deadline=deadline, database_url=arguments.database_url)
    )
    print(f"{about['processor']}, {about['cores']} cores, {about['kernel']}, {about['python']}; load {about['load']}")
    print(f"network: {told_network(about)}")
    print(f"results: {path}")
    session.run(rows)
    for line in told_on_terminal(rows, record.results):
        print(line)
    if session.is_cut:
        print(f"\nThe time is up: not every round was run. The rest: python -m bench run --continue --results {path}")


def check_same(path: Path, before: dict[str, object], now: dict[str, object]) -> None:
    """Raise where a run would be continued on another machine, with other programs or another Relay."""
    for name in ("processor", "cores", "kernel", "python", "network", "congestion", "peers", "relay", "scale"):
        if before and before.get(name) != now.get(name):
            raise BrokenError(
                f"{path} cannot be continued: {name} was {before.get(name)!r} and is {now.get(name)!r}. "
                "Remove it to begin anew, or name another file with --results."
            )


def render(arguments: argparse.Namespace) -> None:
    """Write the page."""
    path = arguments.results or FULL_RESULTS
    if not path.exists():
        raise BrokenError(f"{path} does not exist: run the benchmark first")
    write_page(read_results(path), arguments.page, arguments.chart)
    print(f"written: {arguments.page}, {arguments.chart}")


def main() -> None:
    """Run it from the command line."""
    signal.signal(signal.SIGTERM, _end)
    raise_file_limit()  # the servers inherit it
    arguments = parser().parse_args()
    try:
        arguments.action(arguments)
    except BrokenError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: cut; --continue does the rest")


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
