"""The folder of a run's metrics: dead runs are cleared away, running ones are not touched."""

import fcntl
import os
from pathlib import Path

from relay.cli.metrics_folder import MetricsFolder


def runs(data_dir: Path) -> set[Path]:
    return set((data_dir / "metrics").iterdir())


def test_folder_goes_with_its_run(tmp_path: Path) -> None:
    folder = MetricsFolder(tmp_path)
    assert runs(tmp_path) == {folder.path}
    folder.close()
    assert runs(tmp_path) == set()


def test_folder_of_a_dead_run_is_removed(tmp_path: Path) -> None:
    dead = tmp_path / "metrics" / "dead"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    (dead / "counter_1.db").touch()
    folder = MetricsFolder(tmp_path)
    assert runs(tmp_path) == {folder.path}
    folder.close()


def test_folder_of_a_running_one_stays(tmp_path: Path) -> None:
    other = tmp_path / "metrics" / "other"
    other.mkdir(parents=True)
    descriptor = os.open(other / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    folder = MetricsFolder(tmp_path)
    assert runs(tmp_path) == {other, folder.path}
    folder.close()
    os.close(descriptor)


def test_dead_worker_keeps_its_counters_and_loses_its_gauges(tmp_path: Path) -> None:
    folder = MetricsFolder(tmp_path)
    for name in ("counter_7.db", "histogram_7.db", "gauge_livesum_7.db", "gauge_livemax_7.db", "gauge_livesum_77.db"):
        (folder.path / name).touch()
    folder.forget(7)
    assert {path.name for path in folder.path.glob("*.db")} == {"counter_7.db", "histogram_7.db", "gauge_livesum_77.db"}
    folder.close()
