"""The rows: who sends what through whom, and what Relay must reach (the floor) and wants to reach (the aim).

A row is data. Its entrants run once a round, one after the other in a rotated order; a bound compares Relay with another
entrant of the same round, or judges a value by itself. nginx runs twice in every row of throughput: what it differs from
itself is what the machine adds, and where that is too much nothing is judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.loads import GIB, KIB, MIB, Load

RELAY = "Relay"
TEXTBOOK = "textbook"
NGINX = "nginx 256k"
AGAIN = ", again"
NGINX_AGAIN = NGINX + AGAIN
AT_REST = "Relay, at rest"
CADDY = "Caddy"
HAPROXY = "HAProxy"
DIRECT = "direct"

Metric = Literal[
    "cpu_per_gib",
    "cpu_per_request",
    "gib_per_second",
    "requests_per_second",
    "p50_ms",
    "p99_ms",
    "lag_p999_ms",
    "stalled",
    "kib_each",
    "total_mib",
    "left_mib",
    "again_mib",
    "lost",
    "kib_per_tenant",
    "refused",
    "seconds_per_gib",
    "peak_mib",
    "mib_each",
]
How = Literal["ratio", "difference", "value"]
Kind = Literal["load", "tenants", "stalled", "kept"]
Group = Literal["peers", "workers", "lag", "tls", "tenants", "stalled", "disk", "bucket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """Who takes part in a row: a server of ``stage.SERVERS`` under a load."""

    name: str
    server: str
    load: Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What the median over the rounds must be: at most, or at least, the floor; better, the aim."""

    metric: Metric
    floor: float
    aim: float | None = None
    of: str = RELAY
    against: str | None = None
    how: How = "ratio"
    is_least: bool = False
    at_rest: str | None = None
    """The entrant that shows what is the machine's own part of a value."""

    def holds(self, value: float, limit: float) -> bool:
        """Whether a value keeps a limit."""
        return value >= limit if self.is_least else value <= limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table. ``control`` are two entrants that are the same."""

    name: str
    title: str
    entrants: Sequence[Entrant]
    bounds: Sequence[Bound] = ()
    is_starred: bool = False
    group: Group = "peers"
    kind: Kind = "load"
    seconds: float = 1.0
    """How long a trial is, as a share of the run's."""
    rounds: int = 1
    """How many times the rounds of the run; those beyond the run's own are of who is judged only."""

    @property
    def control(self) -> tuple[str, str] | None:
        """The two that are the same: somebody, and the same again."""
        names = [entrant.name for entrant in self.entrants]
        return next(((name, name + AGAIN) for name in names if name + AGAIN in names), None)

    @property
    def judged(self) -> set[str]:
        """Whom the verdicts are of."""
        return {*(self.control or ()), *(name for bound in self.bounds for name in (bound.of, bound.against) if name is not None)}

    @property
    def load(self) -> Load:
        """What its first entrant is sent."""
        return self.entrants[0].load


STARRED_PEERS = {NGINX: "nginx-256k", TEXTBOOK: "textbook", CADDY: "caddy", NGINX_AGAIN: "nginx-256k", HAPROXY: "haproxy"}
"""Whom every run measures."""
SHORT_TRIAL, FULL_ROUNDS, SHORT_ROUNDS = 0.3, 5, 3
"""Of rows whose ratios are of programs: what is measured side by side must be so before the machine's mood changes, and often."""
HALF_TRIAL, MORE_ROUNDS = 0.5, 3
"""Of the other rows in which nginx, or nobody in between, shows what the machine adds."""
OTHER_PEERS = {
    "fastapi-proxy-lib": "proxy-lib",
    "nginx default": "nginx-default",
    "nginx unbuffered": "nginx-unbuffered",
    "HAProxy, splice-request": "haproxy-splice",
}
LEAST_STALLED = 100
"""Fewer are a trial of the benchmark, whose bodies are too short to stall."""
CONTROL = {NGINX: "nginx-256k", NGINX_AGAIN: "nginx-256k"}
SMALL_SIZES = {GIB: 32 * MIB, 256 * MIB: 24 * MIB, 64 * MIB: 4 * MIB, 16 * MIB: MIB}


