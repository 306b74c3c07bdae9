"""What the demo remembers: written whole, readable by its owner alone, and never in the way of the environment."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from relay.cli.demo import Lines
from relay.cli.demo_file import DemoFile, DemoState, demo_environment, new_state
from relay.settings import SettingsInvalid, digest_token, load_settings


def test_second_start_finds_what_the_first_one_made(tmp_path: Path) -> None:
    first = DemoFile.of(tmp_path / "data").load()
    assert DemoFile.of(tmp_path / "data").load() == first


def test_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = DemoFile.of(tmp_path / "data")
        file.load()
    finally:
        os.umask(before)
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert list(file.path.parent.iterdir()) == [file.path]


def test_key_is_added_and_the_rest_stays(tmp_path: Path) -> None:
    file = DemoFile.of(tmp_path)
    state = file.load()
    file.save(replace(state, key="rk_x", upstream_url="http://127.0.0.1:1/upload"))
    assert file.load().key == "rk_x"
    assert file.load().admin_token == state.admin_token


def test_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    file = DemoFile.of(tmp_path)
    file.path.write_text("{")
    with pytest.raises(SettingsInvalid, match=r"demo\.json cannot be read .* Delete it"):
        file.load()


def test_members_of_a_newer_release_are_ignored(tmp_path: Path) -> None:
    file = DemoFile.of(tmp_path)
    file.path.write_text(json.dumps({"admin_token": "a", "secret_key": "b", "of_tomorrow": 1}))
    assert replace(file.load(), bucket_key=None) == DemoState("a", "b")


def test_file_of_an_older_release_gets_a_key_of_the_bucket_and_keeps_it(tmp_path: Path) -> None:
    file = DemoFile.of(tmp_path)
    file.path.write_text(json.dumps({"admin_token": "a", "secret_key": "b", "key": "rk_x"}))
    made = file.load()
    assert (made.admin_token, made.key) == ("a", "rk_x")
    assert made.bucket_key is not None and made.bucket_key not in repr(made)
    assert file.load() == made


def test_secrets_are_not_shown() -> None:
    state = new_state()
    assert state.admin_token not in repr(state)
    assert state.secret_key not in repr(state)


def test_demo_fills_in_what_is_open() -> None:
    state = new_state()
    added = demo_environment(load_settings({"RELAY_DATA_DIR": "/srv/relay"}), state)
    settings = load_settings({"RELAY_DATA_DIR": "/srv/relay", **added})
    assert [token.digest for token in settings.admin.token] == [digest_token(state.admin_token.encode())]
    assert list(settings.secret.keys()) == ["demo"]
    assert settings.disk.root == Path("/srv/relay/disk")
    assert settings.egress.allow == ("127.0.0.0/8", "::1/128")
    assert settings.log.format == "text"


def test_what_the_environment_sets_stays_as_it_is_set() -> None:
    given = {
        "RELAY_ADMIN_TOKEN": "mine",
        "RELAY_SECRET_KEY": new_state().secret_key,
        "RELAY_DISK_ROOT": "/srv/files",
        "RELAY_EGRESS_ALLOW": "10.0.0.0/8",
        "RELAY_LOG_FORMAT": "json",
    }
    assert demo_environment(load_settings(given), new_state()) == {}


def test_last_lines_are_exactly_those_that_programs_read() -> None:
    lines = Lines("http://127.0.0.1:8000", "http://127.0.0.1:9000", "T", DemoState("T", "S", "rk_K", None)).all()
    assert lines == [
        "url: http://127.0.0.1:8000",
        "tenant: demo",
        "key: rk_K",
        "admin-token: T",
        "upload: curl -sS -H 'Authorization: Bearer rk_K' --data-binary @README.md http://127.0.0.1:8000/upload/disk/README.md",
        "forward: curl -sS -H 'Authorization: Bearer rk_K' -F file=@README.md 'http://127.0.0.1:8000/upload/hello/world?q1=x'",
        "ledger: curl -sS -H 'Authorization: Bearer T' 'http://127.0.0.1:9000/admin/v1/ledger?tenant=demo&limit=1'",
        "ready",
    ]
    trusting = Lines("https://127.0.0.1:8000", "https://127.0.0.1:8000", "T", DemoState("T", "S", "rk_K", None), Path("/etc/a b.pem")).all()
    assert trusting[4].startswith("upload: curl -sS --cacert '/etc/a b.pem' -H 'Authorization: Bearer rk_K' --data-binary ")
