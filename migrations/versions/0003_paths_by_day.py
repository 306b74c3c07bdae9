"""The indexes of paths get the day: what was common once is found without reading what came after it.

The previous release runs on; until its processes are replaced, they find paths more slowly, for they know no day.

Making the indexes keeps nobody waiting who reads. Each month has its own, and they are made from the oldest month on: who
writes into a month waits from its turn on. So shippers, which write into the current one, wait for that one's alone, about a
second for two hundred thousand entries of it; what they would have shipped waits in their journals.
"""

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PARTITION_LOCK = 0x6C6564676572  # of whoever makes or drops months: neither happens meanwhile

NEW = {
    "ix_ledger_day_path": "(((started_at AT TIME ZONE 'UTC')::date), left(path, 128) text_pattern_ops)",
    "ix_ledger_tenant_day_path": "(tenant, ((started_at AT TIME ZONE 'UTC')::date), left(path, 128) text_pattern_ops)",
}

OLD = {
    "ix_ledger_path": "(left(path, 128) text_pattern_ops)",
    "ix_ledger_tenant_path": "(tenant, left(path, 128) text_pattern_ops)",
}

PARTITIONS = text("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'ledger'::regclass ORDER BY name")


def upgrade() -> None:
    replace(OLD, NEW)


def downgrade() -> None:
    replace(NEW, OLD)


def replace(old: dict[str, str], new: dict[str, str]) -> None:
    """Make the indexes month by month, then the ledger's, which take them for their own, and drop the others at last.

    Dropping is quick, and its lock would keep readers waiting for as long as the rest takes.
    """
    op.execute(f"SELECT pg_advisory_xact_lock({PARTITION_LOCK})")
    for partition in op.get_bind().scalars(PARTITIONS).all():
        for definition in new.values():
            op.execute(f"CREATE INDEX ON {partition} {definition}")
    for name, definition in new.items():
        op.execute(f"CREATE INDEX {name} ON ledger {definition}")
    for name in old:
        op.execute(f"DROP INDEX {name}")
