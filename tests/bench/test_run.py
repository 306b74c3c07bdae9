"""The benchmark runs: everybody who is there, one tiny round."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.kept import COPY_COMMANDS
from bench.loads import KIB, MIB, Load
from bench.processes import BrokenError
from bench.record import Record, read_results
from bench.rows import DIRECT, NGINX, NGINX_AGAIN, RELAY, Bound, Entrant, Row, all_rows
from bench.servers import find_program
from bench.session import Plan, Session
from bench.table import told_on_terminal

TINY = Plan(rounds=1, seconds=0.05)


def test_what_is_there_is_measured_and_what_is_missing_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.stage.find_tls_variables", lambda: None)
    small, large = Load(size=KIB, connections=4), Load(size=2 * MIB, connections=2, framing="chunked")
    servers = {DIRECT: "direct", NGINX: "nginx-256k", NGINX_AGAIN: "nginx-256k", RELAY: "relay-tls"}
    rows = [
        Row(name=name, title=name, entrants=[Entrant(name=who, server=server, load=load) for who, server in servers.items()])
        for name, load in (("small", small), ("large", large), ("paced", replace(small, rate=100.0)))
    ]
    record = Record(tmp_path / "results.jsonl")
    Session(record, TINY).run(rows)
    for row in rows:
        (trials,) = read_results(record.path).rounds_of(row.name)
        assert (NGINX in trials) == (find_program("nginx") is not None)
        assert RELAY not in trials
        for name, trial in trials.items():
            assert trial.requests > 0
            assert trial.generator_cpu > 0
            assert (trial.own_cpu > 0) == (name != DIRECT)
    told = "\n".join(told_on_terminal(rows, record.results))
    assert all(f"{row.title}   (rounds: 1)" in told for row in rows)
    assert record.results.skipped["small"][RELAY].startswith("this Relay has no settings")


def test_run_that_was_cut_does_only_what_is_left(tmp_path: Path) -> None:
    row = Row(name="row", title="row", entrants=[Entrant(name=DIRECT, server="direct", load=Load(size=KIB, connections=1))])
    record = Record(tmp_path / "results.jsonl")
    Session(record, TINY).run([row])
    Session(Record(record.path, is_continued=True), replace(TINY, rounds=2)).run([row])
    kinds = [json.loads(line)["kind"] for line in record.path.read_text(encoding="utf-8").splitlines()]
    assert kinds == ["trial", "round"] * 2


def test_who_comes_after_whom_is_drawn_by_lot_and_rounds_beyond_are_of_who_is_judged(tmp_path: Path) -> None:
    load = Load(size=KIB, connections=1)
    entrants = [Entrant(name=name, server="direct", load=load) for name in "abcd"]
    bounds = [Bound(metric="requests_per_second", of="a", against="b", floor=1.0)]
    record = Record(tmp_path / "results.jsonl")
    Session(record, replace(TINY, rounds=3)).run([Row(name="row", title="row", entrants=entrants, bounds=bounds, rounds=2)])
    took_part = [list(trials) for trials in record.results.rounds_of("row")]
    assert [sorted(names) for names in took_part] == [["a", "b", "c", "d"]] * 3 + [["a", "b"]] * 3
    assert len({tuple(names) for names in took_part[:3]}) > 1, "each has the same one before it"


def kept_row(*servers: str) -> Row:
    load = Load(size=2 * MIB, connections=1, sink="disk")
    entrants = [Entrant(name=name, server=name, load=load) for name in servers]
    return Row(name="disk", title="disk", entrants=entrants, group="disk", kind="kept")


def test_copies_are_measured_and_leave_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path / "results.jsonl")
    row = kept_row("copy", "copy-unsynced")
    Session(record, TINY).run([row])
    (trials,) = read_results(record.path).rounds_of("disk")
    for trial in trials.values():
        assert trial.bytes == trial.requests * 2 * MIB > 0
        assert trial.own_cpu > 0
    assert "s/GiB" in "\n".join(told_on_terminal([row], record.results))


def test_who_does_not_keep_what_it_was_sent_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COPY_COMMANDS, "copy", lambda _source, target: [["cp", "/dev/null", str(target)]])
    with pytest.raises(BrokenError, match=r"kept were files of \[0\] bytes instead of 1 of 2097152"):
        Session(Record(tmp_path / "results.jsonl"), TINY).run([kept_row("copy")])


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("git") is None, reason="the record names the commit: install it with `apt-get install git`")
def test_every_row_runs_at_a_small_scale(tmp_path: Path) -> None:
    rows = all_rows(is_full=True, is_small=True)
    record = Record(tmp_path / "results.jsonl")
    Session(record, Plan(rounds=1, seconds=0.1)).run(rows)
    for row in rows:
        trials = record.results.rounds_of(row.name)
        assert trials or RELAY in record.results.skipped[row.name]
        for trial in trials[0].values() if trials else ():
            if trial.entrant.startswith(RELAY) and row.kind != "stalled":
                assert trial.own_cpu > 0
                assert trial.postgres_cpu is not None
