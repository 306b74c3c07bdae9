"""Results outlive a cut: what was written is read again, what was begun is done again."""

from pathlib import Path

import pytest

from bench.command import check_same
from bench.machine import Ticks
from bench.processes import BrokenError
from bench.record import LEAST_ROUNDS, Record, read_results
from bench.trials import Trial


def trial(round_: int, entrant: str = "Relay") -> dict[str, object]:
    return Trial(row="row", entrant=entrant, round=round_, requests=3, bytes=30, seconds=1.5, own_cpu=0.5, postgres_cpu=0.1).as_record()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    record = Record(tmp_path / "results.jsonl")
    record.add("run", {"scale": "real"})
    record.add("trial", trial(0))
    record.add("round", {"row": "row", "round": 0})
    again = read_results(record.path)
    assert again == record.results
    assert [each["Relay"].own_cpu for each in again.rounds_of("row")] == [0.5]


def test_cut_line_and_cut_round_count_for_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path / "results.jsonl")
    record.add("run", {"scale": "real"})
    record.add("trial", trial(0))
    with record.path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "trial", "row": "ro')
    again = Record(record.path, is_continued=True)
    assert again.results.rounds_of("row") == []
    again.add("trial", trial(0))
    again.add("round", {"row": "row", "round": 0})
    assert len(read_results(record.path).rounds_of("row")) == 1


def test_rounds_that_the_host_disturbed_most_do_not_count(tmp_path: Path) -> None:
    record = Record(tmp_path / "results.jsonl")
    for number in range(20):
        record.add("trial", trial(number) | {"stolen": number * 7 % 20 / 20})
        record.add("trial", trial(number, "nginx") | {"stolen": 0.2})
        record.add("round", {"row": "row", "round": number})
        assert len(record.results.rounds_of("row")) == min(number + 1, max(LEAST_ROUNDS, (number + 2) // 2))
    rounds = record.results.rounds_of("row")
    assert sorted(each["Relay"].stolen for each in rounds) == [number / 20 for number in range(10)]
    assert [each["Relay"].round for each in rounds] == sorted(each["Relay"].round for each in rounds)


def test_every_round_counts_where_nothing_is_stolen(tmp_path: Path) -> None:
    record = Record(tmp_path / "results.jsonl")
    for number in range(20):
        record.add("trial", trial(number))
        record.add("round", {"row": "row", "round": number})
    assert len(record.results.rounds_of("row")) == 20


def test_what_is_stolen_is_a_share_of_what_there_was_to_do() -> None:
    assert Ticks(30, 20).stolen_since(Ticks(10, 10)) == pytest.approx(1 / 3)
    assert Ticks(10, 10).stolen_since(Ticks(10, 10)) == 0.0
    assert 0.0 <= Ticks.now().stolen_since(Ticks()) < 1.0


def test_new_run_begins_with_nothing(tmp_path: Path) -> None:
    Record(tmp_path / "results.jsonl").add("trial", trial(0))
    assert Record(tmp_path / "results.jsonl").results.trials == {}


def test_who_takes_part_later_is_no_longer_skipped(tmp_path: Path) -> None:
    record = Record(tmp_path / "results.jsonl")
    record.add("skip", {"row": "row", "entrant": "Caddy", "reason": "not installed"})
    record.add("trial", trial(0, "Caddy"))
    assert record.results.skipped == {"row": {}}


def test_run_is_continued_on_the_same_machine_with_the_same_programs_only() -> None:
    about = {
        "processor": "a",
        "cores": 2,
        "kernel": "k",
        "python": "p",
        "network": "n",
        "congestion": "c",
        "peers": {},
        "relay": "r",
        "scale": "real",
    }
    check_same(Path("results"), {}, about)
    check_same(Path("results"), about, dict(about))
    with pytest.raises(BrokenError, match="cores was 4 and is 2"):
        check_same(Path("results"), about | {"cores": 4}, about)
    with pytest.raises(BrokenError, match="congestion"):
        check_same(Path("results"), about | {"congestion": "bbr"}, about)
