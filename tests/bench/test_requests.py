"""What the generator sends is HTTP of the size that is said, and what it takes for an answer is the sink's."""

from pathlib import Path

import pytest

from bench.generator import AnswerWrongError, Order, Requests, is_whole, percentile
from bench.loads import BLOCK_BYTES, BOUNDARY, CHUNK_BYTES, KIB, MIB, Framing, request_pieces
from relay.protocols.chunked import ChunkedBody

SIZES = [0, 1, KIB, 64 * KIB, CHUNK_BYTES + 1, BLOCK_BYTES, 3 * MIB + 5]


def split(size: int, framing: Framing) -> tuple[bytes, bytes]:
    whole = b"".join(request_pieces("/upload/a/b", "rk_key", framing, size))
    head, _, body = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /upload/a/b HTTP/1.1\r\n")
    assert b"Authorization: Bearer rk_key" in head
    return head, body


@pytest.mark.parametrize("size", SIZES)
def test_body_is_as_long_as_its_head_says(size: int) -> None:
    head, body = split(size, "length")
    assert len(body) == size
    assert f"Content-Length: {size}".encode() in head


@pytest.mark.parametrize("size", SIZES)
def test_chunks_hold_the_whole_body_and_end(size: int) -> None:
    head, body = split(size, "chunked")
    assert b"Content-Length" not in head
    reader = ChunkedBody()
    spans, end = reader.take(bytearray(body), 0, len(body))
    assert reader.has_ended
    assert end == len(body)
    assert sum(stop - start for start, stop in spans) == size


def test_form_has_one_file_and_a_length() -> None:
    head, body = split(MIB, "form")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.startswith(f"--{BOUNDARY}\r\n".encode())
    assert body.endswith(f"--{BOUNDARY}--\r\n".encode())
    assert body.count(b"x") >= MIB


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_answer_is_whole_at_its_end_and_not_before(answer: bytes) -> None:
    assert is_whole(answer)
    assert not any(is_whole(answer[:length]) for length in range(len(answer)))


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
)
def test_answer_that_is_not_the_sinks_ends_the_run(answer: bytes) -> None:
    with pytest.raises(AnswerWrongError):
        is_whole(answer)


def test_answer_has_to_say_what_it_was_asked_for() -> None:
    answer = b'HTTP/1.1 201 Created\r\nContent-Length: 12\r\n\r\n{"sha256":1}'
    assert is_whole(answer, b'"sha256":')
    with pytest.raises(AnswerWrongError):
        is_whole(answer, b'"md5":')


def test_each_key_is_used_once_and_again_when_it_was_refused(tmp_path: Path) -> None:
    keys = ["rk_one", "rk_two", "rk_three"]
    (tmp_path / "keys").write_text("\n".join(keys), encoding="ascii")
    order = Order(
        port=1, path="/", key=keys[0], size=1, connections=1, seconds=0.0, keys=str(tmp_path / "keys"), tenants=3, is_each_once=True
    )
    requests = Requests(order)
    drawn = [requests.draw() for _ in keys]
    assert [bytes(pieces[0]).split(b"Bearer ")[1].split(b"\r")[0].decode() for pieces in drawn] == keys
    assert requests.is_at_end
    requests.give_back(drawn[1])
    assert not requests.is_at_end
    assert bytes(requests.draw()[0]) == bytes(drawn[1][0])
    assert requests.is_at_end


def test_percentile_is_a_value_that_was_there() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (51.0, 100.0, 100.0)
