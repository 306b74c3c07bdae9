"""The first schema: tenants with their keys, destinations and routes; the ledger; usage; audit; installation.

Plain SQL: Postgres is the only dialect, and a revision stays what it was when the row classes move on.
Every change that could alter what a key may do is told on the channel ``relay_directory``, with the tenant's id as
payload, by triggers: an edit by hand counts like one through the interface. ``*`` means every tenant.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TENANTS = """
CREATE TABLE tenants (
    id uuid NOT NULL,
    slug text NOT NULL,
    name text,
    status text NOT NULL DEFAULT 'active',
    limits jsonb NOT NULL DEFAULT '{}',
    content_types text[] NOT NULL DEFAULT '{}',
    default_destination_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT pk_tenants PRIMARY KEY (id),
    CONSTRAINT uq_tenants_slug UNIQUE (slug),
    CONSTRAINT ck_tenants_status CHECK (status IN ('active', 'disabled')),
    CONSTRAINT ck_tenants_slug CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$')
)
"""

API_KEYS = """
CREATE TABLE api_keys (
    id text NOT NULL,
    tenant_id uuid NOT NULL,
    name text,
    secret_hash bytea NOT NULL,
    scopes text[] NOT NULL DEFAULT '{upload,read}',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT fk_api_keys_tenant_id_tenants FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE
)
"""

DESTINATIONS = """
CREATE TABLE destinations (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    config jsonb NOT NULL,
    sealed bytea,
    secret_names text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_destinations PRIMARY KEY (id),
    CONSTRAINT uq_destinations_tenant_id_name UNIQUE (tenant_id, name),
    CONSTRAINT ck_destinations_kind CHECK (kind IN ('http', 'disk', 's3', 'gcs', 'azure')),
    CONSTRAINT fk_destinations_tenant_id_tenants FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE
)
"""

DEFAULT_DESTINATION = """
ALTER TABLE tenants ADD CONSTRAINT fk_tenants_default_destination_id_destinations
    FOREIGN KEY (default_destination_id) REFERENCES destinations (id) ON DELETE SET NULL
"""

ROUTES = """
CREATE TABLE routes (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    prefix text NOT NULL,
    destination_id uuid NOT NULL,
    strip_prefix boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_routes PRIMARY KEY (id),
    CONSTRAINT uq_routes_tenant_id_prefix UNIQUE (tenant_id, prefix),
    CONSTRAINT fk_routes_tenant_id_tenants FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT fk_routes_destination_id_destinations FOREIGN KEY (destination_id) REFERENCES destinations (id) ON DELETE RESTRICT
)
"""

LEDGER = """
CREATE TABLE ledger (
    started_at timestamptz NOT NULL,
    request_id uuid NOT NULL,
    client_request_id text,
    upload_id uuid,
    tenant text NOT NULL,
    key_id text,
    destination text,
    method text NOT NULL,
    path text NOT NULL,
    protocol text NOT NULL,
    outcome text NOT NULL,
    code text,
    early boolean NOT NULL,
    client_left boolean NOT NULL,
    repeated integer,
    status integer,
    upstream_status integer,
    bytes_in bigint NOT NULL,
    bytes_delivered bigint NOT NULL,
    bytes_out bigint NOT NULL,
    declared_length bigint,
    content_type text,
    filenames text[],
    digests jsonb,
    first_byte_at timestamptz,
    body_complete_at timestamptz,
    finished_at timestamptz,
    upstream_wait_ms double precision,
    client_address text,
    user_agent text,
    trace_id text,
    version text,
    worker text,
    CONSTRAINT pk_ledger PRIMARY KEY (started_at, request_id),
    CONSTRAINT ck_ledger_outcome CHECK (outcome IN (
        'delivered', 'rejected', 'refused', 'client_fault', 'client_gone',
        'destination_failed', 'relay_failed', 'interrupted', 'accepted', 'cancelled'
    ))
) PARTITION BY RANGE (started_at)
"""

LEDGER_PARTITIONS = """
DO $$
DECLARE
    month timestamp;
