"""A database URL that cannot be read is told without any of its password."""

import pytest

from relay.db.engine import Database
from relay.settings import DatabaseSettings, SettingsInvalid


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://relay:S3cr/etPassw0rd@127.0.0.1/relay",
        "postgresql://relay:S3cr?etPassw0rd@127.0.0.1:x/relay",
        "postgresql://relay:S3cret@127.0.0.1:port/relay",
        "postgresql://relay:S3cret@[::1/relay",
    ],
)
def test_nothing_of_the_password_is_told(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="%2F") as refused:
        Database(url, DatabaseSettings())
    assert "S3cr" not in str(refused.value)
    assert refused.value.__cause__ is None
