from pathlib import Path

import pytest

from relay.cli.data_folder import find_unsafe_file_system

MOUNTS = r"""22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:20 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
24 22 0:21 / /srv/with\040space rw - nfs4 server:/x rw
25 23 8:2 / /run/disk rw - xfs /dev/sdb1 rw
26 22 0:22 / /mnt/s3 rw - fuse.rclone remote: rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/relay", None),
        ("/run/relay", "tmpfs"),
        ("/runner", None),
        ("/run/disk/relay", None),
        ("/srv/with space/relay", "nfs4"),
        ("/mnt/s3/relay", "fuse.rclone"),
    ],
)
def test_the_file_system_of_the_longest_mount_counts(folder: str, kind: str | None, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS, encoding="utf-8")
    assert find_unsafe_file_system(Path(folder), mounts) == kind


def test_nothing_is_claimed_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert find_unsafe_file_system(tmp_path, tmp_path / "missing") is None
