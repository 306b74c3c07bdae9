"""What owners may say of a container, and that no secret of theirs is quoted."""

from typing import Any

import pytest

from relay.destinations.azure_answers import READ, WRITE, Refused
from relay.destinations.azure_config import LARGEST_BLOCK, MIB, AzureConfig
from relay.destinations.azure_container import MOST_BLOCKS
from relay.destinations.azure_signing import SharedKey
from relay.destinations.azure_writer import size_block
from relay.destinations.kinds import name_secrets, parse_config, parse_secrets
from relay.destinations.store_requests import Reply
from relay.errors import DestinationBroke, DestinationMisconfigured, PathInvalid, RelayError, RequestInvalid

CONFIG = {"account": "acmefiles", "container": "in-box"}
SAS = "sv=2024-08-04&sr=c&sp=rcwd&se=2027-01-01T00%3A00%3A00Z&sig=aHVzaA%3D%3D"


def test_little_is_enough() -> None:
    config = parse_config("azure", CONFIG)
    assert isinstance(config, AzureConfig)
    assert (config.url, config.overwrite, config.block_bytes) == ("https://acmefiles.blob.core.windows.net", "refuse", None)
    assert parse_config("azure", {**CONFIG, "prefix": "a/b/"}).model_dump()["prefix"] == "a/b"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("account", "a"),
        ("account", "Acme"),
        ("account", "acme.evil.example/"),
        ("container", "a"),
        ("container", "a--b"),
        ("container", "-ab"),
        ("container", "x" * 64),
        ("container", "in/box"),
        ("prefix", "/a"),
        ("prefix", "a/../b"),
        ("prefix", "a."),
        ("prefix", "a\n"),
        ("endpoint_url", "ftp://x"),
        ("endpoint_url", "https://x/?sig=1"),
        ("block_bytes", MIB - 1),
        ("block_bytes", LARGEST_BLOCK + 1),
        ("block_bytes", True),
        ("max_connections", 0),
        ("key_template", "same"),
        ("tls", {"ca": "none"}),
        ("sas_token", SAS),
    ],
)
def test_what_cannot_be_is_refused_by_its_member(member: str, value: Any) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_config("azure", {**CONFIG, member: value})
    assert {error.location[2] for error in refused.value.errors} == {member}


@pytest.mark.parametrize(
    "secrets",
    [
        {"sas_token": SAS, "account_key": "aHVzaA=="},
        {"account_key": "hush"[:3]},
        {"account_key": "hüsh"},
        {"account_key": ""},
        {"sas_token": f"https://x/?{SAS}"},
        {"sas_token": "sp=r&hush=1"},
        {"sas_token": f"{SAS}&comp=acl"},
        {"sas_token": f"{SAS}&sig=hush"},
        {"sas_token": f"{SAS} HTTP/1.1\r\nhush: x"},
        {"sas_token": f"{SAS}#hush"},
        {"sas_token": "hush"},
    ],
)
def test_secrets_that_cannot_be_are_refused_and_not_quoted(secrets: dict[str, Any]) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_secrets("azure", secrets)
    assert "hush" not in repr(refused.value.errors) and "aHVzaA" not in repr(refused.value.errors)


def test_a_token_may_begin_with_its_question_mark() -> None:
    plain = parse_secrets("azure", {"sas_token": f"?{SAS}"})
    assert (plain, name_secrets("azure", plain)) == ({"sas_token": SAS}, ["sas_token"])


def test_a_container_without_credentials_is_refused() -> None:
    config = parse_config("azure", CONFIG)
    config.check_beside(["account_key"], dict)
    with pytest.raises(RequestInvalid):
        config.check_beside([], dict)


@pytest.mark.parametrize("size", [0, 1, MOST_BLOCKS * 8 * MIB, MOST_BLOCKS * 8 * MIB + 1, 5 << 40])
def test_blocks_are_large_enough_for_what_is_declared(size: int) -> None:
    block = size_block(1, 8 * MIB, size)
    assert block == size_block(MOST_BLOCKS, 8 * MIB, size)
    assert (block * MOST_BLOCKS >= size, block >= 8 * MIB, block <= LARGEST_BLOCK) == (True, True, True)


def test_blocks_grow_where_nothing_is_declared() -> None:
    sizes = [size_block(number, 8 * MIB, None) for number in range(1, MOST_BLOCKS + 1)]
    assert (sizes[0], sizes == sorted(sizes), sum(sizes) > 2 << 40) == (8 * MIB, True, True)
    assert size_block(MOST_BLOCKS, LARGEST_BLOCK, None) == LARGEST_BLOCK


@pytest.mark.parametrize(
    ("status", "code", "error", "hint"),
    [
        (404, "ContainerNotFound", DestinationMisconfigured, "container does not exist"),
        (403, "AuthenticationFailed", DestinationMisconfigured, "does not accept the account key"),
        (403, "AuthorizationFailure", DestinationMisconfigured, "network rules"),
        (403, "AuthorizationPermissionMismatch", DestinationMisconfigured, "(c and w of a SAS)"),
        (403, "AccountIsDisabled", DestinationMisconfigured, "disabled"),
        (403, "KeyBasedAuthenticationNotPermitted", DestinationMisconfigured, "sas_token"),
        (403, "AuthorizationSourceIPMismatch", DestinationMisconfigured, "address"),
        (412, "LeaseIdMissing", DestinationMisconfigured, "leased"),
        (409, "BlobImmutableDueToPolicy", DestinationMisconfigured, "immutable"),
        (409, "BlobArchived", DestinationMisconfigured, "archive"),
        (400, "InvalidBlockList", DestinationBroke, "another upload of this name"),
        (400, "InvalidBlobOrBlock", DestinationBroke, "within a week"),
        (400, "Md5Mismatch", DestinationBroke, "not what was sent"),
        (400, "InvalidUri", PathInvalid, "name"),
        (301, "", DestinationMisconfigured, "no blob store"),
        (404, "<script>", DestinationMisconfigured, "no blob store"),
        (418, "hidden-text\r\n", DestinationBroke, "418"),
    ],
)
def test_refusals_are_said_in_our_words(status: int, code: str, error: type[RelayError], hint: str) -> None:
    told = Refused(Reply(status, {"x-ms-error-code": code}, b"<Error><Message>hidden-text</Message></Error>")).explain(
        WRITE, SharedKey("acme", "aHVzaA==")
    )
    assert type(told) is error
    assert hint in told.detail and "hidden-text" not in told.detail


def test_clocks_that_differ_are_named() -> None:
    reply = Reply(403, {"x-ms-error-code": "AuthenticationFailed", "date": "Sun, 25 Sep 2011 14:36:14 GMT"})
    assert "clock" in Refused(reply).explain(READ, SharedKey("acme", "aHVzaA==")).detail


@pytest.mark.parametrize(("wish", "seconds"), [("7", 7.0), ("99999", 30.0), ("-1", 0.0), ("soon", 0.0), ("9" * 400, 0.0)])
def test_the_store_may_ask_for_some_patience_and_not_for_more(wish: str, seconds: float) -> None:
    refused = Refused(Reply(503, {"x-ms-error-code": "ServerBusy", "retry-after": wish}))
    assert (refused.is_transient, refused.retry_after) == (True, seconds)
