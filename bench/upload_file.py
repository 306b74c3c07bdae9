"""What most people write to keep uploads: FastAPI's ``UploadFile``, copied to a file; digest and durability as Relay has them.

The form is parsed into a temporary file first, in memory up to 1 MiB: that is what ``UploadFile`` is. Nothing is
authenticated, limited or accounted for, and the file is visible while it is written.
"""

import hashlib
import os
from pathlib import Path

from fastapi import FastAPI, UploadFile

FOLDER = Path(os.environ.get("BENCH_FOLDER", "."))
COPY_BYTES = 1 << 20

app = FastAPI()


@app.post("/{path:path}")
def keep(path: str, file: UploadFile) -> dict[str, str]:
    """Copy an upload to a file."""
    digest = hashlib.sha256()
    with (FOLDER / path.replace("/", "-")).open("wb") as kept:
        while chunk := file.file.read(COPY_BYTES):
            digest.update(chunk)
            kept.write(chunk)
        kept.flush()
        os.fsync(kept.fileno())
    return {"sha256": digest.hexdigest()}
