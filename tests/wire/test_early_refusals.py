"""A service that refuses early is heard, whatever it does next; the long form is ``python -m tests.wire.early_refusals``."""

import gc
import os
from pathlib import Path

import pytest

from relay.errors import DestinationBroke
from relay.wire.channel import Channel, Undertow
from tests.support.bodies import ScriptedBody, make_item
from tests.support.certificates import make_certificate
from tests.support.loops import LOOPS, run_in
from tests.support.waiting import until
from tests.wire.early_refusals import EXPECTED, PIECE_BYTES, Refusing, descriptors_of, refuse_all
from tests.wire.test_client import destination

UPLOADS = 12
PIECES = 60
SHORT = [(LOOPS[0], False), (LOOPS[0], True), (LOOPS[-1], False)]
"""Every loop, and both sides of TLS; the last corner is for the long run."""


@pytest.mark.full
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
async def test_clients_are_told_of_every_early_refusal(loop: str, is_tls: bool, database_url: str, tmp_path: Path) -> None:
    assert not await refuse_all(tmp_path, loop, list(EXPECTED), 30, is_tls=is_tls, RELAY_DATABASE_URL=database_url)


@pytest.mark.parametrize(
    ("loop", "is_tls"),
    [
        (loop, is_tls) if (loop, is_tls) in SHORT else pytest.param(loop, is_tls, marks=pytest.mark.full)
        for loop in LOOPS
        for is_tls in (False, True)
    ],
)
def test_what_breaks_while_it_is_written_to_is_read_out_and_leaves_nothing(loop: str, is_tls: bool, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path) if is_tls else None
    service = Refusing(certificate)
    url = f"{'https' if is_tls else 'http'}://127.0.0.1:{service.port}"

    async def upload(way: str) -> list[int]:
        statuses = []
        async with destination(url, certificate.client_context() if certificate is not None else None) as to:
            for number in range(UPLOADS):
                body = ScriptedBody([bytes(PIECE_BYTES)] * PIECES)
                try:
                    async with to.deliver(make_item(f"{number}/{way}-{number * 10_000}"), body) as delivery:
                        statuses.append(delivery.status)
                except DestinationBroke:
                    statuses.append(502)
        return statuses

    async def run() -> None:
        await upload("drains")
        before = descriptors_of(os.getpid())
        assert await upload("closes") == [413] * UPLOADS
        assert await upload("resets") == [502] * UPLOADS
        await until(lambda: descriptors_of(os.getpid()) <= before)

    gc.collect()
    of_others = connections()
    with service.running():
        run_in(loop, run)
    gc.collect()
    assert connections() <= of_others


def connections() -> set[int]:
    """The connections that something still holds."""
    return {id(held) for held in gc.get_objects() if isinstance(held, Channel | Undertow)}
