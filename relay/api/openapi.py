"""``/openapi.json``: the whole HTTP interface, printed from the routes and from the error tree.

Admin routes say by ``declare`` which errors they answer with; the main door is no framework route, so its
operation is written here. What stays true: every route is in the document, and an operation answers with no
status that it does not declare (a bug's 500 is no contract and is not declared).
"""

from collections import defaultdict
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from relay import errors
from relay.api.problems import MEDIA_TYPE
from relay.destinations.config import DiskConfig, HttpConfig, HttpSecrets, NoSecrets
from relay.errors import RelayError
from relay.telemetry import VERSION

ADMIN_PREFIX = "/admin/v1"
DOOR_PATH = "/upload/{path}"
REQUEST_ID = "01920000-0000-7000-8000-000000000000"

CONFIGS: tuple[type[BaseModel], ...] = (HttpConfig, DiskConfig)
SECRETS: tuple[type[BaseModel], ...] = (HttpSecrets, NoSecrets)

Responses = dict[int | str, dict[str, Any]]

DOOR_ERRORS: tuple[type[RelayError], ...] = (
    errors.PathInvalid,
    errors.CredentialsAmbiguous,
    errors.FramingInvalid,
    errors.BodyIncomplete,
    errors.RangeRefused,
    errors.DigestUnsupported,
    errors.KeyMissing,
    errors.KeyInvalid,
    errors.KeyExpired,
    errors.KeyRevoked,
    errors.TenantDisabled,
    errors.ScopeMissing,
    errors.RouteNotFound,
    errors.ClientTooSlow,
    errors.ObjectExists,
    errors.UploadTooLarge,
    errors.ContentTypeRefused,
    errors.FormNotSupported,
    errors.DigestMismatch,
    errors.LimitExceeded,
    errors.HeadTooLarge,
    errors.DestinationUnreachable,
    errors.DestinationRefusedTls,
    errors.DestinationBroke,
    errors.DestinationMisconfigured,
    errors.AnsweredEarly,
    errors.EgressDenied,
    errors.DirectoryUnavailable,
    errors.DestinationBusy,
    errors.JournalFull,
    errors.ShuttingDown,
    errors.DestinationTimeout,
    errors.DiskFull,
    errors.LoopDetected,
)

_TEXT: dict[str, Any] = {"type": "string"}

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
    },
    "StoredObjects": {
        "type": "object",
        "description": "What a store made of an upload.",
        "required": ["upload_id", "objects"],
        "properties": {
            "upload_id": {"type": "string", "format": "uuid"},
            "objects": {"type": "array", "items": {"$ref": "#/components/schemas/StoredObject"}},
        },
    },
    "StoredObject": {
        "type": "object",
        "description": "One finished object. `size` is in bytes, `sha256` in hex.",
        "required": ["key", "size", "content_type", "filename", "field", "sha256", "etag"],
        "properties": {
            "key": _TEXT,
            "size": {"type": "integer", "minimum": 0},
            "content_type": {"type": ["string", "null"]},
            "filename": {"type": ["string", "null"]},
            "field": {"type": ["string", "null"]},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "etag": {"type": ["string", "null"]},
        },
    },
}

