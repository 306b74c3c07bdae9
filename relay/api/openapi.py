"""``/openapi.json``: the whole HTTP interface, printed from the routes and from the error tree.

Admin routes say by ``declare`` which errors they answer with; the main door is no framework route, so its
operation is written here. What stays true: every route is in the document, and an operation answers with no
status that it does not declare (a bug's 500 is no contract and is not declared).
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel

from relay import errors
from relay.api.contract import CURSOR, DESCRIPTION, HEADERS, PARAMETERS, REQUEST_ID, SCHEMAS, SECURITY_SCHEMES, TAGS, headers
from relay.api.links import add_links
from relay.api.problems import MEDIA_TYPE
from relay.api.reference import POLICY, render
from relay.destinations.kinds import KINDS
from relay.errors import RelayError
from relay.telemetry import VERSION

ADMIN_PREFIX = "/admin/v1"
DOOR_PATH = "/upload/{path}"
MERGE_PATCH = "application/merge-patch+json"

_END_OF_SENTENCE = re.compile(r"(?<=\.)\s+")
UNSAID = "Successful Response"
"""What the framework says of an answer that nothing was said of."""

FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")

CONFIGS: tuple[type[BaseModel], ...] = tuple(dict.fromkeys(kind.config for kind in KINDS.values()))
SECRETS: tuple[type[BaseModel], ...] = tuple(dict.fromkeys(kind.secrets for kind in KINDS.values()))

Document = dict[str, Any]
Responses = dict[int | str, Document]

DOOR_ERRORS: tuple[type[RelayError], ...] = (
    errors.PathInvalid,
    errors.CredentialsAmbiguous,
    errors.FramingInvalid,
    errors.BodyIncomplete,
    errors.RangeRefused,
    errors.DigestUnsupported,
    errors.MetadataInvalid,
    errors.KeyMissing,
    errors.KeyInvalid,
    errors.KeyExpired,
    errors.KeyRevoked,
    errors.TenantDisabled,
    errors.ScopeMissing,
    errors.UploadCancelled,
    errors.RouteNotFound,
    errors.ClientTooSlow,
    errors.ObjectExists,
    errors.UploadTooLarge,
    errors.ContentTypeRefused,
    errors.FormInvalid,
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

SHOWN: Responses = {200: {"headers": headers("ETag")}}
MADE: Responses = {201: {"headers": headers("ETag", "Location")}}
EVERYWHERE: tuple[type[RelayError], ...] = (errors.FramingInvalid, errors.HeadTooLarge)
"""What the server answers before any route is asked."""


def declare(*failures: type[RelayError]) -> Responses:
    """Declare the errors that an operation answers with."""
    by_status: dict[int, list[type[RelayError]]] = defaultdict(list)
    for failure in failures:
        by_status[failure.status].append(failure)
    return {status: _problem_response(kinds) for status, kinds in sorted(by_status.items())}


def describe(app: FastAPI) -> Document:
    """Print the document of every route of ``app``, and of the main door."""
    document = get_openapi(
        title="Relay",
        version=VERSION,
        summary="A multi-tenant upload relay: every tenant's files stream to that tenant's own destination.",
        description=DESCRIPTION,
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    components["securitySchemes"] = SECURITY_SCHEMES
    components["headers"] = HEADERS
    components["examples"] = {code: _problem(kind) for code, kind in sorted(problems().items())}
    schemas = {name: each for name, each in components.get("schemas", {}).items() if name not in FRAMEWORKS_OWN}
    components["schemas"] = schemas
    _amend_schemas(schemas)
    document["paths"][DOOR_PATH] = {method: _door(method) for method in ("post", "put")}
    used: set[str] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
            _exemplify(operation, schemas)
            used.update(operation["tags"])
    add_links(document, ADMIN_PREFIX)
    document["tags"] = [{"name": name, "description": TAGS[name]} for name in TAGS if name in used]
    return document


def install(app: FastAPI) -> None:
    """Make ``app`` serve this document, for machines and for people. It is printed once, when it is first asked for."""

    def printed() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = printed  # type: ignore[method-assign] # the framework's documented way to extend its document

    @cache
    def written() -> tuple[bytes, bytes]:
        """Both forms as bytes, written once: whoever asks needs no credential, and must not cost anything."""
        return json.dumps(printed(), ensure_ascii=False).encode(), render(printed()).encode()

    pages = APIRouter(tags=["interface"])
    page_example = {"openapi": "3.1.0", "info": {"title": "Relay", "version": VERSION}, "paths": {}}

    @pages.get("/openapi.json", operation_id="openapi", responses=_page("The document.", "application/json", page_example))
    async def show_document() -> Response:
        """Give this document: the whole HTTP interface, as OpenAPI 3.1."""
        return Response(written()[0], media_type="application/json")

    @pages.get("/docs", operation_id="docs", response_class=HTMLResponse, responses=_page("The page.", "text/html", "<!doctype html>…"))
    async def show_page() -> HTMLResponse:
        """Give the same as a page to read and to print; it needs nothing from elsewhere."""
        return HTMLResponse(written()[1], headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})

    app.include_router(pages)


def _page(description: str, media_type: str, example: Any) -> Responses:
    return {200: {"description": description, "content": {media_type: {"example": example}}}}


def _complete(path: str, method: str, operation: Document) -> None:
    """Say of an operation what follows from where it stands."""
    # The first sentence of an endpoint's docstring says more than its name.
    told = operation.pop("description")
    sentence, _, rest = _END_OF_SENTENCE.sub("\0", told, count=1).partition("\0")
    is_admin = path.startswith(ADMIN_PREFIX)
    named = {parameter["name"] for parameter in operation.get("parameters", ())}
    remarks = {
        "Give `next` back as `cursor` for the following page, until it is null.": "cursor" in named,
        "A merge patch (RFC 7396): absent members stay, null takes one away.": method == "patch",
        "With `If-Match` only if the object is still as it was read.": "If-Match" in named,
        "Needs the operators' token.": is_admin,
        "Needs no credential.": not operation.get("security") and not is_admin,
    }
    operation["summary"] = " ".join(sentence.split())
    operation["description"] = "\n\n".join(filter(None, (rest, " ".join(text for text, holds in remarks.items() if holds))))
    operation.setdefault("security", [{"operator": []}] if is_admin else [])
    if method == "patch":
        content = operation["requestBody"]["content"]
        content[MERGE_PATCH] = content["application/json"]
    for parameter in operation.get("parameters", ()):
        description, example = PARAMETERS.get(parameter["name"], (None, None))
        parameter.setdefault("description", description)
        parameter.setdefault("example", _example_of(parameter["schema"], example))
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):  # the framework's own, which nobody is ever sent
        responses["422"] = declare(errors.RequestInvalid)[422]
    changing = (errors.OperatorReadOnly,) if is_admin and method != "get" else ()
    for status, response in declare(*EVERYWHERE, *changing).items():
        _add_problems(responses.setdefault(str(status), response), response)
    operation["responses"] = {status: responses[status] for status in sorted(responses)}
    for response in responses.values():
        response["headers"] = headers("Relay-Request-Id") | response.get("headers", {})


def _add_problems(response: Document, more: Document) -> None:
    """Declare further problems of the same status."""
    examples = response["content"][MEDIA_TYPE]["examples"] | more["content"][MEDIA_TYPE]["examples"]
    response["content"][MEDIA_TYPE]["examples"] = examples
    response["description"] = ", ".join(f"`{code}`" for code in examples)


def _example_of(schema: Document, otherwise: Any) -> Any:
    return schema.pop("examples", [schema.get("default") if otherwise is None else otherwise])[0]


def _exemplify(operation: Document, schemas: Document) -> None:
    """Show the examples that the schemas have where a document is sent or given back."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        examples = _examples_of(content["schema"], schemas)
        if examples:
            content["examples"] = {f"example {number}": {"value": value} for number, value in enumerate(examples, 1)}
    for response in operation["responses"].values():
        for content in response.get("content", {}).values():
            examples = _examples_of(content.get("schema", {}), schemas)
            if examples and not {"example", "examples"}.intersection(content):
                content["example"] = examples[0]
            if response["description"] == UNSAID:
                response["description"] = _say(content["schema"], schemas)
        if response["description"] == UNSAID:
            response["description"] = "Done; there is nothing to show."


