"""Many uploads whose destination takes nothing: what Relay's workers hold of them, and that they let go of all of it.

Every trial has a relay of its own, so that nothing grown before hides what grows now. The sink is stopped by a signal, so
connections are made and fill up; when nothing moves any more, the workers' own memory is read. Then the sink goes on, every
upload has to end well, and what is left of the growth is read again. The same again on the same relay tells what it keeps
for later from what it loses for good.
"""

import json
import os
import signal
import time
from dataclasses import dataclass, replace

from bench.loads import KIB, MIB, Load
from bench.memory import private_bytes
from bench.processes import tree_of
from bench.rows import Entrant
from bench.servers import Server
from bench.stage import Stage
from bench.trials import Trial, generator, hear, order_for, rest, run_load, say

WARM_CONNECTIONS = 8
WARM_SECONDS = 0.2
SETTLE_SECONDS = 15.0
SETTLE_POLL_SECONDS = 0.25


def run_stalled(stage: Stage, row: str, round_: int, entrant: Entrant) -> Trial:
    """Run it once."""
    server, load = stage.renewed(entrant.server), entrant.load
    own = [pid for root in server.pids() for pid in tree_of(root)[0]]
    run_load(stage, row, round_, replace(entrant, load=replace(load, connections=WARM_CONNECTIONS)), WARM_SECONDS)
    rest(server)
    before = private_bytes(own)
    began = time.perf_counter()
    first = _stall(stage, server, load, own)
    left = _left(own, before)
    second = _stall(stage, server, load, own)
    values = {
        "stalled": float(first.stalled),
        "kib_each": (first.bytes - before) / KIB / load.connections,
        "total_mib": (first.bytes - before) / MIB,
        "left_mib": left / MIB,
        "again_mib": (second.bytes - before) / MIB,
        "lost": float(2 * load.connections - first.good - second.good),
    }
    seconds = time.perf_counter() - began
    return Trial(row=row, entrant=entrant.name, round=round_, requests=first.good + second.good, seconds=seconds, values=values)


@dataclass(frozen=True, slots=True)
class Stall:
    """What was seen of one time: uploads that could send no more, the memory then, uploads that ended well."""

    stalled: int
    bytes: int
    good: int


def _stall(stage: Stage, server: Server, load: Load, own: list[int]) -> Stall:
    sink = stage.sinks[load.sink].pid
    with generator(order_for(server, load, 0.0), "bench.stalled_generator") as process:
        os.kill(sink, signal.SIGSTOP)
        try:
            stalled = int(hear(process))
            held = private_bytes(own)
        finally:
            os.kill(sink, signal.SIGCONT)
        say(process, "go")
        return Stall(stalled, held, int(json.loads(hear(process))["good"]))


def _left(own: list[int], before: int) -> int:
    """What of the growth is left, once it no longer shrinks."""
    deadline = time.monotonic() + SETTLE_SECONDS
    left = private_bytes(own) - before
    while left > MIB and time.monotonic() < deadline:
        time.sleep(SETTLE_POLL_SECONDS)
        left = private_bytes(own) - before
    return max(0, left)