def entrants(load: Load, servers: dict[str, str]) -> list[Entrant]:
    """The same load through several servers."""
    return [Entrant(name=name, server=server, load=load) for name, server in servers.items()]


def _throughput(name: str, title: str, load: Load, bounds: Sequence[Bound], *, is_full: bool) -> Row:
    servers = {RELAY: "relay", **STARRED_PEERS, **(OTHER_PEERS if is_full else {})}
    rounds = FULL_ROUNDS if is_full else SHORT_ROUNDS
    return Row(name=name, title=title, entrants=entrants(load, servers), bounds=bounds, is_starred=True, seconds=SHORT_TRIAL, rounds=rounds)


def starred_rows(*, is_full: bool) -> list[Row]:
    """The rows of ``make bench``; the full run sends them through more peers."""
    return [
        _throughput(
            "1gib",
            "1 GiB × 1",
            Load(size=GIB, connections=1),
            [
                Bound(metric="cpu_per_gib", against=NGINX, floor=1.3, aim=0.9),
                Bound(metric="cpu_per_gib", against=TEXTBOOK, floor=0.5),
                Bound(metric="gib_per_second", against=TEXTBOOK, floor=1.8, is_least=True),
            ],
            is_full=is_full,
        ),
        _throughput(
            "16mib",
            "16 MiB × 8",
            Load(size=16 * MIB, connections=8),
            [
                Bound(metric="cpu_per_gib", against=NGINX, floor=1.15, aim=0.8),
                Bound(metric="cpu_per_gib", against=CADDY, floor=1.0),
                Bound(metric="cpu_per_gib", against=HAPROXY, floor=1.0),
            ],
            is_full=is_full,
        ),
        _throughput(
            "64kib",
            "64 KiB × 16",
            Load(size=64 * KIB, connections=16),
            [
                Bound(metric="requests_per_second", against=TEXTBOOK, floor=4.5, aim=7.0, is_least=True),
                Bound(metric="cpu_per_request", against=CADDY, floor=2.2, aim=1.2),
            ],
            is_full=is_full,
        ),
        _throughput(
            "1kib",
            "1 KiB × 16",
            Load(size=KIB, connections=16),
            [Bound(metric="requests_per_second", against=TEXTBOOK, floor=4.0, aim=7.0, is_least=True)],
            is_full=is_full,
        ),
    ]


def _framed(name: str, title: str, load: Load, framed: Load, other: str) -> Row:
    ours = [Entrant(name=RELAY, server="relay", load=framed), Entrant(name=other, server="relay", load=load)]
    servers = [*ours, *entrants(load, CONTROL), *entrants(framed, {f"{NGINX}, {name}": "nginx-256k"})]
    bound = Bound(metric="cpu_per_gib", against=other, floor=1.2, aim=1.05)
    return Row(name=name, title=title, entrants=servers, bounds=[bound], seconds=HALF_TRIAL, rounds=MORE_ROUNDS)


def _latency() -> Row:
    load = Load(size=64 * KIB, connections=4, rate=50.0)
    servers = {RELAY: "relay", DIRECT: "direct", NGINX: "nginx-256k", TEXTBOOK: "textbook"}
    bound = Bound(metric="p99_ms", against=DIRECT, how="difference", floor=2.0, aim=1.0, at_rest=DIRECT)
    title = "added latency, 64 KiB at 50/s"
    return Row(name="latency", title=title, entrants=entrants(load, servers), bounds=[bound], seconds=2.5, rounds=MORE_ROUNDS)


