"""What the figures were measured on: machine, kernel, versions."""

import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.processes import ROOT
from bench.servers import python_version, version_of

PEERS = ("nginx", "haproxy", "caddy", "in Python")

_WORKING, _STOLEN = (0, 1, 2, 5, 6), 7
"""Of the first line of ``/proc/stat`` (proc_stat(5)): user, nice, system, irq, softirq; steal."""


def describe() -> dict[str, Any]:
    """Machine and programs, as the results begin."""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int((_first("/proc/meminfo", "MemTotal") or "0").split()[0]) / (1 << 20), 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": python_version(),
        "load": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "relay": digest_of_relay(),
        "peers": {name: version for name in PEERS if (version := version_of(name)) is not None},
    }


def _first(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def digest_of_relay() -> str:
    """What tells one Relay from another: the digest of its code."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "relay").rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str | None:
    try:
        told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


@dataclass(frozen=True, slots=True)
class Ticks:
    """How long the processors have worked, and were kept from working by the host that they are shared with."""

    working: int = 0
    stolen: int = 0

    @classmethod
    def now(cls) -> "Ticks":
        """Since the machine began. Where the system does not tell, nothing."""
        try:
            told = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        except OSError:
            return cls()
        return cls(sum(int(told[at]) for at in _WORKING), int(told[_STOLEN]))

    def stolen_since(self, before: "Ticks") -> float:
        """The share that was stolen of the time between two looks in which there was something to do."""
        working, stolen = self.working - before.working, self.stolen - before.stolen
        return stolen / (working + stolen) if working + stolen > 0 else 0.0
