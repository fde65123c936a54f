"""How is this gateway, for a person with a token that policy permits `status:read`? One page and its JSON.

No script, no foreign resource, nothing of any request: generation, readiness, counts.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from gateway.refusals import Refusal

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:46rem;padding:0 1rem;color:#1b1f24}"
    "h1{font-size:1.3rem}table{border-collapse:collapse;width:100%}td{border-top:1px solid #d8dee4;padding:.4rem .3rem}"
    "td:first-child{color:#57606a;width:40%}.bad{color:#b42318;font-weight:600}.good{color:#1a7f37;font-weight:600}"
)

Status = Callable[[], Mapping[str, Any]]
Objection = Callable[[Request, str], Awaitable[Refusal | None]]


def page(status: Mapping[str, Any]) -> str:
    """Return the status as a page; every value is escaped."""

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return f'<span class="{"good" if value else "bad"}">{"yes" if value else "no"}</span>'
        if isinstance(value, Mapping):
            return "<br>".join(f"{html.escape(str(k))}: {cell(v)}" for k, v in value.items())
        return html.escape(str(value))

    rows = "".join(f"<tr><td>{html.escape(str(k))}</td><td>{cell(v)}</td></tr>" for k, v in status.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Gateway status</title><style>{_STYLE}</style></head>'
        f"<body><h1>Gateway status</h1><table>{rows}</table></body></html>"
    )


def refused(refusal: Refusal) -> Response:
    """Return the answer to who may not: 401 says to authenticate (again, more strongly), 403 that it would not help."""
    headers = dict(_HEADERS)
    if refusal.kind.status == 401:
        headers["www-authenticate"] = refusal.challenge or "Bearer"
    body = {"error": {"message": refusal.message, "type": refusal.kind.type, "code": refusal.kind.code}}
    return Response(msgspec.json.encode(body), refusal.kind.status, headers, media_type="application/json")


def control_app(status: Status, objection: Objection) -> Starlette:
    """Return the control application: `/` for people, `/api/status` for programs. Both need a permitted token."""

    async def show(request: Request) -> Response:
        if (no := await objection(request, "status:read")) is not None:
            return refused(no)
        if request.scope["path"] == "/api/status":
            return Response(msgspec.json.encode(dict(status())), 200, _HEADERS, media_type="application/json")
        return HTMLResponse(page(status()), 200, _HEADERS)

    app = Starlette(routes=[Route("/", show), Route("/api/status", show)])
    app.router.redirect_slashes = False  # SECURITY: a redirect would be built from the caller's Host
    return app
