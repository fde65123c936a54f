"""Which backends may serve a model, in what order, and by what path? Settings as values; choosing among them is pure.

It must not know whether a backend is well: that is the breaker's. A caller never chooses a URL: the model's name selects a
route, and everything below comes from settings.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from gateway.evidence import Dialect, Operation

_OPENAI_PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETIONS: "/completions",
    Operation.EMBEDDINGS: "/embeddings",
    Operation.MODERATIONS: "/moderations",
}
_PLAIN_PATHS = {Operation.INFER: "/v2/models/{model}/infer", Operation.SCORE: "/models/{model}/score"}


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint.

    `openai`: the operation's path under `base_url` (which ends in `/v1`). `azure`: `/openai/deployments/{model}/...` with
    `api_version`. `plain`: `/v2/models/{model}/infer`, `/models/{model}/score`, or `path` where it is given.
    """

    name: str
    base_url: str
    dialect: Dialect = Dialect.OPENAI
    model: str = ""  # the name or deployment there; "" means the route's own name
    region: str = ""
    api_version: str = "2024-10-21"
    path: str = ""  # the whole path under `base_url`, for `plain` alone
    weight: float = 1.0  # share of first attempts on a route that spreads; 0 is a last resort


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A client-facing model name and its backends, best first. `spread`: share first attempts by weight instead."""

    name: str
    backends: tuple[Backend, ...]
    spread: bool = False


def order(route: Route, regions: frozenset[str] | None, draw: float) -> tuple[Backend, ...]:
    """Return the backends to try, in order. `regions` None allows any. `draw` is uniform in [0, 1).

    Empty when no backend lies in an allowed region: an obligation is never loosened to find a server.
    """
    backends = route.backends
    if regions is not None:
        backends = tuple(backend for backend in backends if backend.region in regions)
    if not route.spread or len(backends) < 2:
        return backends
    mark = draw * sum(max(0.0, backend.weight) for backend in backends)
    chosen = None
    for backend in backends:
        if backend.weight <= 0:
            continue
        chosen = backend
        mark -= backend.weight
        if mark < 0:
            break
    if chosen is None:
        return backends
    rest = sorted((backend for backend in backends if backend is not chosen), key=lambda backend: -backend.weight)
    return (chosen, *rest)


def upstream_path(backend: Backend, route: str, operation: Operation) -> str | None:
    """Return the path (and query) of `operation` under the backend's base URL; None where it has none."""
    model = quote(backend.model or route, safe="")
    if backend.dialect is Dialect.PLAIN:
        pattern = backend.path or _PLAIN_PATHS.get(operation)
        return None if pattern is None or operation not in _PLAIN_PATHS else pattern.replace("{model}", model)
    tail = _OPENAI_PATHS.get(operation)
    if tail is None:
        return None
    if backend.dialect is Dialect.AZURE:
        return f"/openai/deployments/{model}{tail}?api-version={quote(backend.api_version, safe='')}"
    return tail