def _lag(name: str, load: Load) -> Row:
    bound = Bound(metric="lag_p999_ms", how="value", floor=10.0, aim=3.0, at_rest=AT_REST)
    title = "loop lag, " + ("16 MiB × 8" if load.size > MIB else "64 KiB × 16")
    idle = Load(size=KIB, connections=1, rate=2.0)
    runs = [Entrant(name=RELAY, server="relay-lag", load=load), Entrant(name=AT_REST, server="relay-lag", load=idle)]
    return Row(name=name, title=title, entrants=runs, bounds=[bound], group="lag", seconds=2.5)


def _connections(counts: Sequence[int]) -> Row:
    names = {count: f"Relay, {count:,} connection{'s' if count > 1 else ''}" for count in counts}
    load = Load(size=64 * KIB, connections=1)
    runs = [Entrant(name=name, server="relay", load=replace(load, connections=count)) for count, name in names.items()]
    bounds = [
        Bound(metric="cpu_per_request", of=names[more], against=names[fewer], floor=1.25, aim=1.10)
        for fewer in counts[:2]
        for more in counts
        if more > fewer
    ]
    control = entrants(replace(load, connections=16), CONTROL)
    theirs = [replace(control[0], name=f"{NGINX}, {count:,} connections", load=replace(load, connections=count)) for count in counts[2:]]
    takers = [*runs, *control, *theirs]
    title = "more connections, 64 KiB"
    return Row(name="connections", title=title, entrants=takers, bounds=bounds, seconds=HALF_TRIAL, rounds=MORE_ROUNDS)


def _tenants(counts: Sequence[int]) -> Row:
    names = {count: f"Relay, {count:,} tenant{'s' if count > 1 else ''}" for count in counts}
    load = Load(size=KIB, connections=16, sink="closing")
    runs = [Entrant(name=name, server="relay", load=replace(load, tenants=count)) for count, name in names.items()]
    first, *others = names.values()
    bounds = [Bound(metric="cpu_per_request", of=name, against=first, floor=1.10, aim=1.05) for name in others]
    control = entrants(replace(load, sink="plain"), CONTROL)
    return Row(
        name="tenants",
        title="more tenants, 1 KiB × 16",
        entrants=[*runs, *control],
        bounds=bounds,
        group="tenants",
        kind="tenants",
        seconds=HALF_TRIAL,
        rounds=MORE_ROUNDS,
    )


def _stalled(count: int) -> list[Row]:
    bounds = [
        Bound(metric="kib_each", how="value", floor=400.0, aim=256.0),
        Bound(metric="total_mib", how="value", floor=256.0),
        Bound(metric="left_mib", how="value", floor=32.0),
        Bound(metric="lost", how="value", floor=0.0),
    ]
    if count > LEAST_STALLED:
        bounds.append(Bound(metric="stalled", how="value", floor=float(count), is_least=True))
    rows = []
    for sink in ("plain", "narrow"):
        load = Load(size=48 * MIB, connections=count, sink="narrow" if sink == "narrow" else "plain")
        title = f"{count} stalled uploads" + (", sink buffer 64 KiB" if sink == "narrow" else "")
        entrant = entrants(load, {RELAY: "relay"})
        rows.append(Row(name=f"stalled-{sink}", title=title, entrants=entrant, bounds=bounds, group="stalled", kind="stalled"))
    return rows


def _workers() -> Row:
    load = Load(size=16 * MIB, connections=8)
    other = "Relay, one worker"
    servers = {RELAY: "relay-2", other: "relay", **CONTROL}
    bound = Bound(metric="cpu_per_gib", against=other, floor=1.1, aim=1.0)
    return Row(
        name="workers",
        title="two workers, 16 MiB × 8",
        entrants=entrants(load, servers),
        bounds=[bound],
        group="workers",
        seconds=HALF_TRIAL,
        rounds=MORE_ROUNDS,
    )


