from pathlib import Path

import pytest

from tests.faults.crash_storm import Sent, Storm, judge, ride


@pytest.mark.timeout(150)
async def test_nothing_is_lost_or_told_twice_when_workers_are_killed(tmp_path: Path) -> None:
    assert await ride(tmp_path, kills=4) == 0


def row(upload_id: str, outcome: str, **members: str) -> dict[str, str]:
    return {"upload_id": upload_id, "outcome": outcome, "path": f"/http/{upload_id}", "worker": "w", **members}


def storm(*, succeeded: bool = True, arrived: int = 1) -> Storm:
    seen = Storm(sent=[Sent("digest", 3, "u", succeeded)])
    seen.arrived["u"] = [(3, "digest")] * arrived
    return seen


def test_the_judge_finds_nothing_where_all_is_well() -> None:
    assert judge(storm(), [row("u", "delivered")], {}, set()) == []
    assert judge(storm(succeeded=False), [row("u", "interrupted")], {}, set()) == []


@pytest.mark.parametrize(
    ("seen", "rows", "objects", "living"),
    [
        (storm(), [], {}, set()),
        (storm(), [row("u", "interrupted")], {}, set()),
        (storm(), [row("u", "delivered"), row("u", "delivered")], {}, set()),
        (storm(arrived=2), [row("u", "delivered")], {}, set()),
        (storm(arrived=0), [row("u", "delivered")], {}, set()),
        (storm(succeeded=False), [row("u", "interrupted")], {}, {"w"}),
        (storm(succeeded=False), [row("u", "client_gone")], {}, set()),
        (storm(), [row("u", "delivered")], {"/disk/a": (1, "x")}, set()),
        (Storm(sent=[Sent("other", 3, "u", True)], arrived=storm().arrived), [row("u", "delivered")], {}, set()),
    ],
    ids=[
        "no row",
        "interrupted",
        "two rows",
        "arrived twice",
        "never arrived",
        "sibling interrupted",
        "arrived untold",
        "object untold",
        "other content",
    ],
)
def test_the_judge_finds_each_violation(
    seen: Storm, rows: list[dict[str, str]], objects: dict[str, tuple[int, str]], living: set[str]
) -> None:
    assert judge(seen, rows, objects, living)
