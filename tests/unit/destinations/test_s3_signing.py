"""What is signed, and with what: encodings, both makers' signatures, tokens, and secrets that are never shown."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from relay.destinations.parts import PartMemory
from relay.destinations.s3 import make_signer
from relay.destinations.s3_config import GcsConfig, GcsSecrets, S3Config, S3Secrets
from relay.destinations.s3_requests import Ask, Requests
from relay.destinations.s3_signing import EMPTY_SHA256, SCOPE, AccessKey, BearerSigner, GivenKey, MachineKey, Unsigned, V4Signer
from relay.destinations.store_tools import StoreTools
from relay.destinations.upload_notes import UploadNotes
from relay.errors import DestinationMisconfigured, RequestInvalid
from relay.settings import DnsSettings
from relay.wire.client import Account, Transport, make_client
from relay.wire.names import Names

SECRET = "secret-of-the-tests"
GIVEN = {"access_key_id": "id-of-the-tests", "secret_access_key": SECRET}


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[StoreTools]:
    made = StoreTools(PartMemory(64 << 20), 3, UploadNotes(tmp_path / "multipart"))
    yield made
    made.close()


class FixedSigner:
    """Signs nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Unsigned] = []

    async def sign(self, request: Unsigned) -> Mapping[str, str]:
        self.asked.append(request)
        raise DestinationMisconfigured


async def signed_url(config: S3Config | GcsConfig, ask: Ask) -> Unsigned:
    signer = FixedSigner()
    async with make_client(Transport(Names(DnsSettings()), lambda _host, _address: True)) as client:
        with pytest.raises(DestinationMisconfigured):
            await Requests(client, Account("acme", str(uuid4())), config, signer).call(ask)
    return signer.asked[0]


def lowered(fields: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in fields.items()}


