"""kill -9 in the middle of an upload, and what sweeps up after it; the memory of a large upload."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.destinations.disk_file import sweep
from tests.support.disks import temp_names, visible

PROGRAM = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from relay.destinations import disk_file
from tests.support.bodies import ScriptedBody, make_item
from tests.support.disks import disk_config, open_disk

root, way, many = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if way == "named":
    disk_file._TMPFILE = 0

class Body(ScriptedBody):
    def __init__(self, mebibytes, is_hanging):
        super().__init__([])
        self.mebibytes, self.is_hanging = mebibytes, is_hanging
    async def __aiter__(self):
        for number in range(16 * self.mebibytes):
            yield bytes([number % 256]) * 65536
            await asyncio.sleep(0)
        if self.is_hanging:
            print("halfway", flush=True)
            await asyncio.sleep(60)

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))

async def main():
    disk = open_disk(root, disk_config(), ThreadPoolExecutor(2), timedelta(seconds=60))
    if not many:
        async with disk.deliver(make_item("killed"), Body(2, True)):
            pass
    async with disk.deliver(make_item("small"), Body(1, False)):
        before = peak()
    async with disk.deliver(make_item("large"), Body(many, False)):
        print("grown", peak() - before, flush=True)

asyncio.run(main())
"""


@contextmanager
def program(root: Path, way: str, mebibytes: int) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), way, str(mebibytes)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def first_line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.parametrize(("way", "left"), [("nameless", 0), ("named", 1)])
def test_killed_midway_nothing_is_visible_and_the_sweep_removes_what_is_left(root: Path, way: str, left: int) -> None:
    with program(root, way, 0) as child:
        assert first_line(child) == "halfway"
        assert visible(root) == {}
        assert len(temp_names(root)) == left
        assert sweep(root) == 0, "the sweep took a file that a running process writes"
        assert len(temp_names(root)) == left
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert visible(root) == {}
    assert sweep(root) == left
    assert temp_names(root) == []


def test_the_sweep_of_a_fresh_root_finds_nothing(root: Path) -> None:
    assert sweep(root) == 0


def test_the_sweep_leaves_what_is_no_file_alone(root: Path) -> None:
    (root / ".relay-tmp/folder").mkdir(parents=True)
    (root / ".relay-tmp/link").symlink_to(root / "elsewhere")
    (root / "elsewhere").write_bytes(b"keep")
    assert sweep(root) == 0
    assert (root / "elsewhere").read_bytes() == b"keep"


@pytest.mark.parametrize("way", ["nameless", "named"])
def test_a_large_body_takes_no_more_memory_than_a_small_one(root: Path, way: str) -> None:
    with program(root, way, 64) as child:
        word, grown_kib = first_line(child).split()
    assert word == "grown"
    assert (root / "acme/large").stat().st_size == 64 << 20
    assert int(grown_kib) < 12 << 10
