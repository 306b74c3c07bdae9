"""What means the same wherever it appears in the HTTP interface: parameters, headers, tags, credentials, shared schemas.

Only data. ``openapi`` puts it into the document; an operation says no more than what is its own.
"""

from typing import Any

from relay.protocols.digests import SUPPORTED

REQUEST_ID = "01920000-0000-7000-8000-000000000000"
UPLOAD_ID = "01920000-0000-7000-8000-000000000001"
TIME = "2026-01-31T12:00:00Z"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
CRC32C = "e3069283"
WANTED = SUPPORTED.decode()
CURSOR = "WyJhY21lIl0"

DESCRIPTION = """\
Clients send files to `/upload/{path}` with a tenant's key; operators work under `/admin/v1` with their token.

Every answer names its request in `Relay-Request-Id`. Every failure is `application/problem+json` (RFC 9457) with a
`code` that never changes its meaning. A method that a path does not have is 405 `method_not_allowed`, with those
that it has in `Allow`; a path that does not exist is 404 `not_found`.
"""

TAGS = {
    "upload": "The main door: a tenant's clients send files.",
    "uploads": "What became of a tenant's own uploads.",
    "tenants": "The customers.",
    "keys": "The credentials of a tenant's clients.",
    "destinations": "Where a tenant's bytes go.",
    "routes": "Which path prefix leads to which destination.",
    "ledger": "What happened to every upload.",
    "usage": "How much each tenant moved, a day a line.",
    "audit": "Who changed what, and when.",
    "live": "The uploads that run now.",
    "health": "What an orchestrator and Prometheus ask.",
    "interface": "This document, for machines and for people.",
}

_TEXT: dict[str, Any] = {"type": "string"}

PARAMETERS: dict[str, tuple[str, Any]] = {
    "slug": ("The tenant's slug.", "acme"),
    "key_id": ("The key's id: what stands between `rk_` and the next underscore.", "k3a9x0q2m7b1c5d8"),
    "name": ("The destination's name.", "main"),
    "route_id": ("The route's id.", REQUEST_ID),
    "upload_id": ("The upload's id, from `Relay-Upload-Id`.", UPLOAD_ID),
    "request_id": ("The request's id, from `Relay-Request-Id`.", REQUEST_ID),
    "If-Match": ("Change the object only if this is still its ETag; else 412.", '"1769860800000000"'),
    "limit": ("Items on a page.", 50),
    "cursor": ("The `next` of the page before.", CURSOR),
    "tenant": ("Slug of the tenant.", "acme"),
    "outcome": ("How the request ended.", "delivered"),
    "path_prefix": ("What the path after /upload/ begins with, as it was sent.", "reports/"),
    "since": ("At this time or later.", TIME),
    "until": ("Before this time.", "2026-02-01T00:00:00Z"),
    "format": ("How the answer is written.", "json"),
}
"""What a parameter of this name is, and an example. A route may say more of its own; it then wins."""

HEADERS: dict[str, Any] = {
    "Relay-Request-Id": {
        "description": "Names this request in log and ledger.",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
        "example": REQUEST_ID,
    },
    "Relay-Upload-Id": {
        "description": "Names this upload. On every answer from the moment the tenant is known.",
        "schema": {"type": "string", "format": "uuid"},
        "example": UPLOAD_ID,
    },
    "ETag": {
        "description": "Names this state of the object, for If-Match.",
        "required": True,
        "schema": {"type": "string", "pattern": '^".+"$'},
        "example": '"1769860800000000"',
    },
    "Location": {
        "description": "Where the object is from now on.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
        "example": "/admin/v1/tenants/acme",
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}, "example": 1},
    "WWW-Authenticate": {
        "description": "Which credential is asked for.",
        "required": True,
        "schema": _TEXT,
        "example": 'Bearer realm="relay"',
    },
    "Want-Content-Digest": {"description": "The algorithms of which a claim is verified (RFC 9530).", "schema": _TEXT, "example": WANTED},
    "Want-Repr-Digest": {"description": "The same.", "schema": _TEXT, "example": WANTED},
    "Allow": {"description": "The methods that the path has.", "required": True, "schema": _TEXT, "example": "POST, PUT"},
}


def headers(*names: str) -> dict[str, Any]:
    """Refer to headers by their names."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


SECURITY_SCHEMES: dict[str, Any] = {
    "operator": {"type": "http", "scheme": "bearer", "description": "A token of an operator (RELAY_ADMIN_TOKEN, RELAY_ADMIN_READ_TOKEN)."},
    "bearerKey": {"type": "http", "scheme": "bearer", "description": "A tenant's key, `rk_<id>_<secret>`."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in a field of its own."},
}

STORED_OBJECT: dict[str, Any] = {
    "key": "reports/2026/january.pdf",
    "size": 48_213,
    "content_type": "application/pdf",
    "filename": None,
    "field": None,
    "sha256": SHA256,
    "etag": None,
    "version": None,
}

SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "description": "Why a request failed (RFC 9457). `code` never changes its meaning.",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "code": _TEXT,
            "request_id": {"type": "string", "format": "uuid"},
            "errors": {"type": "array", "items": {"$ref": "#/components/schemas/FieldError"}},
            "objects": {
                "description": "What of a form had landed in a store before this failed; absent where nothing had.",
                "type": "array",
                "items": {"$ref": "#/components/schemas/StoredObject"},
            },
        },
    },
    "FieldError": {
        "type": "object",
        "description": "One thing wrong with one member of the request.",
        "required": ["location", "code", "message"],
        "properties": {
            "location": {"type": "array", "items": {"anyOf": [_TEXT, {"type": "integer"}]}},
            "code": _TEXT,
            "message": _TEXT,
        },
        "examples": [{"location": ["body", "limits", "max_upload_bytes"], "code": "limit_invalid", "message": "Use 1 or more."}],
    },
    "StoredObjects": {
        "type": "object",
        "description": "What a store made of an upload.",
        "required": ["upload_id", "objects"],
        "properties": {
            "upload_id": {"type": "string", "format": "uuid"},
            "objects": {"type": "array", "items": {"$ref": "#/components/schemas/StoredObject"}},
            "fields": {
                "description": "The plain fields of a form, in its order; absent where the body was none.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "value"],
                    "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                },
            },
        },
        "examples": [{"upload_id": UPLOAD_ID, "objects": [STORED_OBJECT]}],
    },
    "StoredObject": {
        "type": "object",
        "description": "One finished object. `size` is in bytes, `sha256` in hex.",
        "required": ["key", "size", "content_type", "filename", "field", "sha256", "etag", "version"],
        "properties": {
            "key": _TEXT,
            "size": {"type": "integer", "minimum": 0},
            "content_type": {"type": ["string", "null"]},
            "filename": {"type": ["string", "null"]},
            "field": {"type": ["string", "null"]},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "etag": {"type": ["string", "null"]},
            "version": {"type": ["string", "null"]},
        },
        "examples": [STORED_OBJECT],
    },
}
