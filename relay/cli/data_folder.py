"""What the data directory lies on: the journal's promise holds only as long as its disk does."""

from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
FORGETFUL = {"tmpfs", "ramfs", "overlay", "nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs"}


def find_unsafe_file_system(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Name the file system below a folder if it forgets at a restart or lies behind a network; ``None`` if it is a disk.

    Where the system does not tell (no ``/proc``), nothing is claimed.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = folder.resolve()
    found: tuple[int, str] = (-1, "")
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape", "replace"))
        if place.is_relative_to(mount):
            found = max(found, (len(mount.parts), after.split()[0]), key=lambda item: item[0])
    kind = found[1]
    return kind if kind in FORGETFUL or kind.startswith("fuse") else None
