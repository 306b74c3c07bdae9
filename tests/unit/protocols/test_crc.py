"""CRC-32C of two runs of bytes, from that of each."""

from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from relay.protocols.crc import join_crc32c


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_it_is_that_of_both(first: bytes, second: bytes) -> None:
    assert join_crc32c(crc32c(first), crc32c(second), len(second)) == crc32c(first + second)


def test_of_runs_as_long_as_parts() -> None:
    for size in (1, 1 << 20, (8 << 20) + 1):
        first, second = b"ab" * 5_000, bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert join_crc32c(crc32c(first), crc32c(second), size) == crc32c(second, crc32c(first))


def test_nothing_behind_changes_nothing() -> None:
    assert join_crc32c(0x12345678, crc32c(b""), 0) == 0x12345678
