"""Config and secrets of destinations: what is taken, what is refused, and that no secret is quoted."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.destinations.disk_config import DiskConfig
from relay.destinations.http_config import HttpConfig, HttpSecrets
from relay.destinations.kinds import name_secrets, parse_config, parse_secrets
from relay.destinations.members import parse_members
from relay.errors import RequestInvalid

URL = "http://example.test/upload"


def parse_http_config(config: dict[str, Any]) -> HttpConfig:
    return parse_members(HttpConfig, config, "config")


def parse_http_secrets(secrets: dict[str, Any]) -> HttpSecrets:
    return parse_members(HttpSecrets, secrets, "secrets")


def parse_disk_config(config: dict[str, Any]) -> DiskConfig:
    return parse_members(DiskConfig, config, "config")


def _wrong_members(config: dict[str, Any], kind: str = "http") -> list[tuple[str | int, ...]]:
    with pytest.raises(RequestInvalid) as refused:
        parse_config(kind, config)
    return [error.location for error in refused.value.errors]


def test_defaults_are_filled_in() -> None:
    assert parse_http_config({"base_url": URL}).model_dump(mode="json") == {
        "base_url": URL,
        "connect_timeout_seconds": 5,
        "idle_timeout_seconds": 60,
        "total_timeout_seconds": None,
        "max_connections": 100,
    }
    assert parse_disk_config({"directory": "acme"}).model_dump(mode="json") == {
        "directory": "acme",
        "overwrite": "refuse",
        "key_template": "{path}",
    }


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "https://a.example/",
        "http://127.0.0.1:8001/upload",
        "http://[::1]:8001/x",
        "http://upstream_1:80/a%20b/",
        "https://a.example./x",
    ],
)
def test_base_url_is_taken_as_it_is(url: str) -> None:
    assert parse_http_config({"base_url": url}).base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.test",
        "/upload",
        "ftp://a/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://a?x=1",
        "http://a/?",
        "http://a/#",
        "http://a/#x",
        "http://user@a/",
        "http://user:hush@a/",
        "http://@a/",
        "http://a:0/",
        "http://a:65536/",
        "http://a:x/",
        "http://a:/",
        "http://a:-1/",
        "http://[::1/",
        "http://[1.2.3.4]/",
        "http://[fe80::1%25eth0]/",
        "http://[::1]x/",
        "http://a[::1]/",
        "http://999.1.1.1/",
        "http://a..b/",
        "http://-a/",
        "http://a b/",
        "http://a/\r\nX: y",
        "http://a/\x00",
        "http://a\\b/",
        "http://ä.example/",
        "http://a/ä",
        "http://a/%zz",
        "http://a/../b",
        "http://a/%2e%2e/b",
        "http://a/.",
        "http://" + "a" * 254 + "/",
        "http://a/" + "a" * 2_048,
        5,
        None,
    ],
)
def test_base_url_that_is_none_is_refused(url: object) -> None:
    assert _wrong_members({"base_url": url}) == [("body", "config", "base_url")]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("connect_timeout_seconds", 0),
        ("connect_timeout_seconds", -1),
        ("connect_timeout_seconds", 86_401),
        ("idle_timeout_seconds", float("nan")),
        ("idle_timeout_seconds", float("inf")),
        ("idle_timeout_seconds", None),
        ("total_timeout_seconds", 0.0),
        ("max_connections", 0),
        ("max_connections", 2.5),
        ("max_connections", 10_001),
        ("surprise", 1),
    ],
)
def test_wrong_member_of_an_http_config_is_named(member: str, value: object) -> None:
    assert _wrong_members({"base_url": URL, member: value}) == [("body", "config", member)]


@pytest.mark.parametrize("value", ["5", True, [5]])
def test_number_of_another_type_is_refused_under_its_member_alone(value: object) -> None:
    assert set(_wrong_members({"base_url": URL, "connect_timeout_seconds": value})) == {("body", "config", "connect_timeout_seconds")}


def test_fractions_of_seconds_are_kept() -> None:
    assert parse_http_config({"base_url": URL, "total_timeout_seconds": 0.5}).total_timeout_seconds == 0.5


@pytest.mark.parametrize(
    "directory",
    ["", ".", "..", "/etc", "/", "a/../b", "../a", "a/..", "a//b", "a/", "./a", "a\\b", "a\x00b", "a\nb", "a\x7f", "a" * 256, "ä" * 128, 5],
)
def test_directory_that_could_leave_the_root_is_refused(directory: object) -> None:
    assert _wrong_members({"directory": directory}, "disk") == [("body", "config", "directory")]


@pytest.mark.parametrize("directory", ["acme", "a/b/c", "..a/b..", "ä" * 127, "with blank/x"])
def test_relative_directory_is_taken(directory: str) -> None:
    assert parse_disk_config({"directory": directory}).directory == directory


@pytest.mark.parametrize("template", ["", "x", "{path}{", "{}", "{path!r}", "{path}/{secret}", "../{path}", "/{path}", "a/./{path}"])
def test_key_template_that_names_no_file_below_the_directory_is_refused(template: str) -> None:
    assert _wrong_members({"directory": "a", "key_template": template}, "disk") == [("body", "config", "key_template")]


def test_key_template_may_add_to_the_path() -> None:
    assert parse_disk_config({"directory": "a", "key_template": "in/{path}.raw"}).key_template == "in/{path}.raw"


@pytest.mark.parametrize("overwrite", ["ask", None, True])
def test_overwrite_is_refuse_or_replace(overwrite: object) -> None:
    assert _wrong_members({"directory": "a", "overwrite": overwrite}, "disk") == [("body", "config", "overwrite")]


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "CONNECTION",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Expect",
        "Via",
        "",
        "a b",
        "a:",
        "a\r\nb",
        "ä",
        "x" * 300,
    ],
)
def test_header_name_that_an_owner_may_not_set_is_refused(name: str) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_http_secrets({"headers": {name: "hush-hush"}})
    assert refused.value.errors[0].location[:3] == ("body", "secrets", "headers")
    assert "hush" not in repr(refused.value.errors) + str(refused.value)


@pytest.mark.parametrize(
    "value", ["hush\r\nX: y", "hush\n", "hush\x00", " hush", "hush\t", "hushé", "hush\x7f", "hush" * 5_000, ["hush"], None]
)
def test_wrong_header_value_is_refused_and_never_quoted(value: object) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_http_secrets({"headers": {"X-Token": value}})
    assert "X-Token" in repr(refused.value.errors)
    assert "hush" not in repr(refused.value.errors) + str(refused.value) + repr(refused.value.__cause__)


def test_one_header_in_two_cases_is_refused() -> None:
    with pytest.raises(RequestInvalid):
        parse_http_secrets({"headers": {"X-Token": "a", "x-token": "b"}})


def test_secrets_are_named_and_hidden() -> None:
    given_secrets = {"headers": {"Authorization": "Bearer hush", "X-Token": ""}}
    secrets = parse_secrets("http", given_secrets)
    assert secrets == given_secrets
    assert name_secrets("http", secrets) == ["Authorization", "X-Token"]
    assert "hush" not in repr(parse_http_secrets(given_secrets))


@pytest.mark.parametrize("secrets", [{"header": {}}, {"headers": []}, {"headers": {"X": "y"}, "sas_token": "hush"}])
def test_unknown_secret_is_refused_and_not_quoted(secrets: dict[str, Any]) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_secrets("http", secrets)
    assert "hush" not in repr(refused.value.errors)


def test_disk_has_no_secrets() -> None:
    assert parse_secrets("disk", {}) == {}
    with pytest.raises(RequestInvalid):
        parse_secrets("disk", {"headers": {}})


@pytest.mark.parametrize("kind", ["ftp", "S3", ""])
def test_kind_that_is_not_supported_is_said_so(kind: str) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_config(kind, {})
    assert [(error.location, error.code) for error in refused.value.errors] == [(("body", "kind"), "kind_not_supported")]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["base_url", "headers", "directory", "max_connections", "idle_timeout_seconds", "x"]), _JSON))
def test_whatever_comes_is_taken_or_refused(value: dict[str, Any]) -> None:
    for parse in (parse_http_config, parse_http_secrets, parse_disk_config):
        try:
            parse(value)
        except RequestInvalid as error:
            assert error.errors  # noqa: PT017 - both endings are right, and this one must say what is wrong
