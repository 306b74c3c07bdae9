"""Base images where no registry is reachable: Debian roots made by debootstrap, imported under the official names.

Made once and kept in the cache folder as archives. They are imported only into a daemon that was started for this, and
bear a label, so that nobody takes them for what they stand for.
"""

import concurrent.futures
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from verification.daemon import find, install
from verification.telling import LONG_SECONDS, Failed, note, run, substitute, succeeds

SUITE = "trixie"
LABEL = "relay.stand-in"
USELESS = ("debootstrap", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists", "var/log")
ENTRY_POINT = Path(__file__).with_name("postgres-entrypoint")
PULL_SECONDS = 600.0
RECIPE = hashlib.sha256(Path(__file__).read_bytes() + ENTRY_POINT.read_bytes()).hexdigest()[:12]
"""Part of the archives' names: one that was made otherwise is not used again."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """How one base image is made."""

    packages: str
    finish: Callable[[Path], None]
    changes: tuple[str, ...]
    described: str


def finish_python(root: Path) -> None:
    """Lay Python where the official image has it."""
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3")


def finish_postgres(root: Path) -> None:
    """Take the package's own cluster away and put the entry point in."""
    shutil.rmtree(root / "var/lib/postgresql", ignore_errors=True)
    shutil.copy(ENTRY_POINT, root / "usr/local/bin/docker-entrypoint.sh")
    run(
        "chroot", root, "install", "-d", "-o", "postgres", "-g", "postgres", "-m", "1777", "/var/lib/postgresql/data", "/var/run/postgresql"
    )


STAND_INS = {
    "python": StandIn("python3,python3-venv,python3-pip,ca-certificates", finish_python, ("CMD python3",), "Python {}"),
    "postgres": StandIn(
        "postgresql-17",
        finish_postgres,
        (
            "ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ENV PGDATA=/var/lib/postgresql/data",
            'ENTRYPOINT ["docker-entrypoint.sh"]',
            'CMD ["postgres"]',
            "EXPOSE 5432",
            "VOLUME /var/lib/postgresql/data",
        ),
        "PostgreSQL {} and an entry point of ours",
    ),
}


def are_here(names: list[str]) -> bool:
    """Whether the daemon has the real images or can pull them."""
    for name in names:
        if succeeds("docker", "image", "inspect", name):
            told = run("docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', name).strip()
            if told not in {"", "<no value>"}:
                return False
        elif not succeeds("docker", "pull", "-q", name, seconds=PULL_SECONDS):
            return False
    return True


def import_all(names: list[str], cache: Path) -> None:
    """Make what is not in the cache yet, and import it under these names.

    Raises:
        Failed: a name is none that we can stand in for, or a root cannot be made here.
    """
    kinds = {name: name.partition(":")[0] for name in names}
    if unknown := [name for name, kind in kinds.items() if kind not in STAND_INS]:
        raise Failed(f"no registry is reachable, and nothing can stand for {', '.join(unknown)}")
    archives = {name: cache / f"{kind}-{SUITE}-{RECIPE}.tar" for name, kind in kinds.items()}
    if missing := {kinds[name]: archive for name, archive in archives.items() if not archive.exists()}:
        install({"debootstrap": "debootstrap"})
        mirror = find_mirror()
        note(f"making with debootstrap {SUITE} (minutes, once): {', '.join(missing)}")
        with concurrent.futures.ThreadPoolExecutor(len(missing)) as together:
            for made in [together.submit(make, STAND_INS[kind], archive, mirror) for kind, archive in missing.items()]:
                made.result()
    for name, archive in archives.items():
        stand_in = STAND_INS[kinds[name]]
        versions = archive.with_suffix(".versions").read_text(encoding="utf-8")
        described = stand_in.described.replace("{}", version_of(stand_in.packages.partition(",")[0], versions))
        changes = [f"--change={change}" for change in (*stand_in.changes, f'LABEL {LABEL}="debootstrap {SUITE}"')]
        run("docker", "import", *changes, archive, name, seconds=LONG_SECONDS)
        substitute(name, f"debootstrap {SUITE} with {described}")


def version_of(package: str, told: str) -> str:
    """The version of a package in what dpkg-query told."""
    found = re.search(rf"^{re.escape(package)}\t(?:\d+:)?([\d.]+)", told, re.MULTILINE)
    return found[1] if found else "?"


def make(stand_in: StandIn, archive: Path, mirror: str) -> None:
    """Make one root and archive it; an archive appears whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="root-", dir=archive.parent) as folder:
        root = Path(folder) / "root"
        include = f"--include={stand_in.packages}"
        # The packages configure themselves as in a chroot: nothing is to be started.
        environment = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1", "LC_ALL": "C.UTF-8"}
        program = find("debootstrap") or "debootstrap"
        run(program, "--variant=minbase", include, SUITE, root, mirror, seconds=LONG_SECONDS, environment=environment)
        stand_in.finish(root)
        versions = run("chroot", root, "dpkg-query", "-W", "-f", "${Package}\t${Version}\n")
        for name in USELESS:
            shutil.rmtree(root / name, ignore_errors=True)
        (root / "var/log").mkdir()
        (root / "etc/apt/sources.list").write_text("", encoding="ascii")
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        unfinished = archive.with_suffix(".unfinished")
        run("tar", "--numeric-owner", "--one-file-system", "-C", root, "-cf", unfinished, ".", seconds=LONG_SECONDS)
        archive.with_suffix(".versions").write_text(versions, encoding="utf-8")
        unfinished.replace(archive)


# ── Debian's mirror, as this machine's apt is told it ────────────────────────────────────────────


def find_mirror() -> str:
    """The Debian archive that apt uses here, or ``DEBIAN_MIRROR``.

    Raises:
        Failed: apt names none.
    """
    if given := os.environ.get("DEBIAN_MIRROR"):
        return given
    for uri in uris():
        if re.fullmatch(r"https?://\S+/debian/?", uri):
            return uri
    raise Failed("apt's sources name no Debian archive: set DEBIAN_MIRROR to one")


def uris() -> Iterator[str]:
    """Every address in apt's sources, in both of its notations."""
    folder = Path("/etc/apt")
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if path.suffix not in {".list", ".sources"} or not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if path.suffix == ".list":
                yield from re.findall(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)", line)
            elif line.startswith("URIs:"):
                yield from line.split()[1:]
