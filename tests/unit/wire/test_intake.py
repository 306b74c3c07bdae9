"""The receive buffer: what one read may fill, by how many uploads share the budget."""

import pytest
from pydantic import ByteSize

from relay.settings import MemorySettings
from relay.wire.intake import LARGEST, SHARES, SMALLEST, TINY, TURN_BYTES, TURN_SMALLEST, Intake
from relay.wire.pieces import PLENTY

BUDGET = 64 << 20


@pytest.mark.parametrize("running", [0, 1, 2, 16, 17, 40, 256, 5000])
def test_all_uploads_together_stay_within_the_budget(running: int) -> None:
    intake = Intake(MemorySettings(buffers=ByteSize(BUDGET)))
    for _ in range(running):
        intake.enter()
    assert SMALLEST <= intake.slice_bytes <= LARGEST
    assert intake.slice_bytes == SMALLEST or running * SHARES * intake.slice_bytes <= BUDGET


@pytest.mark.parametrize("running", [1, 4, 5, 8, 16, 32, 33, 64])
def test_the_reads_of_one_turn_are_bounded_however_large_the_budget(running: int) -> None:
    intake = Intake(MemorySettings(buffers=ByteSize(100 * BUDGET)))
    for _ in range(running):
        intake.enter()
    assert intake.slice_bytes == TURN_SMALLEST or running * intake.slice_bytes <= TURN_BYTES
    assert intake.slice_bytes >= TURN_SMALLEST


@pytest.mark.parametrize(("running", "most"), [(1, LARGEST), (4, LARGEST), (8, LARGEST // 2), (64, SMALLEST), (1000, SMALLEST)])
def test_a_look_is_bounded_by_the_budget_and_by_what_is_wanted_and_no_more_by_the_turn(running: int, most: int) -> None:
    intake = Intake(MemorySettings(buffers=ByteSize(BUDGET)))
    for _ in range(running):
        intake.enter()
    assert len(intake.view_of(PLENTY - 1)) == most
    assert len(intake.view_of(70_000)) == min(most, 70_000)
    assert len(intake.view_of(1)) == SMALLEST
    assert len(intake.view_of(PLENTY)) == intake.slice_bytes


def test_few_get_large_pieces_again_when_the_others_have_left() -> None:
    intake = Intake(MemorySettings(buffers=ByteSize(BUDGET)))
    for _ in range(1000):
        intake.enter()
    assert intake.slice_bytes == SMALLEST
    for _ in range(999):
        intake.leave()
    assert intake.slice_bytes == LARGEST


def test_every_piece_is_a_view_of_the_one_buffer() -> None:
    intake = Intake(MemorySettings(buffers=ByteSize(BUDGET)))
    intake.slice[:5] = b"hello"
    assert (bytes(intake.buffer[:5]), bytes(intake.tiny[:5]), len(intake.tiny)) == (b"hello", b"hello", TINY)
