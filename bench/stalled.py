"""Many uploads whose destination takes nothing: what Relay's workers hold of them, and that they let go of all of it.

Every trial has a relay of its own, so that nothing grown before hides what grows now. The sink is stopped by a signal, so connections are made and fill up; when nothing moves any more, the workers' own memory
is read. Then the sink goes on, every upload has to end well, and what is left of the growth is read again.
"""

import json
import os
import signal
import time
from dataclasses import replace

from bench.loads import KIB, MIB
from bench.processes import private_bytes, tree_of
from bench.rows import Entrant
from bench.stage import Stage
from bench.trials import Trial, generator, hear, order_for, rest, run_load, say

WARM_CONNECTIONS = 8
WARM_SECONDS = 0.2
SETTLE_SECONDS = 5.0
SETTLE_POLL_SECONDS = 0.25


def run_stalled(stage: Stage, row: str, round_: int, entrant: Entrant) -> Trial:
    """Run it once."""
    server, load = stage.renewed(entrant.server), entrant.load
    sink = stage.sinks[load.sink].pid
    own = [pid for root in server.pids() for pid in tree_of(root)[0]]
    run_load(stage, row, round_, replace(entrant, load=replace(load, connections=WARM_CONNECTIONS)), WARM_SECONDS)
    rest(server)
    before = private_bytes(own)
    began = time.perf_counter()
    with generator(order_for(server, load, 0.0), "bench.stalled_generator") as process:
        os.kill(sink, signal.SIGSTOP)
        try:
            hear(process)
            grown = private_bytes(own) - before
        finally:
            os.kill(sink, signal.SIGCONT)
        say(process, "go")
        good = int(json.loads(hear(process))["good"])
    values = {
        "kib_each": grown / KIB / load.connections,
        "total_mib": grown / MIB,
        "left_mib": _left(own, before) / MIB,
        "lost": float(load.connections - good),
    }
    return Trial(row=row, entrant=entrant.name, round=round_, requests=good, seconds=time.perf_counter() - began, values=values)


def _left(own: list[int], before: int) -> int:
    """What of the growth is left, once it no longer shrinks."""
    deadline = time.monotonic() + SETTLE_SECONDS
    left = private_bytes(own) - before
    while left > MIB and time.monotonic() < deadline:
        time.sleep(SETTLE_POLL_SECONDS)
        left = private_bytes(own) - before
    return max(0, left)
