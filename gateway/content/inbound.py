"""Is this request fit to send? The only maker of `ScreenedRequest`: what was inspected is what is serialised.

Redaction rewrites our own copy of the body; pseudonyms are minted here and handed on for the answer. Any inspector that
cannot answer refuses the request unless the profile names the exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.content import documents, verdicts
from gateway.content.inspect import Inspection, Scope, TooDear
from gateway.content.pseudonyms import Pseudonyms, escape_lookalikes
from gateway.content.review import judged_before, review
from gateway.content.rules import Rules
from gateway.content.stream import Findings
from gateway.evidence import Direction, ScreenedRequest, Segment, Use, ValidRequest
from gateway.ports import InspectorUnavailable
from gateway.refusals import INSPECTION_UNAVAILABLE, INVALID_REQUEST, Refusal

_encode = msgspec.json.Encoder().encode
CALLERS_KEYS = frozenset({"metadata", "parameters", "schema", "properties", "logit_bias"})  # below these, names are the caller's


def put(body: Any, path: tuple[str | int, ...], text: str) -> None:
    """Write `text` at `path` of our own copy of the body."""
    node = body
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = text


def _made_inert(segments: tuple[Segment, ...], body: dict[str, Any]) -> tuple[Segment, ...]:
    made = list(segments)
    for at, segment in enumerate(segments):
        if segment.use is Use.LABEL or ("<" not in segment.text and "\\u003" not in segment.text):
            continue
        text = _inert_document(segment.text) if segment.use is Use.ARGUMENTS else escape_lookalikes(segment.text)
        if text != segment.text:
            made[at] = Segment(segment.path, text, segment.role, segment.use)
            put(body, segment.path, text)
    return tuple(made)


def _inert_document(text: str) -> str:
    """Escape look-alikes in the strings of a document: JSON can spell `<` in another way."""
    document = documents.parse(text)
    if document is None:
        plain = documents.unescaped(text)
        inert = escape_lookalikes(plain)
        return inert if inert != plain else text
    changed = False
    for path, value in documents.strings(document):
        inert = escape_lookalikes(value)
        if inert != value and not (path and isinstance(path[-1], documents.KeyAt)):
            document = documents.replace(document, path, inert)
            changed = True
    return documents.dump(document) if changed else text


def json_path(path: tuple[str | int, ...]) -> str:
    """Return `messages[0].content` for a path. SECURITY: it ends before keys that callers choose, since those are their text."""
    out = ""
    for step in path:
        if out.rpartition(".")[2] in CALLERS_KEYS:
            break
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out


async def screen(
    valid: ValidRequest, rules: Rules, inspection: Inspection, *, nonce: Callable[[], str], deadline_s: float
) -> ScreenedRequest:
    """Return the request as it may be sent. Raises `Refusal` (CONTENT_FILTER, INSPECTION_UNAVAILABLE).

    `nonce` gives four random characters of [a-z0-9] for this request's pseudonyms. `deadline_s`: monotonic.
    """
    body = valid.body
    segments = _made_inert(valid.segments, body)
    scope = Scope.of(valid.permit.subject)
    key, known = judged_before(inspection, segments, rules, Direction.INBOUND, scope)
    if known is not None:
        return ScreenedRequest(valid=valid, payload=_encode(body), verdict=known, restorer=None)
    pseudonyms = Pseudonyms(nonce())
    findings = Findings()
    try:
        outcome = await review(inspection, segments, rules, Direction.INBOUND, scope, deadline_s, pseudonyms, findings, key)
    except InspectorUnavailable as error:
        raise Refusal(INSPECTION_UNAVAILABLE, detail=str(error)) from error
    except TooDear as error:
        raise Refusal(INVALID_REQUEST, message="the texts take longer to inspect than is allowed", detail="inspection cost") from error
    if outcome.blocked:
        at = outcome.blocked_at
        param = json_path(segments[at].path) if at is not None and segments[at].use is not Use.LABEL else None
        refusal = verdicts.prompt_filtered(findings, outcome.blocked, param)
        refusal.verdict = verdicts.verdict(findings, inspection.names, cached=outcome.cached)
        raise refusal
    for at, text in outcome.texts.items():
        put(body, segments[at].path, text)
    return ScreenedRequest(
        valid=valid,
        payload=_encode(body),
        verdict=verdicts.verdict(findings, inspection.names, degraded=outcome.degraded, cached=outcome.cached),
        restorer=pseudonyms if rules.restore and not pseudonyms.empty else None,
    )