def _say(schema: Document, schemas: Document) -> str:
    found: Document = schemas.get(schema.get("$ref", "").rpartition("/")[2], {})
    return str(found.get("description", "One page; `next` is the cursor of the following one, null at the end."))


def _examples_of(schema: Document, schemas: Document) -> list[Any]:
    """The examples of a schema; those of a page are its items' own."""
    for choice in (schema, *schema.get("anyOf", ())):
        found = schemas[choice["$ref"].rpartition("/")[2]] if "$ref" in choice else choice
        if "examples" in found:
            return list(found["examples"])
        members = found.get("properties", {})
        if set(members) == {"items", "next"}:
            return [{"items": _examples_of(members["items"]["items"], schemas)[:1], "next": CURSOR}]
    return []


def _amend_schemas(schemas: Document) -> None:
    """Add what no route names, and say which members ``config`` and ``secrets`` have: the registry checks them, not the route."""
    schemas.update(SCHEMAS)
    for model in (*CONFIGS, *SECRETS):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for model in _models(BaseModel):
        extra = model.model_config.get("json_schema_extra")
        if model.__name__ in schemas and isinstance(extra, dict) and "examples" in extra:
            schemas[model.__name__]["examples"] = extra["examples"]  # once more: the framework leaves out members that are null
    for name in {"DestinationDocument", "DestinationPayload"}.intersection(schemas):
        members = schemas[name]["properties"]
        members["config"] = {"anyOf": [_reference(model) for model in CONFIGS]}
        if "secrets" in members:
            members["secrets"] = {"anyOf": [*(_reference(model) for model in SECRETS), {"type": "null"}], "writeOnly": True}