BEGIN
    FOR ahead IN 0..3 LOOP
        month := date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead);
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF ledger FOR VALUES FROM (%L) TO (%L)',
            to_char(month, '"ledger_y"YYYY"m"MM'),
            month AT TIME ZONE 'UTC',
            (month + interval '1 month') AT TIME ZONE 'UTC'
        );
    END LOOP;
END $$
"""

USAGE = """
CREATE TABLE usage_daily (
    tenant text NOT NULL,
    day date NOT NULL,
    uploads bigint NOT NULL DEFAULT 0,
    delivered bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    bytes_in bigint NOT NULL DEFAULT 0,
    bytes_delivered bigint NOT NULL DEFAULT 0,
    CONSTRAINT pk_usage_daily PRIMARY KEY (tenant, day)
)
"""

AUDIT = """
CREATE TABLE audit (
    id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    tenant text,
    target text NOT NULL,
    before jsonb,
    after jsonb,
    request_id text,
    CONSTRAINT pk_audit PRIMARY KEY (id)
)
"""

INSTALLATION = """
CREATE TABLE installation (
    singleton boolean NOT NULL DEFAULT true,
    id text NOT NULL,
    CONSTRAINT pk_installation PRIMARY KEY (singleton),
    CONSTRAINT ck_installation_singleton CHECK (singleton)
)
"""

INSTALLATION_ID = "INSERT INTO installation (id) VALUES (right(replace(gen_random_uuid()::text, '-', ''), 16))"

INDEXES = (
    "CREATE INDEX ix_api_keys_tenant_id_created_at ON api_keys (tenant_id, created_at)",
    "CREATE INDEX ix_routes_destination_id ON routes (destination_id)",
    "CREATE INDEX ix_ledger_upload_id ON ledger (upload_id)",
    "CREATE INDEX ix_ledger_request_id ON ledger (request_id)",
    "CREATE INDEX ix_ledger_tenant_started_at_request_id ON ledger (tenant, started_at, request_id)",
    "CREATE INDEX ix_audit_tenant_at ON audit (tenant, at)",
)

# last_used_at is bookkeeping: told, it would empty the directory at every use of a key. Naming the one column that does
# not count, not those that do, tells columns that do not exist yet. Postgres sends equal notifications of a transaction once.
TELL_CHANGE = """
CREATE FUNCTION relay_tell_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - 'last_used_at' END;
    new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - 'last_used_at' END;
    old_tenant text := old_row ->> TG_ARGV[0];
    new_tenant text := new_row ->> TG_ARGV[0];
BEGIN
    IF old_row = new_row THEN
        RETURN NULL;
    END IF;
    IF old_tenant IS NOT NULL THEN
        PERFORM pg_notify('relay_directory', old_tenant);
    END IF;
    IF new_tenant IS NOT NULL AND new_tenant IS DISTINCT FROM old_tenant THEN
        PERFORM pg_notify('relay_directory', new_tenant);
    END IF;
    RETURN NULL;
END $$
"""

TELL_TRUNCATE = """
CREATE FUNCTION relay_tell_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('relay_directory', '*');
    RETURN NULL;
END $$
"""

TENANT_COLUMNS = {"tenants": "id", "api_keys": "tenant_id", "destinations": "tenant_id", "routes": "tenant_id"}


def upgrade() -> None:
    for table in (TENANTS, API_KEYS, DESTINATIONS, DEFAULT_DESTINATION, ROUTES, LEDGER, LEDGER_PARTITIONS, USAGE, AUDIT, INSTALLATION):
        op.execute(table)
    op.execute(INSTALLATION_ID)
    for index in INDEXES:
        op.execute(index)
    op.execute(TELL_CHANGE)
    op.execute(TELL_TRUNCATE)
    for table, column in TENANT_COLUMNS.items():
        op.execute(
            f"CREATE TRIGGER {table}_tell_change AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION relay_tell_change('{column}')"
        )
        op.execute(
            f"CREATE TRIGGER {table}_tell_truncate AFTER TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION relay_tell_truncate()"
        )


def downgrade() -> None:
    raise SystemExit("There is nothing before the first schema: drop the database instead.")
