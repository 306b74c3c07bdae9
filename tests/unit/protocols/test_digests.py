"""Claims and wishes of RFC 9530 and RFC 1864 as values; the digests of the first are those of its appendix."""

import base64
import hashlib
import time
from collections.abc import Sequence
from typing import Any

import http_sf
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import DigestMismatch, DigestUnsupported
from relay.protocols.digests import CRC32C, FIELD_LIMIT, FIELDS, SIZES, SUPPORTED, Claims, Digests, read_claims
from relay.protocols.header_rules import Field

BODY = b'{"hello": "world"}'
SAMPLES = {
    "sha-512": "WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==",
    "sha-256": "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=",
    "md5": "Sd/dVLAcvNLSq16eXua5uQ==",
    "crc32c": "Q3lHIA==",
}
"""RFC 9530 "Sample Digest Values": of the algorithms that are taken."""

NOT_TAKEN = {"sha": "07CavjDP4u3/TungoUHJO/Wzr4c=", "unixsum": "GQU=", "unixcksum": "7zsHAA==", "adler": "OZkGFw=="}
SHA256 = f"sha-256=:{SAMPLES['sha-256']}:"
MD5 = SAMPLES["md5"]


def claims(*fields: tuple[str, str]) -> Claims | None:
    return read_claims([(name.encode(), value.encode("latin-1")) for name, value in (("host", "relay"), *fields)])


def fault_of(said: Claims | None, body: bytes) -> DigestMismatch | None:
    """What is wrong with a body that comes byte for byte."""

    assert said is not None
    digests = Digests(said)
    for at in range(len(body)):
        digests.update(memoryview(body)[at : at + 1])
    return digests.find_fault({CRC32C: crc32c(body).to_bytes(4)})


@pytest.mark.parametrize("field", ["content-digest", "repr-digest"])
@pytest.mark.parametrize("name", SIZES)
def test_every_algorithm_that_is_taken_is_verified(name: str, field: str) -> None:
    said = claims((field, f"{name}=:{SAMPLES[name]}:"))
    assert fault_of(said, BODY) is None
    fault = fault_of(said, BODY[:-1] + b"]")
    assert fault is not None
    assert name in fault.detail


def test_content_md5_is_a_claim_like_the_others() -> None:
    assert fault_of(claims(("content-md5", f" {MD5} ")), BODY) is None
    assert fault_of(claims(("content-md5", MD5)), b"other") is not None


def test_nothing_is_claimed_by_a_request_without_these_fields() -> None:
    assert claims() is None
    assert claims(("digest", "SHA-256=obsolete")) is None
    empty = claims(("content-digest", ""), ("want-repr-digest", ""))
    assert empty == Claims({}, {}), "a Dictionary without members is none"


def test_all_that_is_claimed_must_hold_and_what_is_not_taken_is_passed_over() -> None:
    every = ", ".join(f"{name}=:{value}:" for name, value in (SAMPLES | NOT_TAKEN).items())
    said = claims(("content-digest", every))
    assert said is not None
    assert set(said.digests) == set(SIZES)
    assert fault_of(said, BODY) is None
    for name in SIZES:
        broken = every.replace(SAMPLES[name], base64.b64encode(bytes(SIZES[name])).decode())
        fault = fault_of(claims(("content-digest", broken)), BODY)
        assert fault is not None, f"{name} is not believed because others are right"
    beside = claims(("content-digest", f"sha=:{NOT_TAKEN['sha']}:"), ("repr-digest", SHA256))
    assert fault_of(beside, BODY) is None


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_a_claim_that_nobody_can_verify_is_refused(name: str) -> None:
    with pytest.raises(DigestUnsupported, match="sha-256, sha-512, md5 or crc32c"):
        claims(("content-digest", f"{name}=:{NOT_TAKEN[name]}:"))


def test_lines_are_combined_and_the_last_of_one_algorithm_counts() -> None:
    said = claims(("content-digest", SHA256), ("content-digest", ""), ("content-digest", f"crc32c=:{SAMPLES['crc32c']}:"))
    assert said is not None
    assert set(said.digests) == {"sha-256", "crc32c"}
    twice = claims(("content-digest", f"md5=:{base64.b64encode(bytes(16)).decode()}:"), ("content-digest", f"md5=:{MD5}:;a=b"))
    assert fault_of(twice, BODY) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("content-digest", "sha-256"),
        ("content-digest", f"sha-256={SAMPLES['sha-256']}"),
        ("content-digest", f"sha-256=:{SAMPLES['sha-256']}"),
        ("content-digest", "sha-256=::"),
        ("content-digest", f"sha-256=:{MD5}:"),
        ("content-digest", "sha-256=:!!!!:"),
        ("content-digest", f"SHA-256=:{SAMPLES['sha-256']}:"),
        ("content-digest", f"{SHA256},"),
        ("content-digest", f"{SHA256} {SHA256}"),
        ("content-digest", f"{SHA256}, sha=1"),
        ("content-digest", f"sha-256=(:{SAMPLES['sha-256']}:)"),
        ("content-digest", "sha-256=\xff"),
        ("repr-digest", "sha-256=1"),
        ("repr-digest", f"{SHA256}, " * 50 + SHA256),
        ("content-md5", ""),
        ("content-md5", "Sd/dVLAcvNLSq16eXua5uQ"),
        ("content-md5", f"{MD5}, {MD5}"),
        ("content-md5", SAMPLES["sha-256"]),
        ("content-md5", "\xff" * 24),
    ],
)
def test_what_is_not_of_its_form_is_refused(field: str, value: str) -> None:
    with pytest.raises(DigestUnsupported, match="not of its form"):
        claims((field, value))