def _models(parent: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in parent.__subclasses__():
        if model.__module__.startswith("relay.api."):
            yield model
        yield from _models(model)


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _problem_response(kinds: list[type[RelayError]]) -> Document:
    content = {
        MEDIA_TYPE: {
            "schema": {"$ref": "#/components/schemas/Problem"},
            "examples": {kind.code: {"$ref": f"#/components/examples/{kind.code}"} for kind in kinds},
        }
    }
    response: Document = {"description": ", ".join(f"`{kind.code}`" for kind in kinds), "content": content}
    names = []
    if any(kind.retry_after_seconds is not None for kind in kinds):
        names.append("Retry-After")
    if any(kind.status == HTTPStatus.UNAUTHORIZED for kind in kinds):
        names.append("WWW-Authenticate")
    if errors.DigestUnsupported in kinds:
        names += ["Want-Content-Digest", "Want-Repr-Digest"]
    return response | ({"headers": headers(*names)} if names else {})


def problems() -> dict[str, type[RelayError]]:
    """Every problem that a client may see, by its code."""
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RelayError))
    return {kind.code: kind for kind in kinds if hasattr(kind, "code") and not issubclass(kind, errors.ClientGone)}


def _problem(kind: type[RelayError]) -> Document:
    value = {
        "type": "about:blank",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.advice,
        "code": kind.code,
        "request_id": REQUEST_ID,
    }
    if issubclass(kind, errors.RequestInvalid):
        value["errors"] = SCHEMAS["FieldError"]["examples"]
    return {"summary": kind.title, "value": value}


def _door(method: str) -> Document:
    ids = headers("Relay-Upload-Id")
    stored = {"application/json": {"schema": {"$ref": "#/components/schemas/StoredObjects"}}}
    responses: Document = {
        "201": {"description": "A store holds the upload.", "headers": ids, "content": stored},
        "default": {"description": "An HTTP destination's own status, fields and body, as they come.", "headers": ids},
    }
    for status, response in declare(*DOOR_ERRORS).items():
        responses[str(status)] = response | {"headers": ids | response.get("headers", {})}
    return {
        "tags": ["upload"],
        "operationId": f"upload_{method}",
        "description": "Send a file to the tenant's destination.\n\n"
        "The body streams through as it comes; the key, the route, size and type are judged before its first byte.",
        "security": [{"bearerKey": []}, {"apiKey": []}],
        "parameters": [
            {
                "name": "path",
                "in": "path",
                "required": True,
                "description": "Where to: any number of segments, passed on as sent, the query with them.",
                "schema": {"type": "string"},
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
