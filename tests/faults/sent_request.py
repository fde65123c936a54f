"""A screened request without the steps that make one: what `forward` is given."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from gateway.evidence import (
    Asked,
    Dialect,
    Obligations,
    Operation,
    Permit,
    ScreenedRequest,
    Subject,
    SubjectKind,
    ValidRequest,
    Verdict,
)
from gateway.upstream.breaker import BreakerRules
from gateway.upstream.client import BackendClient
from gateway.upstream.forward import Forwarder
from gateway.upstream.retry import BudgetRules
from gateway.upstream.route import Backend, Route

SUBJECT = Subject(
    tenant="t",
    issuer="https://issuer.example",
    subject_id="s",
    kind=SubjectKind.USER,
    app_roles=frozenset(),
    groups=frozenset(),
    scopes=frozenset(),
    application="",
    token_digest=b"",
    token_id="",
    issued_at_s=0,
    expires_at_s=1,
)
VERDICT = Verdict(entities={}, scores={}, flagged=(), action="none", detectors=())


def screened(
    *, route: str = "m", operation: Operation = Operation.CHAT, stream: bool = False, regions: frozenset[str] | None = None, body=None
) -> ScreenedRequest:
    body = body or {"model": route, "messages": [{"role": "user", "content": "hi"}]}
    asked = Asked(operation=operation, dialect=Dialect.OPENAI, model=route, body=body, body_bytes=0, stream=stream, peer="")
    permit = Permit(
        subject=SUBJECT,
        asked=asked,
        route=route,
        roles=frozenset(),
        policy_ids=(),
        policy_digest="",
        obligations=Obligations(profile="p", tier="t", regions=regions),
        generation=None,
    )
    valid = ValidRequest(permit=permit, body=body, segments=(), stream=stream, include_usage=False, input_tokens=1, output_tokens=1)
    return ScreenedRequest(valid=valid, payload=json.dumps(body).encode(), verdict=VERDICT, restorer=None)


def forwarder(
    backends: Iterable[Backend], *, rules: BreakerRules | None = None, budget: BudgetRules | None = None, spread: bool = False, **options
) -> Forwarder:
    listed = tuple(backends)
    return Forwarder(
        {"m": Route(name="m", backends=listed, spread=spread)},
        {backend.name: BackendClient(backend.base_url, **options) for backend in listed},
        credentials=lambda backend: [(b"api-key", b"key-of-" + backend.name.encode())],
        draw=lambda: 0.5,
        breaker=rules,
        budget=budget,
    )


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds
