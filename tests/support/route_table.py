"""Every operation of the HTTP interface, read from the routes themselves: a new route is in here by itself. The door is no route."""

import re
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from relay.api.openapi import ADMIN_PREFIX
from relay.api.upload import METHODS

DOOR = "/upload/{path:path}"
OPEN = ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs")
"""What asks for no credential."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path; ``id`` is the operation's in the printed interface."""

    id: str
    method: str
    path: str

    @property
    def identifiers(self) -> tuple[str, ...]:
        """The names of what the path asks for."""
        return tuple(re.findall(r"{(\w+)(?::\w+)?}", self.path))

    def target(self, **identifiers: str) -> str:
        """The path with these identifiers; ``KeyError`` names one that is not known."""
        return re.sub(r"{(\w+)(?::\w+)?}", lambda found: identifiers[found[1]], self.path)


def operations(app: FastAPI) -> list[Operation]:
    """Every operation of ``app``."""
    found = [Operation(f"upload_{method.lower()}", method, DOOR) for method in METHODS]
    for route in iter_route_contexts(app.routes):
        assert route.path is not None, "a mount has routes that nobody sees here: walk into it"
        assert route.methods, route.path
        found += [Operation(route.operation_id, method, route.path) for method in sorted(route.methods)]
    return found


def admin_operations(app: FastAPI) -> list[Operation]:
    """The operators' operations."""
    return [operation for operation in operations(app) if operation.path.startswith(ADMIN_PREFIX)]


def changing_operations(app: FastAPI) -> list[Operation]:
    """The operators' operations that may change something."""
    return [operation for operation in admin_operations(app) if operation.method != "GET"]


def client_operations(app: FastAPI) -> list[Operation]:
    """The operations of tenants' clients."""
    return [operation for operation in operations(app) if not operation.path.startswith((ADMIN_PREFIX, *OPEN))]
