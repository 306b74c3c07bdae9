"""Key → grant. Whoever has not proved the secret learns nothing: not even that the key exists."""

from collections.abc import Sequence
from datetime import UTC, datetime

from relay.errors import KeyExpired, KeyInvalid, KeyMissing, KeyRevoked, ScopeMissing, TenantDisabled
from relay.protocols.header_rules import Field, find_credential
from relay.tenants.directory import Directory
from relay.tenants.keys import parse_key, verify
from relay.tenants.tenant import Grant, Scope, TenantStatus


async def authenticate(headers: Sequence[Field], directory: Directory) -> Grant:
    """Find the grant of the key that a request carries and prove its secret.

    Raises:
        CredentialsAmbiguous: two different keys.
        KeyMissing: none.
        KeyInvalid: malformed, unknown, or its secret is wrong: one answer for all three.
        DirectoryUnavailable: the key is not known here and Postgres does not answer.
    """
    text = find_credential(headers)
    if text is None:
        raise KeyMissing
    key = parse_key(text)
    grant = directory.cached_grant(key.id) or await directory.find_grant(key.id)
    if grant is None or not verify(key.secret, grant.secret_hash):
        raise KeyInvalid
    return grant


def check_grant(grant: Grant, scope: Scope) -> None:
    """Refuse a proved key that may not do this, or not any more.

    Raises:
        KeyRevoked, KeyExpired, TenantDisabled, ScopeMissing: as their names say.
    """
    if grant.key.revoked_at is not None:
        raise KeyRevoked
    if grant.key.expires_at is not None and grant.key.expires_at <= datetime.now(UTC):
        raise KeyExpired
    if grant.tenant.status is not TenantStatus.ACTIVE:
        raise TenantDisabled
    if scope not in grant.key.scopes:
        raise ScopeMissing
