"""Uploads that are kept, on a disk or in a bucket, beside the programs that one would use where no server stands in between.

Before each trial everything is written back, so that nobody waits for what an earlier one left to the disk. After it the file that is
kept has to be there, whole in size, and is removed. A program does the same again and again until the time is up, like the
generator; its processor time is that of its processes.
"""

import json
import os
import resource
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.loads import BUCKETS, WARM_BYTES, Load
from bench.memory import forget_peak, held_bytes, peak_bytes
from bench.processes import BrokenError
from bench.rows import Entrant
from bench.servers import ACCESS_KEY, BENCH_PYTHON, BUCKET, SECRET_KEY
from bench.stage import BOTOS, COPIES, Stage
from bench.trials import Trial, generator, hear, memory_values, run_load, say

Commands = Callable[[Path, Path], Sequence[Sequence[str]]]

COPY_COMMANDS: dict[str, Commands] = {
    "copy": lambda source, target: [["cp", str(source), str(target)], ["sha256sum", str(target)], ["sync", str(target)]],
    "copy-openssl": lambda source, target: [
        ["cp", str(source), str(target)],
        ["openssl", "dgst", "-sha256", str(target)],
        ["sync", str(target)],
    ],
    "copy-unsynced": lambda source, target: [["cp", str(source), str(target)], ["sha256sum", str(target)]],
}
COPY_SECONDS = 600


def run_kept(stage: Stage, row: str, round_: int, entrant: Entrant, seconds: float) -> Trial:
    """Run one trial."""
    os.sync()
    kept = stage.kept_by("bucket" if entrant.load.sink in BUCKETS else entrant.server)
    if entrant.server in COPIES:
        trial = _copy(stage, entrant, seconds)
    elif entrant.server in BOTOS:
        trial = _upload_with_boto(stage, entrant, seconds)
    elif entrant.server == "rclone":
        trial = _upload_with_rclone(stage, entrant, seconds)
    else:
        trial = run_load(stage, row, round_, entrant, seconds)
    trial.row, trial.round = row, round_
    # Relay gives every object of a bucket its own key: of several that replace one another at once, this store loses some.
    _take_away(kept, entrant.load.size, trial.requests if entrant.server == "relay-bucket" else 1)
    return trial


def _take_away(kept: Path, size: int, count: int) -> None:
    """Look at what was kept, and remove it.

    Raises:
        BrokenError: it is not what was sent.
    """
    files = [path for path in kept.rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    if sizes.count(size) != count or any(each not in {size, WARM_BYTES} for each in sizes):
        raise BrokenError(f"kept were files of {sizes} bytes instead of {count} of {size}")
    for path in files:
        path.unlink()


def _until(seconds: float, act: Callable[[], None]) -> tuple[int, float]:
    """Do something again and again; returns how often, and how long it took."""
    began, times = time.perf_counter(), 0
    while not times or time.perf_counter() - began < seconds:
        act()
        times += 1
    return times, time.perf_counter() - began


def _trial(entrant: Entrant, times: int, seconds: float, cpu: float, **more: float) -> Trial:
    return Trial(
        row="", entrant=entrant.name, round=0, requests=times, bytes=times * entrant.load.size, seconds=seconds, own_cpu=cpu, values=more
    )


def _copy(stage: Stage, entrant: Entrant, seconds: float) -> Trial:
    commands = COPY_COMMANDS[entrant.server](stage.file_of(entrant.load.size), stage.kept_by(entrant.server) / "copy")

    def copy() -> None:
        for command in commands:
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=COPY_SECONDS)

    before = _spent_by_children()
    times, took = _until(seconds, copy)
    return _trial(entrant, times, took, _spent_by_children() - before)


def _spent_by_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _upload_with_boto(stage: Stage, entrant: Entrant, seconds: float) -> Trial:
    load: Load = entrant.load
    order = {
        "port": stage.bucket().port,
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        "bucket": BUCKET,
        "key": "boto3",
        "path": str(stage.file_of(load.size)),
        "warm_path": str(stage.file_of(min(load.size, WARM_BYTES))),
        "seconds": seconds,
        "is_verified": entrant.server != "boto3",
        "is_signed": entrant.server != "boto3-verified-unsigned",
    }
    with generator(order, "bench.boto_uploader", str(BENCH_PYTHON)) as process:
        hear(process)
        sunk = stage.spent_by_sink(load.sink)
        say(process, "go")
        told = json.loads(hear(process))
    trial = _trial(entrant, told["requests"], told["seconds"], told["cpu"], **told["values"])
    trial.sink_cpu = stage.spent_by_sink(load.sink) - sunk
    return trial


def _upload_with_rclone(stage: Stage, entrant: Entrant, seconds: float) -> Trial:
    server, load = stage.server("rclone"), entrant.load
    pids = server.pids()

    def copy(size: int) -> None:
        source = stage.file_of(size)
        told = {"srcFs": str(source.parent), "srcRemote": source.name, "dstFs": f"store:{BUCKET}", "dstRemote": "rclone"}
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}/operations/copyfile", json.dumps(told).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=COPY_SECONDS) as answer:
            answer.read()

    copy(min(load.size, WARM_BYTES))
    forget_peak(pids)
    held, own, sunk = held_bytes(pids), server.spent()[0], stage.spent_by_sink(load.sink)
    times, took = _until(seconds, lambda: copy(load.size))
    trial = _trial(entrant, times, took, server.spent()[0] - own, **memory_values(peak_bytes(pids), held, 1))
    trial.sink_cpu = stage.spent_by_sink(load.sink) - sunk
    return trial
