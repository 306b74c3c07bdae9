"""OpenAPI links: what can be done next with an object that was just made.

They follow from the paths: whoever makes an object below ``C`` may go on to every operation at ``C/{its name}``
and below, as far as the answer and the request name what their paths ask for.
"""

import re
from typing import Any

IDENTITIES = {"slug": "slug", "key_id": "id", "name": "name", "route_id": "id"}
"""Which member of an object's document is the parameter of its own path."""

MADE = "201"
_PARAMETER = re.compile(r"{(\w+)}")
_OBJECT = re.compile(r"(.*/{(\w+)})(/\w+)?$")

Document = dict[str, Any]


def add_links(document: Document, prefix: str) -> None:
    """Declare the links of every operation below ``prefix`` that makes an object."""
    paths: dict[str, Any] = document["paths"]
    for path, item in paths.items():
        for operation in item.values() if path.startswith(prefix) else ():
            place = _place(path, paths)
            if MADE in operation["responses"] and place is not None:
                operation["responses"][MADE]["links"] = _links(path, place, paths)
    _lead_from_destination_to_route(paths, prefix)
    _lead_from_door_to_report(paths)


def _place(path: str, paths: dict[str, Any]) -> str | None:
    """The path of the object that an operation at ``path`` makes: ``path/{name}``, ``path`` itself, or what it is a verb of."""
    for member in IDENTITIES:
        if f"{path}/{{{member}}}" in paths:
            return f"{path}/{{{member}}}"
    found = _OBJECT.match(path)
    return found[1] if found and found[2] in IDENTITIES else None


def _links(path: str, place: str, paths: dict[str, Any]) -> Document:
    own = _PARAMETER.findall(place)[-1]
    known = {name: f"$request.path.{name}" for name in _PARAMETER.findall(path)} | {own: f"$response.body#/{IDENTITIES[own]}"}
    links: Document = {}
    for target, item in paths.items():
        wanted = _PARAMETER.findall(target)
        if (target == place or target.startswith(f"{place}/")) and set(wanted) <= set(known):
            for operation in item.values():
                links[operation["operationId"]] = {
                    "operationId": operation["operationId"],
                    "description": operation["summary"],
                    "parameters": {name: known[name] for name in wanted},
                }
    return links


def _lead_from_destination_to_route(paths: dict[str, Any], prefix: str) -> None:
    """A route needs a destination: the one that was just made will do."""
    made = paths.get(f"{prefix}/tenants/{{slug}}/destinations", {}).get("post")
    route = paths.get(f"{prefix}/tenants/{{slug}}/routes", {}).get("post")
    if made is not None and route is not None:
        made["responses"][MADE]["links"][route["operationId"]] = {
            "operationId": route["operationId"],
            "description": route["summary"],
            "parameters": {"slug": "$request.path.slug"},
            "requestBody": {"prefix": "photos", "destination": "{$response.body#/name}"},
        }


def _lead_from_door_to_report(paths: dict[str, Any]) -> None:
    """What a store made of an upload can be looked up afterwards."""
    report = paths.get("/uploads/{upload_id}", {}).get("get")
    for operation in paths.get("/upload/{path}", {}).values() if report is not None else ():
        operation["responses"][MADE]["links"] = {
            report["operationId"]: {
                "operationId": report["operationId"],
                "description": report["summary"],
                "parameters": {"upload_id": "$response.body#/upload_id"},
            }
        }
