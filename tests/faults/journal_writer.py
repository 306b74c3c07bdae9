"""A process that tells its journal of one upload after the other, and prints each that is safe, until it is killed.

Run as ``python -m tests.faults.journal_writer <root> <sync>``.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from tests.support.entries import finished_entry, open_journal


async def write(root: Path, sync: Any) -> None:
    journal = open_journal(root, sync=sync, max_bytes=4 << 20)

    async def upload_for_ever() -> None:
        while True:
            entry = finished_entry()
            journal.begin(entry)
            print("begun", entry.request_id, flush=True)
            await asyncio.sleep(0)
            await journal.finish(entry)
            print("finished", entry.request_id, flush=True)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(upload_for_ever())


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), sys.argv[2]))
