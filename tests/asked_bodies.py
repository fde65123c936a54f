"""Permits around bodies, for tests of shapes: everything but the body is as dull as can be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.evidence import Asked, Dialect, Obligations, Operation, Permit, Subject, SubjectKind

SUBJECT = Subject(
    tenant="contoso",
    issuer="https://issuer.test",
    subject_id="someone",
    kind=SubjectKind.USER,
    app_roles=frozenset(),
    groups=frozenset(),
    scopes=frozenset(),
    application="",
    token_digest=b"\x00" * 32,
    token_id="",
    issued_at_s=0,
    expires_at_s=1,
)


def permit(
    body: dict[str, Any],
    operation: Operation = Operation.CHAT,
    *,
    model: str = "assistant",
    grants: Iterable[str] = (),
    cap: int = 1024,
    default: int = 256,
) -> Permit:
    asked = Asked(operation=operation, dialect=Dialect.OPENAI, model=model, body=body, body_bytes=0, stream=False, peer="127.0.0.1")
    obligations = Obligations(
        profile="default", tier="small", grants=frozenset(grants), output_tokens_cap=cap, output_tokens_default=default
    )
    return Permit(
        subject=SUBJECT,
        asked=asked,
        route=model,
        roles=frozenset(),
        policy_ids=(),
        policy_digest="sha256:0",
        obligations=obligations,
        generation=None,
    )


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "assistant", "messages": list(messages) or [user("hello")], **more}
