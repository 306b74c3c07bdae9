"""What ``relay destination set`` is told becomes what REST would be sent."""

from pathlib import Path
from typing import Any

import click
import pytest

from relay.cli import Failure
from relay.cli.destination_draft import Told, make_draft

NOTHING: dict[str, Any] = dict.fromkeys(Told.__slots__) | {"headers": (), "members": (), "secret_files": (), "no_tls": False}


def told(**given: Any) -> Told:
    return Told(**{**NOTHING, **given})


@pytest.mark.parametrize(
    ("given", "kind", "config"),
    [
        ({"base_url": "http://a"}, "http", {"base_url": "http://a"}),
        ({"base_url": "http://a", "host": ""}, "http", {"base_url": "http://a", "host": None}),
        ({"directory": "in", "overwrite": "replace"}, "disk", {"directory": "in", "overwrite": "replace"}),
        ({"directory": "in", "members": ("key_template={upload_id}",)}, "disk", {"directory": "in", "key_template": "{upload_id}"}),
        ({"s3_bucket": "b", "tls_server_name": "x"}, "s3", {"bucket": "b", "tls": {"server_name": "x"}}),
        (
            {"s3_bucket": "b", "members": ("part_bytes=5242880", "path_style=true", "region=eu-west-1", "prefix=a=b", "endpoint_url=null")},
            "s3",
            {"bucket": "b", "part_bytes": 5242880, "path_style": True, "region": "eu-west-1", "prefix": "a=b", "endpoint_url": None},
        ),
        ({"gcs_bucket": "b", "members": ("tls.server_name=x", "tls.ca=y")}, "gcs", {"bucket": "b", "tls": {"server_name": "x", "ca": "y"}}),
        ({"azure_container": "acme/in"}, "azure", {"account": "acme", "container": "in"}),
    ],
)
def test_a_place_becomes_kind_and_config(given: dict[str, Any], kind: str, config: dict[str, Any]) -> None:
    draft = make_draft("main", told(**given))
    assert (draft.name, draft.kind, dict(draft.config), draft.secrets) == ("main", kind, config, None)


def test_credentials_come_from_files_without_the_line_break_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("AKIA\n", encoding="utf-8")
    (tmp_path / "secret").write_text("s p a c e \r\n", encoding="utf-8")
    files = (f"access_key_id={tmp_path}/id", f"secret_access_key={tmp_path}/secret")
    draft = make_draft("main", told(s3_bucket="b", secret_files=files))
    assert draft.secrets == {"access_key_id": "AKIA", "secret_access_key": "s p a c e "}
    assert "s p a c e" not in repr(draft)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "Name one place"),
        ({"base_url": "http://a", "s3_bucket": "b"}, "Name one place"),
        ({"s3_bucket": "b", "headers": ("A: b",)}, "belong to --http"),
        ({"directory": "in", "no_tls": True}, "--tls"),
        ({"base_url": "http://a", "overwrite": "refuse"}, "--overwrite"),
        ({"s3_bucket": "b", "members": ("region",)}, "MEMBER=VALUE"),
        ({"s3_bucket": "b", "members": ("=x",)}, "MEMBER=VALUE"),
        ({"s3_bucket": "b", "members": ("bucket.x=1",)}, "said twice"),
        ({"base_url": "http://a", "headers": ("no colon",)}, "no colon"),
        ({"base_url": "https://a", "no_tls": True, "tls_server_name": "x"}, "give one of them"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(given: dict[str, Any], words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        make_draft("main", told(**given))


@pytest.mark.parametrize("content", [None, b"\xff", b"x" * 200_000], ids=["missing", "not text", "too long"])
def test_a_file_that_is_no_credential_is_told_without_its_content(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Failure, match=f"{path}") as refused:
        make_draft("main", told(s3_bucket="b", secret_files=(f"secret_access_key={path}",)))
    assert "xxx" not in str(refused.value)
