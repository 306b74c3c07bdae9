"""One trial: a load through a server, with the processor time of everybody who took part.

The generator connects and warms up; only then is the time of the others read, and read again when the answers are there and
the server has come to rest: what Relay still has to do for its account counts, too.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.generator import SINK_SAYS, percentile
from bench.lag_probe import EVERY_SECONDS, LagFile
from bench.loads import MIB, Load
from bench.memory import forget_peak, held_bytes, peak_bytes
from bench.processes import ROOT, BrokenError, tree_of
from bench.relay_server import LAG_FILE
from bench.rows import Entrant
from bench.servers import PASS_PATH, Server
from bench.stage import Stage

REST_WINDOW_SECONDS = 0.1
REST_SHARE = 0.05
DIGEST_TOLD = '"sha256":'
LONGEST_REST_SECONDS = 5.0
LONGEST_LAG_SECONDS = 5.0


@dataclass(slots=True, kw_only=True)
class Trial:
    """What one trial showed. Times are seconds; ``postgres`` is None for those who have none."""

    row: str
    entrant: str
    round: int
    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    own_cpu: float = 0.0
    postgres_cpu: float | None = None
    generator_cpu: float = 0.0
    sink_cpu: float = 0.0
    stolen: float = 0.0
    """Of the time that somebody here had to do, the share in which the host let the processors do something else."""
    values: dict[str, float] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)


@contextlib.contextmanager
def generator(order: dict[str, Any], module: str = "bench.generator", python: str = sys.executable) -> Iterator["subprocess.Popen[str]"]:
    """A generator that was told what to do; it is ended at the end."""
    process = subprocess.Popen(
        [python, "-m", module],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        say(process, json.dumps(order))
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: "subprocess.Popen[str]", line: str) -> None:
    """Tell a child something."""
    if process.stdin is None:
        raise BrokenError("the child has no input")
    with contextlib.suppress(BrokenPipeError):  # it has ended: what it says next tells why
        process.stdin.write(line + "\n")
        process.stdin.flush()


def hear(process: "subprocess.Popen[str]") -> str:
    """The next line of a child.

    Raises:
        BrokenError: it ended instead.
    """
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        process.wait()
        told = process.stderr.read() if process.stderr is not None else ""
        raise BrokenError(f"the generator ended: {told[-800:]}")
    return line.strip()


def order_for(server: Server, load: Load, seconds: float) -> dict[str, Any]:
    """What the generator is told."""
    return {
        "port": server.port,
        "path": PASS_PATH,
        "key": server.key_for(load.sink),
        "size": load.size,
        "connections": load.connections,
        "seconds": seconds,
        "framing": load.framing,
        "rate": load.rate,
        "is_tls": load.is_tls,
        "says": DIGEST_TOLD if load.is_kept else SINK_SAYS,
    }


def rest(server: Server) -> None:
    """Wait until a server does next to nothing, or for so long."""
    deadline = time.monotonic() + LONGEST_REST_SECONDS
    before = sum(filter(None, server.spent()))
    while time.monotonic() < deadline:
        time.sleep(REST_WINDOW_SECONDS)
        now = sum(filter(None, server.spent()))
        if now - before < REST_WINDOW_SECONDS * REST_SHARE:
            return
        before = now


def samples_of(lag: LagFile, before: int) -> list[float]:
    """The lags since there were so many; one at least, which a short trial may have to wait for."""
    deadline = time.monotonic() + LONGEST_LAG_SECONDS
    while lag.count == before and time.monotonic() < deadline:
        time.sleep(EVERY_SECONDS)
    return lag.since(before) or [LONGEST_LAG_SECONDS]


def run_load(stage: Stage, row: str, round_: int, entrant: Entrant, seconds: float, **more: Any) -> Trial:
    """Run one trial; ``more`` goes to the generator."""
    server, load = stage.server(entrant.server), entrant.load
    order = order_for(server, load, seconds) | more
    pids = [pid for root in server.pids() for pid in tree_of(root)[0]] if load.is_kept else []
    lag = lag_file(stage, entrant)
    with generator(order, "bench.tls_generator" if load.is_tls else "bench.generator") as process:
        hear(process)
        rest(server)
        own, postgres = server.spent()
        sunk, lags = stage.spent_by_sink(load.sink), lag.count if lag else 0
        forget_peak(pids)
        held = held_bytes(pids)
        say(process, "go")
        told = json.loads(hear(process))
        if lag is not None:
            told["values"]["lag_p999_ms"] = percentile(samples_of(lag, lags), 0.999) * 1e3
        if pids:
            told["values"] |= memory_values(peak_bytes(pids), held, load.connections)
    rest(server)
    own_after, postgres_after = server.spent()
    return Trial(
        row=row,
        entrant=entrant.name,
        round=round_,
        requests=told["requests"],
        bytes=told["requests"] * load.size,
        seconds=told["seconds"],
        own_cpu=own_after - own,
        postgres_cpu=None if postgres is None or postgres_after is None else postgres_after - postgres,
        generator_cpu=told["cpu"],
        sink_cpu=stage.spent_by_sink(load.sink) - sunk,
        values=told["values"],
    )


def memory_values(peak: int, before: int, uploads: int) -> dict[str, float]:
    """The most that was held in a trial, and how much more than before that was for each upload."""
    return {"peak_mib": peak / MIB, "mib_each": (peak - before) / MIB / uploads}


def lag_file(stage: Stage, entrant: Entrant) -> LagFile | None:
    """The samples of the server's loop, where it takes any."""
    path: Path = stage.folder_of(entrant.server) / LAG_FILE
    return LagFile(path) if path.exists() else None
