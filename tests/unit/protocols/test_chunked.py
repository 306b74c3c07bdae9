"""The chunked coding: one body however the network cuts it, and no second reading of anything."""

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import FramingInvalid
from relay.protocols.chunked import COARSE_BYTES, LINE_LIMIT, MOVED_BYTES, TRAILERS_LIMIT, ChunkedBody
from relay.protocols.framed import LONG_BYTES

DATA = st.binary(min_size=1, max_size=40) | st.integers(-1, 1).map(lambda more: os.urandom(MOVED_BYTES + more))
EXTENSIONS = st.sampled_from([b"", b";a", b"; a=b", b' ;a="b;c"', b"\t;x=\xe9"])
TRAILERS = st.lists(st.sampled_from([b"X-Sum: 1\r\n", b"a:\r\n", b"B:\t x \r\n"]), max_size=3)


def read(pieces: list[bytes]) -> tuple[bytes, bytes, bool]:
    """Read these pieces: the body, what was left over of the piece in which it ended, and whether it ended."""
    body = ChunkedBody()
    found = b""
    for number, piece in enumerate(pieces):
        buffer = bytearray(b"before" + piece + b"behind")  # a place in a larger buffer, whose other bytes are none of its business
        spans, at = body.take(buffer, 6, 6 + len(piece))
        taken = b"".join(buffer[start:stop] for start, stop in spans)
        found += taken
        sizes = [stop - start for start, stop in spans]
        assert all(first + second >= MOVED_BYTES for first, second in itertools.pairwise(sizes))
        if body.is_coarse:
            assert b"".join(piece[start - 6 : stop - 6] for start, stop in spans) == taken
        assert bytes(buffer[:6]) + bytes(buffer[6 + len(piece) :]) == b"beforebehind"
        if body.has_ended:
            return found, bytes(buffer[at : 6 + len(piece)]) + b"".join(pieces[number + 1 :]), True
        assert at == 6 + len(piece)
    return found, b"", False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(
    chunks=st.lists(st.tuples(DATA, EXTENSIONS, st.sampled_from([b"%x", b"%X", b"00%x"])), max_size=6),
    trailers=TRAILERS,
    after=st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"\r\n"]),
    places=st.lists(st.integers(min_value=0, max_value=60_000), max_size=60),
)
def test_any_segmentation_gives_the_same_body(
    chunks: list[tuple[bytes, bytes, bytes]], trailers: list[bytes], after: bytes, places: list[int]
) -> None:
    coded = b"".join(form % len(data) + extension + b"\r\n" + data + b"\r\n" for data, extension, form in chunks)
    coded += b"0\r\n" + b"".join(trailers) + b"\r\n" + after
    assert read(cut(coded, places)) == (b"".join(data for data, _, _ in chunks), after, True)


def taken_of(body: ChunkedBody, coded: bytes) -> bytes:
    buffer = bytearray(coded)
    spans, at = body.take(buffer, 0, len(buffer))
    assert at == len(buffer)
    return b"".join(buffer[start:stop] for start, stop in spans)


def test_large_chunks_are_left_where_they_lie_and_are_worth_moving_once_much_has_come() -> None:
    body, chunk = ChunkedBody(), b"%x\r\n" % COARSE_BYTES + bytes(COARSE_BYTES) + b"\r\n"
    for _ in range(LONG_BYTES // COARSE_BYTES - 1):
        assert taken_of(body, chunk) == bytes(COARSE_BYTES)
        assert (body.is_coarse, body.is_long) == (True, False)
    taken_of(body, 2 * chunk)
    assert body.is_long
    taken_of(body, 3 * (b"64\r\n" + bytes(100) + b"\r\n"))
    assert (body.is_coarse, body.is_long) == (False, False)
    taken_of(body, chunk)
    assert body.is_long


def test_a_small_piece_beside_large_ones_is_not_moved() -> None:
    body = ChunkedBody()
    large = b"%x\r\n" % (9 * COARSE_BYTES) + bytes(9 * COARSE_BYTES) + b"\r\n"
    taken_of(body, large + b"1\r\na\r\n" + large + b"2\r\nbc")
    assert body.is_coarse
    assert body.pieces == 4


MALFORMED = {
    "no size": b"\r\nabc\r\n",
    "a size that is no hex": b"g\r\n",
    "a sign": b"+3\r\nabc\r\n",
    "a minus": b"-1\r\n",
    "a prefix": b"0x3\r\nabc\r\n",
    "an underscore": b"1_0\r\n",
    "a space before": b" 3\r\nabc\r\n",
    "a space behind": b"3 \r\nabc\r\n",
    "a size of 16 digits": b"0000000000000003\r\nabc\r\n",
    "a bare LF behind the size": b"3\nabc\r\n0\r\n\r\n",
    "a bare CR behind the size": b"3\rabc\r\n0\r\n\r\n",
    "a bare LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "a CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "a NUL in an extension": b"3;\0\r\nabc\r\n0\r\n\r\n",
    "a chunk that is too long": b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk that is too short": b"4\r\nabc\r\n0\r\n\r\n",
    "a bare LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "nothing behind the data": b"3\r\nabc0\r\n\r\n",
    "two line ends behind the data": b"3\r\nabc\r\n\r\n0\r\n\r\n",
    "a line that is too long": b"3;" + b"a" * LINE_LIMIT + b"\r\nabc\r\n0\r\n\r\n",
    "a line after a like one that ends otherwise": b"3\r\nabc\r\n3\r\nabc\r\n3\n\rabc\r\n0\r\n\r\n",
    "no line end between chunks of one size": b"3\r\nabc\r\n3\r\nabc3\r\nabc\r\n0\r\n\r\n",
    "a trailer without a colon": b"0\r\nfoo\r\n\r\n",
    "a trailer that is folded": b"0\r\nA: b\r\n c\r\n\r\n",
    "a trailer with a space in its name": b"0\r\nA : b\r\n\r\n",
    "a trailer that ends with a bare LF": b"0\r\nA: b\n\r\n",
    "a trailer with a NUL": b"0\r\nA: \0\r\n\r\n",
    "trailers without end": b"0\r\n" + b"A: b\r\n" * (TRAILERS_LIMIT // 6 + 1) + b"\r\n",
    "an end with a bare LF": b"0\r\n\n",
}


@pytest.mark.parametrize("coded", MALFORMED.values(), ids=list(MALFORMED))
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 20])
def test_what_is_malformed_is_refused_however_it_is_cut(coded: bytes, size: int) -> None:
    with pytest.raises(FramingInvalid):
        read([coded[start : start + size] for start in range(0, len(coded), size)])


@pytest.mark.parametrize("coded", [b"3\r\nabc", b"3\r\nabc\r", b"3\r\nabc\r\n", b"3\r\nabc\r\n0\r\n", b"3\r\nabc\r\n0\r\nA: b\r\n\r"])
def test_a_body_without_its_end_has_not_ended(coded: bytes) -> None:
    assert read([coded]) == (b"abc", b"", False)


@given(st.binary(max_size=60), st.lists(st.integers(min_value=0, max_value=60), max_size=10))
def test_garbage_is_refused_or_read_one_way(garbage: bytes, places: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            return read(pieces)
        except FramingInvalid:
            return None

    cut_up, at_once = outcome(cut(garbage, places)), outcome([garbage])
    assert cut_up == at_once or garbage == b""
