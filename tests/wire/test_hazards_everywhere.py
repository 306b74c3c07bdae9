"""The table of hazards on both event loops, under both server classes, plain and over TLS on both sides."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.certificates import make_certificate
from tests.support.loops import LOOPS, run_in
from tests.support.postgres import TemplateServer
from tests.support.running_relay import RunningRelay
from tests.wire.test_hazards import HAZARDS, Relays, check_hazard

AT_ONCE: Final = 2


def hazard_under(hazard: dict[str, Any], *ways: str) -> dict[str, Any] | None:
    """The row as it is expected under these ways of serving; ``None`` where it says that it cannot be had there."""
    for way in ways:
        other = hazard.get(way, {})
        if isinstance(other, str):
            return None
        hazard = {**hazard, "expect": {**hazard["expect"], **other}}
    return hazard


def groups(*ways: str) -> list[list[dict[str, Any]]]:
    """The rows that can be had under these ways, those together that share a relay's settings."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for hazard in HAZARDS:
        if (row := hazard_under(hazard, *ways)) is not None:
            grouped.setdefault(json.dumps(row.get("settings", {}), sort_keys=True), []).append(row)
    return list(grouped.values())


@pytest.mark.full
@pytest.mark.timeout(400)  # every hazard, some of which take seconds
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("http", [None, "peeking", "h11"], ids=["ours", "peeking", "h11"])
@pytest.mark.parametrize("loop", LOOPS)
def test_hazards_everywhere(
    loop: str, http: str | None, is_tls: bool, postgres_server: TemplateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path) if is_tls else None
    if certificate is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    if http == "peeking":  # at every body, not at long ones in large pieces only
        for name in (
            "protocols.framed.LONG_BYTES",
            "protocols.chunked.LONG_BYTES",
            "protocols.chunked.COARSE_BYTES",
            "wire.channel.MOVED_BYTES",
        ):
            monkeypatch.setattr(f"relay.{name}", 1)
        http = None
    ways = [*(["h11"] if http else []), *(["tls"] if is_tls else [])]
    options = {**({"http": http} if http else {}), **({"certificate": str(certificate.path)} if certificate else {})}
    found: dict[str, str] = {}

    async def check(relay: RunningRelay, rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            try:
                await check_hazard(row, relay, certificate)
            except (AssertionError, OSError) as error:
                found[row["name"]] = f"{type(error).__name__}: {error}".partition("\n")[0]

    async def run() -> None:
        for number, rows in enumerate(groups(*ways)):  # one relay at a time: all of them would need more of Postgres than it has
            async with AsyncExitStack() as stack:
                relays = Relays(postgres_server, tmp_path / str(number), stack, **options)
                relay = await relays.of(rows[0].get("settings", {}))
                left = iter(rows)
                await asyncio.gather(*(check(relay, left) for _ in range(AT_ONCE)))

    run_in(loop, run)
    assert not found, "\n".join(f"{name}: {what}" for name, what in found.items())
