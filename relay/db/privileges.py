"""As whom the embedded Postgres runs: Postgres refuses root, so root needs somebody else to be.

First choice of root is a user namespace that maps root to nobody: every file stays root's. Second is an account,
to which the folder is given; the owner of an existing cluster decides, so that the choice never changes under it.
"""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ACCOUNTS = ("postgres", "nobody")
NAMESPACE = ("--user", "--map-user=65534", "--map-group=65534", "--")


@dataclass(frozen=True)
class Privileges:
    """A way to run a program that is not root: a prefix, or another account, or nothing at all."""

    description: str
    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    def give(self, folder: Path) -> None:
        """Give ``folder`` and all it holds to the account, where there is one.

        Raises:
            PermissionError: a folder above does not let the account pass.
        """
        if self.user is None or self.group is None:
            return
        for above in folder.absolute().parents:
            mode = above.stat()
            if not mode.st_mode & 0o001 and mode.st_uid != self.user:
                raise PermissionError(f"{above} does not let others pass, and {self.description} must: chmod o+x {above}, or move the data")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.user, self.group, follow_symlinks=False)


def choose_privileges(existing: Path) -> Privileges:
    """Choose for the cluster or empty folder ``existing``."""
    if os.geteuid() != 0:
        return Privileges("as the same user")
    owner = existing.stat()
    if owner.st_uid != 0:
        return Privileges(f"as user {owner.st_uid}", user=owner.st_uid, group=owner.st_gid)
    unshare = shutil.which("unshare")
    if unshare is not None:
        tried = subprocess.run([unshare, *NAMESPACE, "true"], capture_output=True, check=False)  # noqa: S603 - fixed words
        if tried.returncode == 0:
            return Privileges("in a user namespace", prefix=(unshare, *NAMESPACE))
    account = _find_account()
    return Privileges(f"as account {account.pw_name}", user=account.pw_uid, group=account.pw_gid)


def _find_account() -> pwd.struct_passwd:
    for name in ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PermissionError(f"Postgres does not run as root, and there is no account {' or '.join(ACCOUNTS)}: run Relay as another user")
