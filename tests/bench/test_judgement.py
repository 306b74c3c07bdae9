"""From trials to verdicts: medians of ratios within rounds, noise that forbids to judge, floors and aims."""

from collections.abc import Sequence

import pytest

from bench.judgement import HOLDS, NOT_JUDGED, NOT_REACHED, Spread, judge, noise_of_all, ratios
from bench.loads import GIB, KIB, Load
from bench.record import LEAST_ROUNDS, Results
from bench.rows import NGINX, NGINX_AGAIN, RELAY, TEXTBOOK, Bound, Entrant, Row, all_rows
from bench.trials import Trial

LOAD = Load(size=GIB, connections=1)
NAMES = (RELAY, TEXTBOOK, NGINX, NGINX_AGAIN)
BOUND = Bound(metric="cpu_per_gib", against=NGINX, floor=1.3, aim=0.9)


def row_of(*bounds: Bound) -> Row:
    entrants = [Entrant(name=name, server="any", load=LOAD) for name in NAMES]
    return Row(name="row", title="a row", entrants=entrants, bounds=bounds)


def results_of(rounds: Sequence[Sequence[float]]) -> Results:
    """Results in which each round says the processor seconds of everybody, for one GiB in one second."""
    results = Results(about={"scale": "real"})
    for number, seconds in enumerate(rounds):
        for name, cpu in zip(NAMES, seconds, strict=True):
            trial = Trial(row="row", entrant=name, round=number, requests=1, bytes=GIB, seconds=1.0, own_cpu=cpu)
            results.take({"kind": "trial", **trial.as_record()})
        results.take({"kind": "round", "row": "row", "round": number})
    return results


def verdict_of(bound: Bound, rounds: Sequence[Sequence[float]]) -> tuple[str, str, str]:
    row, results = row_of(bound), results_of(rounds)
    (verdict,) = judge(row, results, noise_of_all([row], results))
    return verdict.floor, verdict.aim, verdict.reason


def test_ratio_is_made_within_a_round_and_the_median_taken_over_rounds() -> None:
    slow_later = results_of([(1.0, 2.0, 1.0, 1.0), (3.0, 6.0, 2.0, 2.0), (20.0, 20.0, 10.0, 10.0)])
    spread = ratios(slow_later.rounds_of("row"), "cpu_per_gib", RELAY, NGINX)
    assert spread == Spread(median=1.5, least=1.0, most=2.0, count=3)


@pytest.mark.parametrize(
    ("ours", "floor", "aim"),
    [(0.8, HOLDS, HOLDS), (0.9, HOLDS, HOLDS), (1.1, HOLDS, NOT_REACHED), (1.4, NOT_REACHED, NOT_REACHED)],
)
def test_floor_and_aim_are_judged_apart(ours: float, floor: str, aim: str) -> None:
    assert verdict_of(BOUND, [(ours, 2.0, 1.0, 1.0)] * LEAST_ROUNDS) == (floor, aim, "")


def test_at_least_is_judged_the_other_way_round() -> None:
    bound = Bound(metric="cpu_per_gib", against=TEXTBOOK, floor=2.0, is_least=True)
    assert verdict_of(bound, [(2.5, 1.0, 1.0, 1.0)] * LEAST_ROUNDS) == (HOLDS, "", "")
    assert verdict_of(bound, [(1.5, 1.0, 1.0, 1.0)] * LEAST_ROUNDS) == (NOT_REACHED, "", "")


def test_nothing_is_judged_while_nginx_differs_from_itself() -> None:
    off = [(0.5, 2.0, 1.0, 1.06)] * LEAST_ROUNDS
    floor, aim, reason = verdict_of(BOUND, off)
    assert (floor, aim) == (NOT_JUDGED, NOT_JUDGED)
    assert "nginx differs from itself by 6.0%" in reason
    assert verdict_of(BOUND, [(0.5, 2.0, 1.0, 1.04)] * LEAST_ROUNDS)[0] == HOLDS


def test_a_quiet_row_is_not_judged_in_a_run_that_is_off() -> None:
    quiet, loud = row_of(BOUND), [(0.5, 2.0, 1.0, 1.5)] * (2 * LEAST_ROUNDS)
    results = results_of([(0.5, 2.0, 1.0, 1.0)] * LEAST_ROUNDS)
    noise = noise_of_all([quiet], results_of(loud))
    assert [verdict.floor for verdict in judge(quiet, results, noise)] == [NOT_JUDGED]


def test_a_value_is_not_judged_where_the_machines_own_part_is_more_than_half_of_its_floor() -> None:
    bound = Bound(metric="cpu_per_gib", how="value", floor=10.0, at_rest=TEXTBOOK)
    assert verdict_of(bound, [(12.0, 5.0, 1.0, 1.0)] * LEAST_ROUNDS) == (NOT_REACHED, "", "")
    assert verdict_of(bound, [(9.0, 5.1, 1.0, 1.0)] * LEAST_ROUNDS) == (NOT_JUDGED, "", f"{TEXTBOOK}: 5.10")


def test_too_few_rounds_are_not_judged() -> None:
    assert verdict_of(BOUND, [(0.5, 2.0, 1.0, 1.0)] * (LEAST_ROUNDS - 1)) == (NOT_JUDGED, NOT_JUDGED, "6 rounds of 7")


def test_who_did_not_take_part_is_told_with_the_reason() -> None:
    row, results = row_of(BOUND), Results(about={"scale": "real"})
    results.take({"kind": "skip", "row": "row", "entrant": NGINX, "reason": "not installed: a command"})
    (verdict,) = judge(row, results, noise_of_all([row], results))
    assert (verdict.floor, verdict.reason) == (NOT_JUDGED, "not installed: a command")


def test_value_is_judged_by_itself() -> None:
    row = row_of(Bound(metric="lag_p999_ms", how="value", floor=10.0, aim=3.0))
    results = Results(about={"scale": "real"})
    for number in range(LEAST_ROUNDS):
        trial = Trial(row="row", entrant=RELAY, round=number, values={"lag_p999_ms": 5.0})
        results.take({"kind": "trial", **trial.as_record()})
        results.take({"kind": "round", "row": "row", "round": number})
    (verdict,) = judge(row, results, noise_of_all([row], results))
    assert (verdict.floor, verdict.aim) == (HOLDS, NOT_REACHED)


@pytest.mark.parametrize("is_small", [True, False])
def test_every_bound_names_entrants_of_its_row(*, is_small: bool) -> None:
    rows = all_rows(is_full=True, is_small=is_small)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        names = [entrant.name for entrant in row.entrants]
        assert len(set(names)) == len(names)
        assert {bound.at_rest for bound in row.bounds} <= {None, *names}
        assert row.bounds
        for bound in row.bounds:
            assert bound.of in names
            assert bound.against is None or bound.against in names
            assert (bound.against is None) == (bound.how == "value")
            assert bound.aim is None or bound.holds(bound.aim, bound.floor), "an aim is no weaker than its floor"


def test_short_run_has_the_starred_rows_with_four_peers() -> None:
    rows = all_rows(is_full=False)
    assert [row.title for row in rows] == ["1 GiB × 1", "16 MiB × 8", "64 KiB × 16", "1 KiB × 16"]
    assert all({entrant.server for entrant in row.entrants} == {"relay", "textbook", "nginx-256k", "caddy", "haproxy"} for row in rows)
    assert {row.load.size for row in rows} >= {GIB, KIB}
