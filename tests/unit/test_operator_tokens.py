"""The operators' tokens: how they are written, what stops the start, and that none of them is kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from relay.settings import OperatorToken, SettingsInvalid, digest_token, find_secret, is_secret, load_settings, split_tokens, variables


def tokens(**environ: str) -> list[tuple[str, bytes, bool]]:
    return [(token.actor, token.digest, token.is_read_only) for token in load_settings(environ).admin.operators()]


def known(actor: str, token: str, *, is_read_only: bool = False) -> tuple[str, bytes, bool]:
    return (actor, digest_token(token.encode()), is_read_only)


def test_several_tokens_named_and_unnamed_are_read_in_order() -> None:
    assert tokens(RELAY_ADMIN_TOKEN="one, alice:two ,bob-2: three", RELAY_ADMIN_READ_TOKEN="grafana:four\nfive") == [
        known("operator", "one"),
        known("operator:alice", "two"),
        known("operator:bob-2", "three"),
        known("operator:grafana", "four", is_read_only=True),
        known("operator", "five", is_read_only=True),
    ]


def test_a_file_has_a_token_a_line_and_may_have_comments(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# the people\r\n\r\nalice:one\r\n  # and a machine\r\nbackup:two\r\n\r\n")
    assert tokens(RELAY_ADMIN_READ_TOKEN_FILE=str(file)) == [
        known("operator:alice", "one", is_read_only=True),
        known("operator:backup", "two", is_read_only=True),
    ]


@pytest.mark.parametrize(
    ("written", "name", "token"),
    [
        ("Alice:one", None, "Alice:one"),
        ("1a:one", None, "1a:one"),
        ("a_b:one", None, "a_b:one"),
        (f"{'a' * 33}:one", None, f"{'a' * 33}:one"),
        (f"{'a' * 32}:one", "a" * 32, "one"),
        ("a:one:two", "a", "one:two"),
        ("a-:one", "a-", "one"),
        ("plain", None, "plain"),
        ("k=/+#~", None, "k=/+#~"),
    ],
)
def test_what_stands_before_a_colon_is_a_name_where_it_looks_like_one(written: str, name: str | None, token: str) -> None:
    assert split_tokens(written) == [(name, token)]


@pytest.mark.parametrize("nothing", ["", " ", "\n\n", "\t\r\n"])
def test_an_empty_variable_holds_no_token(nothing: str) -> None:
    assert tokens(RELAY_ADMIN_TOKEN=nothing, RELAY_ADMIN_READ_TOKEN=nothing) == []


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RELAY_ADMIN_TOKEN": "hush,,other"}, "RELAY_ADMIN_TOKEN: .*token 2 of 3 is empty"),
        ({"RELAY_ADMIN_TOKEN": "hush,"}, "RELAY_ADMIN_TOKEN: .*token 2 of 2 is empty"),
        ({"RELAY_ADMIN_READ_TOKEN": "alice:"}, "RELAY_ADMIN_READ_TOKEN: .*token 1 of 1 is empty"),
        ({"RELAY_ADMIN_TOKEN": "hush,a:hush"}, "RELAY_ADMIN_TOKEN: .*given twice"),
        ({"RELAY_ADMIN_TOKEN": "a:hush\na:other"}, "RELAY_ADMIN_TOKEN: .*given twice"),
        ({"RELAY_ADMIN_TOKEN": "#hush"}, "RELAY_ADMIN_TOKEN: .*only comments"),
        ({"RELAY_ADMIN_TOKEN": "x,hush", "RELAY_ADMIN_READ_TOKEN": "y,hush"}, "RELAY_ADMIN_TOKEN and in RELAY_ADMIN_READ_TOKEN"),
        ({"RELAY_ADMIN_TOKEN": "a:hush", "RELAY_ADMIN_READ_TOKEN": "a:other"}, "RELAY_ADMIN_TOKEN and in RELAY_ADMIN_READ_TOKEN"),
    ],
)
def test_tokens_that_cannot_be_meant_stop_the_start_unquoted(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsInvalid, match=message) as caught:
        load_settings(environ)
    assert "hush" not in str(caught.value)
    assert "other" not in str(caught.value)


def held(value: Any) -> Iterator[str]:
    """All text that an object holds, however deep."""
    if isinstance(value, OperatorToken):
        value = (value.name, value.digest)
    if isinstance(value, BaseModel):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, tuple | list):
        for item in value:
            yield from held(item)
    else:
        yield value.decode("latin-1") if isinstance(value, bytes) else str(value)


def test_settings_hold_digests_and_show_not_even_those() -> None:
    settings = load_settings({"RELAY_ADMIN_TOKEN": "alice:hush", "RELAY_ADMIN_READ_TOKEN": "silence"})
    texts = list(held(settings))
    assert digest_token(b"hush").decode("latin-1") in texts, "the walk finds what is there"
    assert not [text for text in texts if "hush" in text or "silence" in text]
    for shown in (repr(settings), str(settings.admin), repr(settings.admin.operators())):
        assert "hush" not in shown
        assert repr(digest_token(b"hush")) not in shown
        assert digest_token(b"silence").hex() not in shown
        assert "alice" in shown


def test_the_tokens_count_as_secrets() -> None:
    secrets = {name for name, field in variables() if is_secret(field)}
    assert {"RELAY_ADMIN_TOKEN", "RELAY_ADMIN_READ_TOKEN"} < secrets


def test_the_few_who_show_a_secret_find_its_text(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("of-a-file\n")
    assert find_secret({"RELAY_ADMIN_TOKEN": "x"}, "RELAY_ADMIN_TOKEN") == "x"
    assert find_secret({"relay_admin_token_file": str(file)}, "RELAY_ADMIN_TOKEN") == "of-a-file"
    assert find_secret({"RELAY_LISTEN": "x"}, "RELAY_ADMIN_TOKEN") is None
