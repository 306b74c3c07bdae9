"""How Postgres' programs are called for a backup: no password in sight, and no command of psql's in what is restored."""

import io
from pathlib import Path

import pytest

from relay.cli import Failure
from relay.cli.database import _appearing
from relay.db.backup import BackupFailed, Place, _connection, _pass_on
from relay.settings import DatabaseSettings

HEAD = b"--\n-- PostgreSQL database dump\n--\n\n\\restrict token\n\nSET statement_timeout = 0;\nSET transaction_timeout = 0;\n"
BODY = b"SET row_security = off;\n\nCREATE TABLE t (n int);\nSET transaction_timeout = 0;\n" + b"x" * 100_000


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://relay:s3cr%2Ft@db:5433/relay?sslmode=require", "postgresql://relay@db:5433/relay?sslmode=require"),
        ("postgresql+asyncpg://relay@db/relay?password=s3cr/t", "postgresql://relay@db/relay"),
        ("postgres://relay:other@db/relay?password=s3cr%2Ft", "postgres://relay@db/relay"),
        ("postgresql://relay:s3cr%2Ft@/postgres?host=%2Ftmp%2Fa%20b", "postgresql://relay@/postgres?host=%2Ftmp%2Fa%20b"),
    ],
)
def test_password_goes_by_the_environment(url: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_SECRET_KEY", "k1:secret")
    given, environment = _connection(Place(url, DatabaseSettings(), 15, frozenset(), True, None))
    assert given == address
    assert environment["PGPASSWORD"] == "s3cr/t"
    assert not [name for name in environment if name.startswith("RELAY_")]


def test_only_settings_that_the_server_knows_are_passed_on_from_the_head() -> None:
    target = io.BytesIO()
    _pass_on(io.BytesIO(HEAD + BODY), target, frozenset({"statement_timeout", "row_security"}))
    assert target.getvalue() == HEAD.replace(b"SET transaction_timeout = 0;\n", b"") + BODY


@pytest.mark.parametrize("before", [b"SET statement_timeout = 0;\n", b"\\! true\n", b"CREATE TABLE t (n int);\n"])
def test_nothing_reaches_psql_before_it_is_guarded(before: bytes) -> None:
    target = io.BytesIO()
    with pytest.raises(BackupFailed, match="too old"):
        _pass_on(io.BytesIO(b"--\n\n" + before + HEAD + BODY), target, frozenset())
    assert target.getvalue().strip() == b"--"


@pytest.mark.parametrize("is_link", [False, True])
def test_what_took_the_name_meanwhile_is_not_replaced(tmp_path: Path, is_link: bool) -> None:
    file = tmp_path / "backup"
    if is_link:
        file.symlink_to("nowhere")
    else:
        file.write_bytes(b"theirs")
    with pytest.raises(Failure, match="exists"), _appearing(file) as unfinished:
        unfinished.write(b"ours")
    assert list(tmp_path.iterdir()) == [file]
    assert file.is_symlink() if is_link else file.read_bytes() == b"theirs"
