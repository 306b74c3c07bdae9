"""The operators' side, ``/admin/v1``: one module per noun, its documents and payloads next to its routes.

Every endpoint is the same three steps: open the transaction, call the registry, show the value. What may be
changed, and how, is the registries' business, which the command line calls as well.
"""

from fastapi import FastAPI

from relay.api.admin import audit, destinations, keys, ledger, live, routes, tenants, usage

NOUNS = (tenants, keys, destinations, routes, live, ledger, usage, audit)


def install(app: FastAPI) -> None:
    """Add the admin side to ``app``; ``app.state.services`` must hold its ``Parts`` before the first request."""
    for noun in NOUNS:
        app.include_router(noun.router)
