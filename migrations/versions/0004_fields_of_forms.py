"""What the plain fields of a form said, beside the objects that its files became.

The previous release runs on: it names the columns that it writes and reads, and the new one may be null.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE ledger ADD COLUMN fields jsonb")


def downgrade() -> None:
    op.execute("ALTER TABLE ledger DROP COLUMN fields")
