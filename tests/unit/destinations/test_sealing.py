"""Sealed credentials open with the right key in the right row, unaltered, and not otherwise."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.sealing import Sealer
from relay.errors import DestinationMisconfigured, RequestInvalid

OLD, NEW = bytes(32), bytes(range(32))
VALUE = {"headers": {"Authorization": "Bearer hush-hush", "X-Ü": "ä"}}
ROW = uuid4()


def test_sealed_value_opens_and_does_not_hold_the_plain_one() -> None:
    sealer = Sealer({"k1": NEW})
    sealed = sealer.seal(VALUE, identity=ROW)
    assert sealer.open(sealed, identity=ROW) == VALUE
    assert b"hush" not in sealed
    assert sealed != sealer.seal(VALUE, identity=ROW)


def test_first_key_seals_and_every_key_opens() -> None:
    old, both = Sealer({"old": OLD}), Sealer({"new": NEW, "old": OLD})
    assert both.open(old.seal(VALUE, identity=ROW), identity=ROW) == VALUE
    with pytest.raises(DestinationMisconfigured, match="RELAY_SECRET_KEY"):
        old.open(both.seal(VALUE, identity=ROW), identity=ROW)


def test_value_copied_into_another_row_does_not_open() -> None:
    sealer = Sealer({"k1": NEW})
    with pytest.raises(DestinationMisconfigured):
        sealer.open(sealer.seal(VALUE, identity=ROW), identity=uuid4())


def test_same_key_id_with_another_key_does_not_open() -> None:
    sealed = Sealer({"k1": OLD}).seal(VALUE, identity=ROW)
    with pytest.raises(DestinationMisconfigured) as failure:
        Sealer({"k1": NEW}).open(sealed, identity=ROW)
    assert "hush" not in str(failure.value)


def test_every_altered_bit_is_noticed() -> None:
    sealer = Sealer({"k1": NEW, "k0": NEW})  # so that a flipped key id still finds a key
    sealed = sealer.seal(VALUE, identity=ROW)
    for place in range(len(sealed)):
        for bit in range(8):
            altered = bytearray(sealed)
            altered[place] ^= 1 << bit
            with pytest.raises(DestinationMisconfigured):
                sealer.open(bytes(altered), identity=ROW)


@given(st.binary(max_size=200))
def test_whatever_is_opened_fails_in_one_way(sealed: bytes) -> None:
    with pytest.raises(DestinationMisconfigured):
        Sealer({"k1": NEW}).open(sealed, identity=ROW)


@given(st.integers(min_value=0, max_value=60))
def test_cut_value_does_not_open(length: int) -> None:
    sealer = Sealer({"k1": NEW})
    with pytest.raises(DestinationMisconfigured):
        sealer.open(sealer.seal(VALUE, identity=ROW)[:length], identity=ROW)


def test_nothing_is_sealed_without_a_key() -> None:
    sealer = Sealer({})
    assert not sealer.can_seal
    with pytest.raises(RequestInvalid, match="RELAY_SECRET_KEY") as refused:
        sealer.seal(VALUE, identity=ROW)
    assert refused.value.errors[0].location == ("body", "secrets")
    assert "hush" not in repr(refused.value.errors)


def test_repr_shows_no_key() -> None:
    assert repr(Sealer({"k1": NEW})) == "Sealer(1 keys)"