def _tls() -> Row:
    load = Load(size=64 * MIB, connections=4, is_tls=True)
    nginx = "nginx 256k with TLS"
    bound = Bound(metric="cpu_per_gib", against=nginx, floor=1.5, aim=1.1)
    servers = {RELAY: "relay-tls", nginx: "nginx-tls", nginx + AGAIN: "nginx-tls"}
    return Row(
        name="tls",
        title="TLS in front, 64 MiB × 4",
        entrants=entrants(load, servers),
        bounds=[bound],
        group="tls",
        seconds=HALF_TRIAL,
        rounds=MORE_ROUNDS,
    )


def _disk() -> Row:
    load = Load(size=GIB, connections=1, sink="disk")
    copied, upload_file = "cp, sha256sum, sync", "FastAPI UploadFile"
    servers = {RELAY: "relay-disk", copied: "copy", "cp, openssl, sync": "copy-openssl", "cp, sha256sum, not synced": "copy-unsynced"}
    form = Entrant(name=upload_file, server="upload-file", load=replace(load, framing="form"))
    bounds = [
        Bound(metric="seconds_per_gib", against=copied, floor=1.5, aim=1.15),
        Bound(metric="seconds_per_gib", against=upload_file, floor=1.0),
    ]
    return Row(name="disk", title="to disk, 1 GiB × 1", entrants=[*entrants(load, servers), form], bounds=bounds, group="disk", kind="kept")


def _bucket() -> Row:
    load = Load(size=256 * MIB, connections=1, sink="bucket")
    boto, unsigned = "boto3, verified", ", bodies not signed"
    servers = {RELAY: "relay-bucket", boto: "boto3-verified", "boto3": "boto3", "rclone": "rclone"}
    many = Entrant(name="Relay, 4 at once", server="relay-bucket", load=replace(load, connections=4))
    ours = Entrant(name=RELAY + unsigned, server="relay-bucket", load=replace(load, sink="bucket-unsigned"))
    theirs = Entrant(name=boto + unsigned, server="boto3-verified-unsigned", load=load)
    bounds = [
        Bound(metric="cpu_per_gib", against=boto, floor=0.8, aim=0.5),
        Bound(metric="cpu_per_gib", of=ours.name, against=theirs.name, floor=0.8, aim=0.5),
    ]
    return Row(
        name="bucket",
        title="to a bucket, 256 MiB × 1",
        entrants=[*entrants(load, servers), ours, theirs, many],
        bounds=bounds,
        group="bucket",
        kind="kept",
    )


def all_rows(*, is_full: bool, is_small: bool = False) -> list[Row]:
    """Every row of a run. A small run is for trying the benchmark itself: its figures mean nothing."""
    rows = starred_rows(is_full=is_full)
    if is_full:
        form, chunked = Load(size=16 * MIB, connections=8), Load(size=64 * MIB, connections=4)
        rows += [
            _framed("form", "multipart form, 16 MiB × 8", form, replace(form, framing="form"), "Relay, raw"),
            _framed("chunked", "chunked, 64 MiB × 4", chunked, replace(chunked, framing="chunked"), "Relay, raw"),
            _latency(),
            _connections([1, 4, 16, 64] if is_small else [1, 16, 256, 1_000]),
            _lag("lag-16mib", Load(size=16 * MIB, connections=8)),
            _lag("lag-64kib", Load(size=64 * KIB, connections=16)),
            _workers(),
            _tls(),
            _disk(),
            _bucket(),
            _tenants([1, 10, 100] if is_small else [1, 1_000, 100_000]),
            *_stalled(20 if is_small else 500),
        ]
    return [_shrunk(row) for row in rows] if is_small else rows


def _shrunk(row: Row) -> Row:
    small = [
        replace(entrant, load=replace(entrant.load, size=SMALL_SIZES.get(entrant.load.size, entrant.load.size))) for entrant in row.entrants
    ]
    return replace(row, entrants=small, rounds=1, seconds=1.0)
