"""A disk to write to: a root, an outside that must never change, both ways of making a file without a name."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from relay.destinations import disk_file
from relay.destinations.store import StoreDestination
from tests.support.disks import MakeDisk, disk_config, open_disk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """``named``: as on a file system without ``O_TMPFILE``."""
    if request.param == "named":
        monkeypatch.setattr(disk_file, "_TMPFILE", 0)
    return str(request.param)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def make_disk(root: Path, threads: ThreadPoolExecutor) -> MakeDisk:
    def make(
        directory: str = "acme", *, below: Path = root, idle_seconds: float = 20.0, is_replacing: bool = False, template: str = "{path}"
    ) -> StoreDestination:
        config = disk_config(directory, is_replacing=is_replacing, key_template=template)
        return open_disk(below, config, threads, timedelta(seconds=idle_seconds))

    return make
