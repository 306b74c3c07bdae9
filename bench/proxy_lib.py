"""fastapi-proxy-lib, set up as its page shows it."""

import os

import httpx
from fastapi_proxy_lib.fastapi.app import reverse_http_app

app = reverse_http_app(
    client=httpx.AsyncClient(timeout=None, trust_env=False),
    base_url=os.environ.get("BENCH_SINK_URL", "http://127.0.0.1:9/"),
)
