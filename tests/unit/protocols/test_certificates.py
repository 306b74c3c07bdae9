"""Certificates as text: what is read of them, and that nothing else comes along."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.protocols.certificates import CERTIFICATES_MOST, check_pair, describe_time, parse_certificates, parse_key
from tests.support.certificates import make_authority, make_certificate

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def test_only_the_certificates_are_kept_in_their_order(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    own = authority.issue("a.test")
    text = f"subject=a.test\r\n{own.pem}\n\nnotes: secret\n{authority.pem}\x00"
    assert parse_certificates(text).pem == own.pem + authority.pem


def test_a_key_among_certificates_is_refused_where_they_are_shown(tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    for text in (own.pem + own.key_pem, own.key_pem + own.pem, own.pem + own.key_pem_with(b"x")):
        with pytest.raises(ValueError, match="leave out the private key"):
            parse_certificates(text)
        assert parse_certificates(text, may_hold_key=True).pem == own.pem


@pytest.mark.parametrize(
    "text", ["", "x", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "é\0"]
)
def test_what_is_no_certificate_and_no_key_is_told_in_our_words(text: str) -> None:
    with pytest.raises(ValueError, match="use certificates in PEM"):
        parse_certificates(text)
    with pytest.raises(ValueError, match="use a private key in PEM"):
        parse_key(text)


def test_a_key_is_written_anew_and_belongs_to_one_certificate(tmp_path: Path) -> None:
    own, other = make_certificate(tmp_path), make_certificate(tmp_path)
    assert parse_key(f"notes\n{own.key_pem}\n{other.pem}") == own.key_pem
    check_pair(parse_certificates(own.pem + other.pem), own.key_pem)
    with pytest.raises(ValueError, match="not that of the first") as refused:
        check_pair(parse_certificates(other.pem + own.pem), own.key_pem)
    assert own.key_pem.splitlines()[1] not in str(refused.value)
    with pytest.raises(ValueError, match="without a passphrase"):
        parse_key(own.key_pem_with(b"secret"))


def test_a_chain_is_good_as_long_as_all_of_it(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    brief = authority.issue("a.test", until=NOW + HOUR)
    chain = parse_certificates(brief.pem + authority.pem)
    assert chain.chain_ends_at < NOW + 2 * HOUR < chain.last_ends_at
    assert describe_time(chain, NOW) is None
    assert describe_time(chain, NOW + 2 * HOUR) == f"expired at {NOW + HOUR:%Y-%m-%d %H:%M} UTC"
    assert str(describe_time(chain, NOW - timedelta(days=9))).startswith("is not valid before ")


def test_their_number_is_bounded(tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    with pytest.raises(ValueError, match="at most"):
        parse_certificates(own.pem * (CERTIFICATES_MOST + 1))
