"""Settings: what is read from where, what stops the start, and what is never shown."""

import base64
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from relay.settings import SettingsInvalid, digest_token, is_secret, load_settings, parse_listen, variables

KEY = base64.b64encode(b"k" * 32).decode()


def test_nothing_set_is_the_documented_default() -> None:
    settings = load_settings({"PATH": "/bin", "HOME": "/nowhere"})
    assert settings.listen == "127.0.0.1:8000"
    assert settings.data.dir == Path(".relay")
    assert settings.database.url is None
    assert settings.admin.operators() == ()
    assert settings.egress.allow == ()
    assert settings.upload.idle_timeout == timedelta(seconds=60)


def test_groups_and_members_are_split_at_the_first_underscore() -> None:
    settings = load_settings({"RELAY_DATABASE_POOL_SIZE": "7", "RELAY_DEMO_UPSTREAM_LISTEN": "127.0.0.1:9"})
    assert settings.database.pool_size == 7
    assert settings.demo.upstream_listen == "127.0.0.1:9"


def test_demo_may_go_without_its_bucket() -> None:
    assert load_settings({}).demo.bucket_listen == "127.0.0.1:8002"
    assert load_settings({"RELAY_DEMO_BUCKET_LISTEN": "off"}).demo.bucket_listen is None
    with pytest.raises(SettingsInvalid, match="RELAY_DEMO_BUCKET_LISTEN: "):
        load_settings({"RELAY_DEMO_BUCKET_LISTEN": "no"})


def test_values_carry_their_units() -> None:
    settings = load_settings(
        {"RELAY_SHUTDOWN_TIMEOUT": "1.5", "RELAY_JOURNAL_MAX_BYTES": "8MiB", "RELAY_TRUSTED_PROXIES": "10.0.0.0/8, ::1/128"}
    )
    assert settings.shutdown.timeout == timedelta(seconds=1.5)
    assert settings.journal.max_bytes == 8 << 20
    assert settings.trusted.proxies[0] == IPv4Network("10.0.0.0/8")
    assert len(settings.trusted.proxies) == 2


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("RELAY_LISTN", "RELAY_LISTEN"),
        ("RELAY_DATABSE_URL", "RELAY_DATABASE_URL"),
        ("RELAY_DATA_DIR_FILE", "RELAY_DATA_DIR"),
        ("relay_admin_tokn", "RELAY_ADMIN_TOKEN"),
    ],
)
def test_unknown_variable_stops_the_start_and_names_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(SettingsInvalid, match=rf"{given} is not a setting; the nearest is {nearest}\."):
        load_settings({given: "x"})


@pytest.mark.parametrize("name", ["RELAY_PORT", "RELAY_PORT_8000_TCP_ADDR", "RELAY_SERVICE_HOST"])
def test_what_kubernetes_injects_is_no_setting(name: str) -> None:
    assert load_settings({name: "tcp://10.0.0.1:8000"}) == load_settings({})


def test_no_setting_has_a_name_that_kubernetes_injects() -> None:
    assert not [name for name, _ in variables() if name.startswith(("RELAY_PORT", "RELAY_SERVICE_"))]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELAY_LISTEN", "8000"),
        ("RELAY_LISTEN", "127.0.0.1:65536"),
        ("RELAY_DATABASE_POOL_SIZE", "many"),
        ("RELAY_DATABASE_POOL_SIZE", "0"),
        ("RELAY_JOURNAL_SYNC", "always"),
        ("RELAY_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("RELAY_UPLOAD_IDLE_TIMEOUT", "a minute"),
    ],
)
def test_bad_value_stops_the_start_and_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=f"^{name}: "):
        load_settings({name: value})


def test_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("of-a-file\n")
    assert [token.digest for token in load_settings({"RELAY_ADMIN_TOKEN_FILE": str(file)}).admin.token] == [digest_token(b"of-a-file")]
    file.write_text("postgresql://of/a-file\n")
    url = load_settings({"RELAY_DATABASE_URL_FILE": str(file)}).database.url
    assert url is not None
    assert url.get_secret_value() == "postgresql://of/a-file"


def test_secret_from_a_file_and_from_the_environment_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    with pytest.raises(SettingsInvalid, match="RELAY_ADMIN_TOKEN and RELAY_ADMIN_TOKEN_FILE are both set"):
        load_settings({"RELAY_ADMIN_TOKEN": "two", "RELAY_ADMIN_TOKEN_FILE": str(file)})


def test_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"RELAY_ADMIN_TOKEN_FILE: .*missing cannot be read"):
        load_settings({"RELAY_ADMIN_TOKEN_FILE": str(tmp_path / "missing")})


def test_secrets_are_never_shown() -> None:
    secrets = {name: f"hush-{name}" for name, field in variables() if is_secret(field)}
    assert len(secrets) >= 4
    assert "hush" not in repr(load_settings(secrets))


def test_bad_secret_is_not_quoted() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings({"RELAY_SECRET_KEY": "hush"}).secret.keys()
    assert "hush" not in str(caught.value)


def test_sealing_keys_are_read_in_order() -> None:
    settings = load_settings({"RELAY_SECRET_KEY": f"new:{KEY}, old:{KEY}"})
    assert list(settings.secret.keys()) == ["new", "old"]
    assert settings.secret.keys()["new"] == b"k" * 32


@pytest.mark.parametrize("value", ["nocolon", f":{KEY}", "a:c2hvcnQ=", "a:***", f"a:{KEY},b:"])
def test_sealing_key_of_another_form_is_refused(value: str) -> None:
    with pytest.raises(SettingsInvalid, match="RELAY_SECRET_KEY"):
        load_settings({"RELAY_SECRET_KEY": value}).secret.keys()


def test_settings_cannot_be_changed() -> None:
    settings = load_settings({})
    with pytest.raises(ValueError, match="frozen"):
        settings.listen = "127.0.0.1:1"  # type: ignore[misc] # that is what is tested


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:80", ("::1", 80)), (":80", ("0.0.0.0", 80)), ("localhost:0", ("localhost", 0))],
)
def test_listen_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


def test_every_setting_is_described() -> None:
    for name, field in variables():
        assert field.description, name
        assert field.description.endswith("."), f"{name}: a description is a sentence"