SECURITY_SCHEMES: dict[str, Any] = {
    "operator": {"type": "http", "scheme": "bearer", "description": "The operators' token (RELAY_ADMIN_TOKEN)."},
    "bearerKey": {"type": "http", "scheme": "bearer", "description": "A tenant's key, `rk_<id>_<secret>`."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in a field of its own."},
}


_ETAG = {"ETag": {"description": "Names this state of the object, for If-Match.", "schema": _TEXT}}
SHOWN: Responses = {200: {"headers": _ETAG}}
MADE: Responses = {201: {"headers": _ETAG | {"Location": {"description": "Where the object is from now on.", "schema": _TEXT}}}}


def declare(*failures: type[RelayError]) -> Responses:
    """Declare the errors that an operation answers with."""
    by_status: dict[int, list[type[RelayError]]] = defaultdict(list)
    for failure in failures:
        by_status[failure.status].append(failure)
    return {status: _problem_response(kinds) for status, kinds in sorted(by_status.items())}


def describe(app: FastAPI) -> dict[str, Any]:
    """Print the document of every route of ``app``, and of the main door."""
    document = get_openapi(
        title="Relay",
        version=VERSION,
        summary="A multi-tenant upload relay: every tenant's files stream to that tenant's own destination.",
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    components["securitySchemes"] = SECURITY_SCHEMES
    _amend_schemas(components.setdefault("schemas", {}))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            # The first line of an endpoint's docstring says more than its name.
            operation["summary"] = operation.pop("description")
            if path.startswith(ADMIN_PREFIX):
                operation["security"] = [{"operator": []}]
            if method == "patch":
                content = operation["requestBody"]["content"]
                content["application/merge-patch+json"] = content["application/json"]
    document["paths"][DOOR_PATH] = {method: _door(method) for method in ("post", "put")}
    return document


def install(app: FastAPI) -> None:
    """Make ``app`` serve this document at its ``openapi_url``. It is printed once, when it is first asked for."""

    def printed() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = printed  # type: ignore[method-assign] # the framework's documented way to extend its document


def _amend_schemas(schemas: dict[str, Any]) -> None:
    """Add what no route names, and say which members ``config`` and ``secrets`` have: the registry checks them, not the route."""
    schemas.update(SCHEMAS)
    schemas.update({model.__name__: model.model_json_schema() for model in (*CONFIGS, *SECRETS)})
    for name in {"DestinationDocument", "DestinationPayload"}.intersection(schemas):
        members = schemas[name]["properties"]
        members["config"] = {"anyOf": [_reference(model) for model in CONFIGS]}
        if "secrets" in members:
            members["secrets"] = {"anyOf": [*(_reference(model) for model in SECRETS), {"type": "null"}], "writeOnly": True}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _problem_response(kinds: list[type[RelayError]]) -> dict[str, Any]:
    examples = {
        kind.code: {
            "summary": kind.title,
            "value": {
                "type": "about:blank",
                "title": kind.title,
                "status": kind.status,
                "detail": kind.advice,
                "code": kind.code,
                "request_id": REQUEST_ID,
            },
        }
        for kind in kinds
    }
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}}
    response: dict[str, Any] = {"description": ", ".join(f"`{kind.code}`" for kind in kinds), "content": content}
    if any(kind.retry_after_seconds is not None for kind in kinds):
        response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return response


def _door(method: str) -> dict[str, Any]:
    ids = {
        "Relay-Request-Id": {"description": "Names this request in log and ledger.", "schema": _TEXT},
        "Relay-Upload-Id": {"description": "Names this upload.", "schema": _TEXT},
    }
    stored = {"application/json": {"schema": {"$ref": "#/components/schemas/StoredObjects"}}}
    responses: dict[str, Any] = {
        "201": {"description": "A store holds the upload.", "headers": ids, "content": stored},
        "default": {"description": "An HTTP destination's own status, fields and body, as they come.", "headers": ids},
    }
    responses |= {str(status): response for status, response in declare(*DOOR_ERRORS).items()}
    return {
        "tags": ["upload"],
        "operationId": f"upload_{method}",
        "summary": "Send a file to the tenant's destination.",
        "description": "The body streams through as it comes; the key, the route, size and type are judged before its first byte.",
        "security": [{"bearerKey": []}, {"apiKey": []}],
        "parameters": [
            {
                "name": "path",
                "in": "path",
                "required": True,
                "description": "Where to: any number of segments, passed on as sent, the query with them.",
                "schema": _TEXT,
                "example": "reports/2026/january.pdf",
            }
        ],
        "requestBody": {
            "description": "The file itself, or a multipart form for an HTTP destination.",
            "required": False,
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        "responses": responses,
    }
