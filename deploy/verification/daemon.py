"""A Docker daemon: the one that answers, or one started by hand with folders of its own, which is ended afterwards."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from verification.telling import Failed, note, run, step, substitute, succeeds

START_SECONDS = 60.0
STOP_SECONDS = 60.0
WAYS = ((), ("--storage-driver=vfs",), ("--storage-driver=vfs", "--iptables=false", "--ip6tables=false"))
"""What dockerd is started with, tried in this order: some kernels have no overlayfs, some no netfilter."""


def install(packages: dict[str, str]) -> None:
    """Install the Debian packages of missing programs (program: package), as root; say so.

    Raises:
        Failed: they cannot be installed here.
    """
    missing = sorted({package for program, package in packages.items() if find(program) is None})
    if not missing:
        return
    if os.geteuid() != 0 or find("apt-get") is None:
        raise Failed(f"missing: {', '.join(missing)}. Install them, or run this as root on Debian or Ubuntu.")
    note(f"installing with apt-get: {' '.join(missing)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run("apt-get", "update", "-q", seconds=300, environment=environment)
    run("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing, seconds=600, environment=environment)


def find(program: str) -> str | None:
    """Find a program, those of the administrator included."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def answers() -> bool:
    """Whether a Docker daemon answers where ``DOCKER_HOST`` or the default says."""
    return succeeds("docker", "version", "--format", "{{.Server.Version}}", seconds=15)


@contextlib.contextmanager
def own_daemon(cache: Path) -> Iterator[None]:
    """Run dockerd for a while, with ``DOCKER_HOST`` set to it; nothing of it is left afterwards.

    Its images and volumes lie below ``cache``, which must be on a real disk; its sockets lie where names are short.

    Raises:
        Failed: it does not start.
    """
    if os.geteuid() != 0:
        raise Failed("no Docker daemon that can be used answers, and only root can start one. Start Docker, or run this as root.")
    data, sockets = Path(tempfile.mkdtemp(prefix="docker-", dir=cache)), Path(tempfile.mkdtemp(prefix="relay-docker-"))
    address = f"unix://{sockets / 'docker.sock'}"
    before = os.environ.get("DOCKER_HOST")
    network = Network(sockets / "iptables")
    os.environ["DOCKER_HOST"] = address
    process = None
    try:
        process, way = start(data, sockets, address)
        version = run("docker", "version", "--format", "{{.Server.Version}}").strip()
        substitute(
            "the machine's Docker daemon", f"dockerd {version} started by hand as process {process.pid} ({' '.join(way) or 'defaults'})"
        )
        yield
    finally:
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before
        if process is not None:
            step("stopping dockerd")
            stop(process)
        network.restore()
        succeeds("umount", sockets / "exec/netns/default")  # dockerd leaves it, and then the folder cannot go
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(sockets, ignore_errors=True)


class Network:
    """What dockerd changes of the host's network and does not take back: rules, a bridge, forwarding."""

    FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
    BRIDGE = Path("/sys/class/net/docker0")

    def __init__(self, rules: Path) -> None:
        self._had_bridge = self.BRIDGE.exists()
        self._forwarding = self.FORWARDING.read_text(encoding="ascii")
        self._rules = rules
        self._has_rules = find("iptables-save") is not None and succeeds("sh", "-c", f"'{find('iptables-save')}' > '{rules}'")

    def restore(self) -> None:
        """Take it back, unless Docker was here before."""
        if self._had_bridge:
            return
        if self._has_rules:
            succeeds(find("iptables-restore") or "iptables-restore", self._rules)
        if self.BRIDGE.exists():
            succeeds("ip", "link", "delete", "docker0")
        with contextlib.suppress(OSError):
            self.FORWARDING.write_text(self._forwarding, encoding="ascii")


def start(data: Path, sockets: Path, address: str) -> tuple["subprocess.Popen[bytes]", tuple[str, ...]]:
    """Start dockerd in the first way that works."""
    log = sockets / "log"
    for way in WAYS:
        places = ("--data-root", str(data), "--exec-root", str(sockets / "exec"), "--pidfile", str(sockets / "pid"))
        command = [find("dockerd") or "dockerd", *places, "-H", address, *way]
        with log.open("ab") as file:
            process = subprocess.Popen(  # noqa: S603 - dockerd
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if answers():
                return process, way
            time.sleep(0.5)
        stop(process)
    raise Failed(f"dockerd does not start; the end of its log:\n{log.read_text(errors='replace')[-3000:]}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End dockerd, and its containerd with it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
