"""What ``relay demo`` remembers between two starts: ``<data dir>/demo.json``, readable by its owner alone.

It holds secrets of a demonstration. A file is replaced as a whole or not at all.
"""

import base64
import contextlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from relay.settings import Settings, SettingsInvalid

LOOPBACK = "127.0.0.0/8,::1/128"


@dataclass(frozen=True, slots=True)
class DemoState:
    """The demo's secrets and addresses.

    ``key`` and the addresses that destinations have, ``…_url``, are known once the database was prepared, ``url`` when it serves.
    """

    admin_token: str = field(repr=False)
    secret_key: str = field(repr=False)
    key: str | None = field(default=None, repr=False)
    upstream_url: str | None = None
    bucket_key: str | None = field(default=None, repr=False)
    """The id of an access key, a comma, and its secret. A file of an older release has none."""

    bucket_url: str | None = None
    url: str | None = None


def new_state() -> DemoState:
    """Make the secrets of a first start."""
    secret_key = f"demo:{base64.b64encode(secrets.token_bytes(32)).decode()}"
    return DemoState(secrets.token_urlsafe(32), secret_key, bucket_key=new_bucket_key())


def new_bucket_key() -> str:
    """Make a key of the example bucket."""
    return f"{secrets.token_hex(10)},{secrets.token_urlsafe(32)}"


class DemoFile:
    """The file in which they are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, data_dir: Path) -> "DemoFile":
        """The file of a data directory."""
        return cls(data_dir / "demo.json")

    def find(self) -> DemoState | None:
        """Read what is remembered; ``None`` before the first start.

        Raises:
            SettingsInvalid: the file cannot be read or was damaged.
        """
        try:
            members = json.loads(self.path.read_text(encoding="utf-8"))
            return DemoState(**{member.name: members[member.name] for member in fields(DemoState) if member.name in members})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            why = type(error).__name__
            raise SettingsInvalid(f"{self.path} cannot be read ({why}). Delete it: the next start writes another token and key.") from None

    def load(self) -> DemoState:
        """Read what is remembered; make and write what a first start, or an older release, has left open.

        Raises:
            SettingsInvalid: the file cannot be read, or was damaged.
        """
        found = self.find()
        state = found or new_state()
        if state.bucket_key is None:
            state = replace(state, bucket_key=new_bucket_key())
        if state != found:
            self.save(state)
        return state

    def save(self, state: DemoState) -> None:
        """Write it; whoever reads sees the old file or the new one."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(state), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.path)


def demo_environment(settings: Settings, state: DemoState) -> dict[str, str]:
    """Say what the demo adds to the environment: what ``settings`` leave open, nothing that is set."""
    wanted = {
        "RELAY_ADMIN_TOKEN": None if "token" in settings.admin.model_fields_set else state.admin_token,
        "RELAY_SECRET_KEY": state.secret_key if settings.secret.key is None else None,
        "RELAY_DISK_ROOT": str(settings.data.dir / "disk") if settings.disk.root is None else None,
        "RELAY_EGRESS_ALLOW": None if settings.egress.allow else LOOPBACK,
        "RELAY_LOG_FORMAT": None if "format" in settings.log.model_fields_set else "text",
    }
    return {name: value for name, value in wanted.items() if value is not None}
