"""Is the process alive, is it ready, how is it doing? The ops port: `/healthz`, `/readyz`, `/metrics`, no other path.

A kubelet gets a status and nothing else. Names of what is not ready, and all of the metrics, are for a configured scraper address
or a caller whose token policy permits `status:read`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

Readiness = Callable[[], Mapping[str, bool]]
Allowed = Callable[[Request, str], Awaitable[bool]]


def network_check(networks: Sequence[str]) -> Callable[[str], bool]:
    """Return a test of whether an address lies in one of the networks."""
    parsed = [ipaddress.ip_network(n) for n in networks]

    def within(address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip.version == n.version and ip in n for n in parsed)

    return within


def ops_app(ready: Readiness, metrics: Callable[[], bytes], scrapers: Sequence[str], permitted: Allowed) -> Starlette:
    """Return the ops application. `ready` names each part and whether it is good."""
    trusted = network_check(scrapers)

    async def insider(request: Request) -> bool:
        peer = request.client.host if request.client else ""
        return trusted(peer) or ("authorization" in request.headers and await permitted(request, "status:read"))

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        parts = ready()
        good = all(parts.values())
        status = 200 if good else 503
        if await insider(request):
            return Response(msgspec.json.encode({"ready": good, "parts": parts}), status, media_type="application/json")
        return PlainTextResponse("ready\n" if good else "not ready\n", status)

    async def show(request: Request) -> Response:
        if not await insider(request):
            return PlainTextResponse("a token or a configured scraper address is needed\n", 401, {"www-authenticate": "Bearer"})
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", show)]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False  # SECURITY: a redirect would be built from the caller's Host
    return app
