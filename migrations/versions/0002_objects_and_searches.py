"""What a store made of an upload, and the indexes of the ledger's searches.

The previous release runs on: it names the columns that it writes and reads, and the new one may be null. Making the indexes
keeps shippers waiting, about ten seconds for a million entries, and nobody who reads; what they would have shipped waits in
their journals.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A path may be longer than an entry of an index can be: its beginning is enough to find it by.
INDEXES = {
    "ix_ledger_outcome_started_at_request_id": "(outcome, started_at, request_id) WHERE outcome <> 'delivered'",
    "ix_ledger_tenant_outcome_started_at_request_id": "(tenant, outcome, started_at, request_id) WHERE outcome <> 'delivered'",
    "ix_ledger_path": "(left(path, 128) text_pattern_ops)",
    "ix_ledger_tenant_path": "(tenant, left(path, 128) text_pattern_ops)",
}

LISTINGS = {
    "ix_audit_at_id": "audit (at, id)",
    "ix_usage_daily_day_tenant": "usage_daily (day, tenant)",
}


def upgrade() -> None:
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON ledger {definition}")
    for name, place in LISTINGS.items():
        op.execute(f"CREATE INDEX {name} ON {place}")
    # Last: it is quick, and its lock, unlike theirs, would keep readers waiting for as long as the indexes take.
    op.execute("ALTER TABLE ledger ADD COLUMN objects jsonb")


def downgrade() -> None:
    for name in (*LISTINGS, *INDEXES):
        op.execute(f"DROP INDEX {name}")
    op.execute("ALTER TABLE ledger DROP COLUMN objects")
