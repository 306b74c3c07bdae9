"""The example bucket as the demo finds and starts it; ``tests/faults/test_demo.py`` uses it."""

import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from relay.cli.demo_file import new_state
from relay.cli.example_bucket import ExampleBucket, find_rclone, lay_out_bucket
from relay.settings import load_settings

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="on another system than Linux the demo has no bucket")


@needs_linux
@pytest.mark.parametrize(("listen", "url"), [("127.0.0.1:8002", "http://127.0.0.1:8002"), (":9", "http://127.0.0.1:9")])
def test_demo_has_a_bucket_where_its_program_is(listen: str, url: str) -> None:
    state = replace(new_state(), bucket_key="id,secret")
    found = ExampleBucket.find(load_settings({"RELAY_DEMO_BUCKET_LISTEN": listen}), state)
    assert found == ExampleBucket(url, "id,secret")
    assert found.secrets() == {"access_key_id": "id", "secret_access_key": "secret"}
    assert "secret" not in repr(found)


def test_demo_has_none_where_the_program_is_missing_or_it_is_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ExampleBucket.find(load_settings({"RELAY_DEMO_BUCKET_LISTEN": "off"}), new_state()) is None
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_rclone() is None
    assert ExampleBucket.find(load_settings({}), new_state()) is None


@needs_linux
def test_key_goes_through_the_environment_and_the_folder_is_private(tmp_path: Path) -> None:
    settings = load_settings({"RELAY_DATA_DIR": str(tmp_path / "a:b"), "RELAY_ADMIN_TOKEN": "hush"})
    program = lay_out_bucket(settings, ExampleBucket("http://127.0.0.1:8002", "id,secret"))
    assert program.is_foreign
    assert not [word for word in program.command if "secret" in word]
    assert program.environment["RCLONE_AUTH_KEY"] == '"id,secret"'
    assert not [name for name in program.environment if name.startswith("RELAY_")]
    assert (tmp_path / "a:b/bucket/demo").is_dir()
    assert program.command[-1] == str(tmp_path / "a:b/bucket")
    assert not stat.S_IMODE((tmp_path / "a:b/bucket").stat().st_mode) & 0o077