def test_two_lines_of_content_md5_are_not_one_claim() -> None:
    with pytest.raises(DigestUnsupported):
        claims(("content-md5", MD5), ("content-md5", MD5))


def test_claims_that_contradict_each_other_are_refused_at_once() -> None:
    with pytest.raises(DigestMismatch, match="Two fields"):
        claims(("content-digest", SHA256), ("repr-digest", f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"))
    with pytest.raises(DigestMismatch, match="Two fields"):
        claims(("content-digest", f"md5=:{base64.b64encode(bytes(16)).decode()}:"), ("content-md5", MD5))


def test_of_a_part_only_what_is_of_the_part_is_claimed() -> None:
    part = ("content-range", "bytes 0-9/100")
    said = claims(part, ("repr-digest", "sha-256=:AAAA:"), ("content-md5", "?"), ("content-digest", SHA256))
    assert said is not None
    assert set(said.digests) == {"sha-256"}
    assert claims(part, ("repr-digest", SHA256)) == Claims({}, {})


@pytest.mark.parametrize(
    ("wish", "best"),
    [
        ("sha-256=1", "sha-256"),
        ("sha-512=3, sha-256=10, unixsum=0", "sha-256"),
        ("sha-512=10, sha-256=3", "sha-512"),
        ("md5=5, sha-512=5, sha-256=5", "sha-256"),
        ("sha=10, crc32c=1", "crc32c"),
        ("sha-256=0", None),
        ("sha-256=0, md5=1", "md5"),
        ("sha=10", None),
        ("sha-256", None),
        ("sha-256=11", None),
        ("sha-256=-1", None),
        ("sha-256=1.0", None),
        ("sha-256=?1", None),
        ('sha-256="10"', None),
        ("sha-256=(10)", None),
        ("sha-256=10,", None),
        ("=", None),
        ("sha-256=1, " * 400 + "md5=1", None),
    ],
)
@pytest.mark.parametrize(("field", "told"), [("want-content-digest", b"content-digest"), ("want-repr-digest", b"repr-digest")])
def test_a_wish_is_a_hint_of_weights_and_never_an_error(field: str, told: bytes, wish: str, best: str | None) -> None:
    said = claims((field, wish))
    assert said == Claims({}, {told: best} if best is not None else {})


def test_only_what_was_claimed_or_asked_for_is_taken() -> None:
    said = claims(("want-repr-digest", "sha-512=1"), ("want-content-digest", "crc32c=1"), ("content-md5", MD5))
    assert said is not None
    digests = Digests(said)
    digests.update(BODY)
    assert digests.in_hex() == {"sha512": hashlib.sha512(BODY).hexdigest(), "md5": hashlib.md5(BODY, usedforsecurity=False).hexdigest()}
    assert said.answer_fields(BODY) == [
        (b"content-digest", f"crc32c=:{SAMPLES['crc32c']}:".encode()),
        (b"repr-digest", f"sha-512=:{SAMPLES['sha-512']}:".encode()),
    ]


def test_what_is_supported_is_told_as_a_wish() -> None:
    told: Any = http_sf.parse(SUPPORTED, tltype="dictionary")
    assert set(told) == set(SIZES)
    assert all(0 < weight <= 10 for weight, _ in told.values())


@pytest.mark.parametrize("member", [f"a{{}}={SHA256[8:]}", "a{}", "a{}=1", "a{}=(1 2)", "a{};b=1"])
def test_ten_thousand_members_cost_next_to_nothing(member: str) -> None:
    value = ", ".join(member.format(number) for number in range(10_000))
    began = time.process_time()
    with pytest.raises(DigestUnsupported):
        claims(("content-digest", value))
    with pytest.raises(DigestUnsupported):
        claims(*[("repr-digest", member.format(number)) for number in range(10_000)])
    assert claims(("want-repr-digest", value)) == Claims({}, {})
    assert time.process_time() - began < 2.0
    assert len(value) > FIELD_LIMIT


words = st.sampled_from(
    [*SIZES, "sha", "=", ":", ",", ";", " ", "(", ")", '"', "?1", "10", "-1", "@1", '%"%ff"', SAMPLES["sha-256"], MD5, "\x00", "\xff"]
)
values = st.one_of(st.binary(max_size=200), st.lists(words, max_size=12).map(lambda parts: "".join(parts).encode("latin-1")))
fields = st.lists(st.tuples(st.sampled_from(sorted(FIELDS | {b"content-range"})), values), max_size=6)


@given(fields)
def test_whatever_the_fields_hold_the_verdict_is_one_of_ours(headers: Sequence[Field]) -> None:
    try:
        said = read_claims(headers)
    except (DigestUnsupported, DigestMismatch):
        return
    if said is not None:
        assert all(len(value) == SIZES[name] for name, value in said.digests.items())
        digests = Digests(said)
        digests.update(b"x")
        digests.find_fault({CRC32C: bytes(4)})
        assert CRC32C not in digests.in_hex()
        assert len(said.answer_fields(b"x")) <= 2
