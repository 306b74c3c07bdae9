"""A ledger of any size, made by Postgres itself: skewed as a real one is, and the same every time.

- Fifty tenants, shares as 1/n: the first has a fifth of everything, the last half a percent.
- Nine of ten uploads are delivered; five outcomes are a tenth of a percent each. The first tenant is never ``rejected``:
  its files go to a disk.
- Paths have common beginnings (``photos/``, ``reports/``), a rare one (``legal/hold/``, one of two thousand), one that is common
  and old (``import/``, a fifth of the first month and nothing since), and one that the first tenant never uses (``reports/``).
- Entries lie evenly over five months, up to now. Texts are as long as those of browsers and command lines.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from relay.db.engine import Database
from relay.ledger.partitions import ensure_partition
from relay.settings import DatabaseSettings

TENANTS: Final = 50
MONTHS: Final = 5
DAYS: Final = 30 * MONTHS
FIRST, LAST = "tenant-01", f"tenant-{TENANTS}"

_DRAWN: Final = """
    SELECT n,
           $2::timestamptz + ($3::timestamptz - $2::timestamptz) * ((n + random()) / $1) AS at,
           random() AS for_tenant, random() AS for_outcome, random() AS for_path, random() AS for_more,
           md5(n::text || 'a') AS noise, md5(n::text || 'b') AS more_noise
    FROM generate_series(0, $1::bigint - 1) AS n
"""

_CHOSEN: Final = """
    SELECT drawn.*, width_bucket(for_tenant, $4::float8[]) + 1 AS who, extract(epoch FROM at - $2::timestamptz) / 86400 AS day
    FROM drawn
"""

_TOLD: Final = """
    SELECT chosen.*,
           CASE WHEN for_outcome < 0.900 THEN 'delivered'
                WHEN for_outcome < 0.950 THEN CASE WHEN who = 1 THEN 'delivered' ELSE 'rejected' END
                WHEN for_outcome < 0.975 THEN 'refused'
                WHEN for_outcome < 0.985 THEN 'client_gone'
                WHEN for_outcome < 0.995 THEN 'destination_failed'
                WHEN for_outcome < 0.996 THEN 'client_fault'
                WHEN for_outcome < 0.997 THEN 'accepted'
                WHEN for_outcome < 0.998 THEN 'cancelled'
                WHEN for_outcome < 0.999 THEN 'relay_failed'
                ELSE 'interrupted' END AS outcome,
           CASE WHEN for_path < 0.0005 THEN 'legal/hold/' || noise || '.pdf'
                WHEN for_path < 0.2 AND day < 30 THEN 'import/batch-' || (n % 40) || '/' || noise || '.bin'
                WHEN for_path < 0.4 AND who <> 1 THEN 'reports/' || to_char(at, 'YYYY/MM/DD') || '/' || noise || '.csv'
                WHEN for_path < 0.8 THEN 'photos/' || to_char(at, 'YYYY/MM') || '/' || left(noise, 12) || '.jpg'
                ELSE substr(noise, 1, 2) || '/' || substr(noise, 3, 2) || '/' || noise || '/document%20' || (n % 997) || '.docx' END AS path
    FROM chosen
"""

_FILL: Final = f"""
INSERT INTO ledger (
    started_at, request_id, client_request_id, upload_id, tenant, key_id, destination, method, path, protocol, outcome, code, early,
    client_left, status, upstream_status, bytes_in, bytes_delivered, bytes_out, declared_length, content_type, filenames, digests,
    first_byte_at, body_complete_at, finished_at, upstream_wait_ms, client_address, user_agent, trace_id, version, worker
)
WITH drawn AS ({_DRAWN}), chosen AS ({_CHOSEN}), told AS ({_TOLD})
SELECT at, (millis || '7' || substr(noise, 1, 3) || '8' || substr(noise, 4, 15))::uuid,
       CASE WHEN for_more < 0.1 THEN 'job-' || n END,
       (millis || '7' || substr(more_noise, 1, 3) || '9' || substr(more_noise, 4, 15))::uuid,
       'tenant-' || lpad(who::text, 2, '0'), substr(md5(who::text), 1, 16), CASE WHEN outcome <> 'refused' THEN 'main' END,
       CASE WHEN for_more < 0.7 THEN 'POST' ELSE 'PUT' END, path, 'plain', outcome,
       CASE WHEN outcome <> 'delivered' THEN 'upload_too_large' END,
       false, false, CASE WHEN outcome = 'delivered' THEN 201 ELSE 413 END, CASE WHEN outcome = 'delivered' THEN 201 END,
       size, CASE WHEN outcome = 'delivered' THEN size ELSE 0 END, 190, size, 'image/jpeg',
       CASE WHEN for_more < 0.2 THEN ARRAY['Übersicht "' || (n % 100) || '".pdf'] END,
       CASE WHEN outcome = 'delivered' THEN jsonb_build_object('crc32c', left(noise, 8), 'sha256', noise || more_noise) END,
       at + interval '1 ms', at + interval '80 ms', at + interval '95 ms', round((for_more * 100)::numeric, 3)::float8,
       '203.0.113.' || (n % 250),
       CASE WHEN for_more < 0.5 THEN 'Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0' ELSE 'curl/8.5.0' END,
       noise, '0.1.0', '0197f6a0-0000-7000-8000-00000000000' || (n % 4)
FROM told, LATERAL (
    SELECT (1000 + for_more * 4000000)::bigint AS size, lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS millis
) AS made
"""


async def fill_ledger(url: str, rows: int) -> tuple[datetime, datetime]:
    """Put so many entries in, let Postgres look at them, and return when the first and the last of them began, or a little later."""
    end = datetime.now(UTC)
    begin = end - timedelta(days=DAYS)
    database = Database(url, DatabaseSettings())
    async with database.transaction() as session:
        for day in range(0, DAYS + 1, 15):
            await ensure_partition(session, begin + timedelta(days=day))
    await database.close()
    connection = await asyncpg.connect(url)
    try:
        await _fill(connection, rows, begin, end)
    finally:
        await connection.close()
    return begin, end


async def _fill(connection: asyncpg.Connection, rows: int, begin: datetime, end: datetime) -> None:
    shares = [1 / rank for rank in range(1, TENANTS + 1)]
    bounds = [sum(shares[:rank]) / sum(shares) for rank in range(1, TENANTS)]
    await connection.execute("SELECT setseed(0.5)")
    await connection.execute("SET max_parallel_workers_per_gather = 0")  # the draws come in one order
    await connection.execute(_FILL, rows, begin, end, bounds, timeout=900)
    await connection.execute("VACUUM (ANALYZE) ledger", timeout=900)
