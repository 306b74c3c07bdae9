"""What an operator sends as a body: JSON, read with bounds and taken literally.

Stricter than RFC 8259 allows a parser to be lax: a name given twice, a number Postgres cannot hold, NaN,
NUL and lone surrogates are refused by name, before any model sees them. So nothing that reaches the
registries can fail in the database for the way it is written.
"""

import json
import math
from collections import Counter
from typing import Any

from fastapi import Request

from relay.errors import ClientGone, ContentTypeRefused, FieldError, RequestInvalid, UploadTooLarge

BODY_LIMIT_BYTES = 1 << 20
DEPTH_LIMIT = 16
INTEGER_LIMIT = 2**63
MERGE_PATCH = "application/merge-patch+json"

Location = tuple[str | int, ...]


async def read_document(request: Request) -> Any:
    """Read the body as one JSON value; ``None`` when there is no body.

    Raises:
        ContentTypeRefused: the body is not declared as JSON.
        UploadTooLarge: it is larger than a document may be; the rest is not read.
        RequestInvalid: it is not JSON that can be stored.
    """
    body = await _read_bounded(request)
    if not body:
        return None
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type not in {"application/json", MERGE_PATCH} or "content-encoding" in request.headers:
        raise ContentTypeRefused("Send the document as application/json, without Content-Encoding.")
    return parse_document(body)


def parse_document(body: bytes) -> Any:
    """Parse JSON and check that every value in it can be stored.

    Raises:
        RequestInvalid: naming where and why.
    """
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise _invalid(("body",), "json_invalid", "The body is not UTF-8.") from None
    except RecursionError:
        raise _invalid(("body",), "json_too_deep", "The document is nested too deeply.") from None
    except ValueError as error:  # a syntax error, or a number with thousands of digits
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise _invalid(("body",), "json_invalid", f"The body is not valid JSON{place}.") from None
    check_storable(value, ("body",))
    return value


def check_storable(value: Any, location: Location) -> None:
    """Check that Postgres can hold a value as it is.

    Raises:
        RequestInvalid: it cannot.
    """
    if len(location) > DEPTH_LIMIT:
        raise _invalid(location[:3], "json_too_deep", f"The document is nested deeper than {DEPTH_LIMIT} levels.")
    match value:
        case str():
            _check_text(value, location)
        case int() if not -INTEGER_LIMIT <= value < INTEGER_LIMIT:
            raise _invalid(location, "number_out_of_range", "The number does not fit into 64 bits.")
        case float() if not math.isfinite(value):
            raise _invalid(location, "number_out_of_range", "The number is not finite.")
        case dict():
            for name, member in value.items():
                _check_text(name, location)
                check_storable(member, (*location, name))
        case list():
            for index, item in enumerate(value):
                check_storable(item, (*location, index))
        case _:
            pass


def _check_text(text: str, location: Location) -> None:
    try:
        is_clean = b"\x00" not in text.encode()
    except UnicodeEncodeError:
        is_clean = False
    if not is_clean:
        raise _invalid(location, "text_invalid", "Text may not contain NUL or lone surrogates.")


async def _read_bounded(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > BODY_LIMIT_BYTES:
        raise _too_large()
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _too_large() -> UploadTooLarge:
    return UploadTooLarge(f"A document may have at most {BODY_LIMIT_BYTES} bytes.")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise _invalid(("body", twice), "member_repeated", "The name is given more than once in one object.")
    return members


def _refuse_constant(_: str) -> Any:
    raise _invalid(("body",), "json_invalid", "NaN and Infinity are not JSON.")


def _invalid(location: Location, code: str, message: str) -> RequestInvalid:
    return RequestInvalid(errors=[FieldError(location, code, message)])