@pytest.mark.parametrize(
    ("members", "url"),
    [
        ({}, "https://bucket.s3.us-east-1.amazonaws.com/a%20b"),
        ({"region": "eu-central-1", "path_style": True}, "https://s3.eu-central-1.amazonaws.com/bucket/a%20b"),
        ({"region": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn/a%20b"),
        ({"bucket": "my.bucket"}, "https://s3.us-east-1.amazonaws.com/my.bucket/a%20b"),
        ({"endpoint_url": "https://minio.example:9000"}, "https://minio.example:9000/bucket/a%20b"),
        ({"endpoint_url": "https://example.com/s3/"}, "https://example.com/s3/bucket/a%20b"),
        ({"endpoint_url": "http://example.com:8080/s3", "path_style": False}, "http://bucket.example.com:8080/s3/a%20b"),
    ],
)
async def test_where_a_key_is(members: dict[str, object], url: str) -> None:
    asked = await signed_url(S3Config.model_validate({"bucket": "bucket"} | members), Ask("GET", "a b"))
    assert asked.url == url and asked.fields["host"] == url.split("/")[2]


async def test_every_octet_but_the_unreserved_is_encoded_once() -> None:
    key = "ordner/ü 100%+&=?#~._-*'()!$,:;@[]\U0001f600/x"
    asked = await signed_url(S3Config(bucket="bucket"), Ask("GET", key, [("uploadId", "a+b/c="), ("partNumber", "1")]))
    path, _, query = asked.url.removeprefix("https://bucket.s3.us-east-1.amazonaws.com/").partition("?")
    assert path == quote(key, safe="/-_.~") and query == "uploadId=a%2Bb%2Fc%3D&partNumber=1"
    assert re.fullmatch(r"[A-Za-z0-9/._~%-]+", path)


@pytest.mark.parametrize(
    ("scheme", "signs", "digest"),
    [("https", None, None), ("https", True, "d" * 64), ("https", False, None), ("http", None, "d" * 64), ("http", False, None)],
)
async def test_a_body_is_signed_where_nothing_else_protects_it_or_its_owner_says(
    scheme: str, *, signs: bool | None, digest: str | None
) -> None:
    config = S3Config(bucket="bucket", endpoint_url=f"{scheme}://example.com", sign_bodies=signs)
    assert (await signed_url(config, Ask("PUT", "a", pieces=[b"x"], size=1, sha256="d" * 64))).sha256 == digest
    assert (await signed_url(config, Ask("GET", "a"))).sha256 == EMPTY_SHA256


async def test_amazons_signature_covers_all_fields_and_carries_the_session() -> None:
    signer = V4Signer(GivenKey(AccessKey("AKID", SECRET, "session")), "eu-west-1")
    fields = {"host": "h", "x-amz-meta-a": "b", "if-none-match": "*"}
    signed = lowered(await signer.sign(Unsigned("PUT", "https://h/a", fields)))
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AKID/\d{8}/eu-west-1/s3/aws4_request, SignedHeaders=(.*), Signature=\w{64}", signed["authorization"]
    )
    assert found is not None
    assert set(found[1].split(";")) == {*fields, "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"}
    assert signed["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD" and signed["x-amz-security-token"] == "session"


async def test_googles_signature_is_what_google_describes() -> None:
    """Google: "V4 signing process with your own program", with its own names and no field of the other maker."""
    signer = V4Signer(GivenKey(AccessKey("GOOG1E", SECRET)), "auto", is_google=True)
    fields = {"host": "storage.googleapis.com", "x-goog-if-generation-match": "0"}
    signed = {
        name.lower(): value
        for name, value in (await signer.sign(Unsigned("PUT", "https://storage.googleapis.com/b/a%20b?x=", fields))).items()
    }
    assert not any(name.startswith("x-amz") for name in signed)
    at, names = signed["x-goog-date"], "host;x-goog-content-sha256;x-goog-date;x-goog-if-generation-match"
    canonical = f"PUT\n/b/a%20b\nx=\nhost:storage.googleapis.com\nx-goog-content-sha256:UNSIGNED-PAYLOAD\nx-goog-date:{at}\n"
    canonical += f"x-goog-if-generation-match:0\n\n{names}\nUNSIGNED-PAYLOAD"
    scope = f"{at[:8]}/auto/storage/goog4_request"
    text = f"GOOG4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"GOOG4{SECRET}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    assert signed["authorization"] == f"GOOG4-HMAC-SHA256 Credential=GOOG1E/{scope}, SignedHeaders={names}, Signature={signature}"


def service_account(**members: object) -> str:
    key = rsa.generate_private_key(65_537, 2_048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    told = {"type": "service_account", "client_email": "a@b.example", "private_key": pem, "private_key_id": "k1"}
    return json.dumps(told | {"token_uri": "http://169.254.169.254/steal"} | members)


async def test_a_service_account_signs_its_own_tokens_and_its_addresses_are_forgotten(tools: StoreTools) -> None:
    secrets = GcsSecrets.model_validate({"service_account": service_account()})
    assert "169.254" not in json.dumps(secrets.plain()) and "169.254" not in repr(secrets)
    signer = make_signer(GcsConfig(bucket="bucket"), secrets, tools)
    assert isinstance(signer, BearerSigner)
    signed = await signer.sign(Unsigned("PUT", "https://storage.googleapis.com/bucket/a", {"host": "x"}))
    head, claims, _ = (part + "=" * (-len(part) % 4) for part in signed["authorization"].removeprefix("Bearer ").split("."))
    read = json.loads(base64.urlsafe_b64decode(claims))
    assert (read["iss"], read["sub"], read["scope"]) == ("a@b.example", "a@b.example", SCOPE) and "aud" not in read
    assert json.loads(base64.urlsafe_b64decode(head))["kid"] == "k1"
    again = await signer.sign(Unsigned("PUT", "https://storage.googleapis.com/bucket/a", {}))
    assert again["authorization"] == signed["authorization"], "it is kept until it runs out"


async def test_a_key_that_is_none_is_refused_and_not_told(tools: StoreTools, caplog: pytest.LogCaptureFixture) -> None:
    secrets = GcsSecrets.model_validate({"service_account": service_account(private_key="no-key-but-secret")})
    signer = make_signer(GcsConfig(bucket="bucket"), secrets, tools)
    with pytest.raises(DestinationMisconfigured) as caught:
        await signer.sign(Unsigned("GET", "https://x/", {}))
    assert "no-key-but-secret" not in f"{caught.value!r}{caplog.text}"


async def test_the_machines_key_comes_from_its_chain_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AMBIENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    machine = MachineKey()
    keys = await asyncio.gather(*(machine.get() for _ in range(5)))
    assert {id(key) for key in keys} == {id(keys[0])} and keys[0].access_key == "AMBIENT"
    await V4Signer(machine, "us-east-1").sign(Unsigned("GET", "https://h/", {"host": "h"}))
    assert SECRET not in caplog.text + repr(keys) and "CanonicalRequest" not in caplog.text


async def test_a_machine_without_credentials_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(DestinationMisconfigured, match="no credentials for S3"):
        await MachineKey().get()


@pytest.mark.parametrize(
    ("config", "names", "code"),
    [
        (S3Config(bucket="bucket"), [], "credentials_missing"),
        (S3Config(bucket="bucket", ambient_credentials=True), ["access_key_id", "secret_access_key"], "credentials_ambiguous"),
        (GcsConfig(bucket="bucket", ambient_credentials=True), ["service_account"], "credentials_ambiguous"),
    ],
)
def test_credentials_have_one_origin(config: S3Config, names: list[str], code: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        config.check_beside(names, dict)
    assert caught.value.errors[0].code == code
    S3Config(bucket="bucket").check_beside(["access_key_id", "secret_access_key"], dict)
    GcsConfig(bucket="bucket", ambient_credentials=True).check_beside([], dict)


@pytest.mark.parametrize(
    "members",
    [
        {"bucket": "../other"},
        {"bucket": "a/b"},
        {"bucket": "b"},
        {"prefix": "/a"},
        {"prefix": "a/../b"},
        {"prefix": "a//b"},
        {"part_bytes": (5 << 20) - 1},
        {"part_bytes": (5 << 30) + 1},
        {"region": "eu_central/1"},
        {"endpoint_url": "ftp://example.com"},
        {"endpoint_url": "http://user:pass@example.com"},
        {"endpoint_url": "http://example.com", "tls": {"server_name": "x"}},
        {"surprise": 1},
    ],
)
def test_what_cannot_be_right_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        S3Config.model_validate({"bucket": "bucket"} | members)


def test_the_machines_token_goes_to_google_alone() -> None:
    with pytest.raises(ValueError, match="endpoint_url"):
        GcsConfig(bucket="bucket", ambient_credentials=True, endpoint_url="https://elsewhere.example")


def test_secrets_are_sealed_whole_and_never_shown() -> None:
    secrets = S3Secrets.model_validate({**GIVEN, "session_token": "token-of-the-tests"})
    assert secrets.plain() == {**GIVEN, "session_token": "token-of-the-tests"} and SECRET not in repr(secrets)
    assert S3Secrets.names(secrets.plain()) == ["access_key_id", "secret_access_key", "session_token"]
    for wrong in ({"access_key_id": "a"}, {"session_token": "t"}, {**GIVEN, "service_account": "{}"}):
        with pytest.raises(ValueError, match=r"."):
            GcsSecrets.model_validate(wrong)


def test_an_unknown_folder_is_made_for_the_first_note_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("notes") / "multipart"
    notes = UploadNotes(root)
    assert not root.exists() and list(notes.living(root)) == []
    notes.begin("acme", uuid4(), "http://x b", "key").remove()
    notes.close()
    assert list(root.iterdir()) == []
