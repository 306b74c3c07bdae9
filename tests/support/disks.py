"""What a test needs to know of a disk: its tree, and the descriptors that are open on it."""

from collections.abc import Callable
from concurrent.futures import Executor
from datetime import timedelta
from pathlib import Path

from relay.destinations.disk import DiskStore
from relay.destinations.disk_config import DiskConfig
from relay.destinations.disk_names import TEMP_FOLDER
from relay.destinations.keys import KeyTemplate
from relay.destinations.store import StoreDestination
from relay.settings import FormSettings

MakeDisk = Callable[..., StoreDestination]


def disk_config(directory: str = "acme", *, is_replacing: bool = False, key_template: str = "{path}") -> DiskConfig:
    """A disk destination's configuration."""
    return DiskConfig(directory=directory, overwrite="replace" if is_replacing else "refuse", key_template=key_template)


def open_disk(root: Path, config: DiskConfig, executor: Executor, idle_timeout: timedelta) -> StoreDestination:
    """A disk destination with threads of the caller's."""
    return StoreDestination(DiskStore(root, config, executor, idle_timeout), KeyTemplate(config.key_template), FormSettings())


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Everything below ``root``: files with their content, links with their target, folders with ``None``."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def visible(root: Path) -> dict[str, bytes | str | None]:
    """The tree without Relay's own temporary folder."""
    return {name: content for name, content in tree(root).items() if not name.startswith(TEMP_FOLDER)}


def temp_names(root: Path) -> list[str]:
    """The names in Relay's temporary folder."""
    folder = root / TEMP_FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def open_below(root: Path) -> int:
    """How many descriptors of this process are open on something below ``root``, or on the root."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            count += str(fd.readlink()).startswith(str(root))
        except FileNotFoundError:
            continue
    return count
