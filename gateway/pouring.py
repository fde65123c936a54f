"""How does an answer reach the client: inspected whole, or event by event (`gateway.streaming`)?

Only closed shapes leave: an upstream answer is parsed, its texts are judged and rewritten, and it is serialised anew. On any
failure nothing of it leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.content import verdicts
from gateway.content.canaries import watching
from gateway.content.inbound import put
from gateway.content.inspect import Pace, Scope, TooDear
from gateway.content.review import judged_before, review
from gateway.content.rules import Action, Rules
from gateway.content.stream import Findings
from gateway.evidence import Direction, Operation, Role, ScreenedRequest, Segment, Use, Verdict
from gateway.exchange import Exchange
from gateway.house import House
from gateway.outcome import Headers, Outcome, Sink, answer_id, call_id, reported
from gateway.ports import InspectorUnavailable, UpstreamError
from gateway.refusals import (
    BACKEND_TIMEOUT,
    BACKEND_UNAVAILABLE,
    CONTENT_FILTER,
    DEPLOYMENT_NOT_FOUND,
    INSPECTION_UNAVAILABLE,
    INVALID_REQUEST,
    Refusal,
)
from gateway.schema import answers
from gateway.streaming import Stream
from gateway.upstream.answer import Answer
from gateway.upstream.sse import SseError

MAX_ANSWER_BYTES = 16 * 1_048_576
_JSON = (b"content-type", b"application/json")
_UNSTORED = (b"cache-control", b"no-store")
_encode = msgspec.json.Encoder().encode


async def pour(
    answer: Answer, prompt: ScreenedRequest, house: House, exchange: Exchange, sink: Sink, headers: Headers, outcome: Outcome
) -> None:
    """Send the answer. Raises `Refusal` for what cannot be released."""
    outcome.answered = True
    outcome.digest = hashlib.sha256()
    permit = prompt.valid.permit
    rules = watching(house.rules(permit.generation, permit.obligations.profile), prompt.valid.segments)
    try:
        if prompt.valid.stream:
            await Stream(answer, prompt, rules, house, sink, outcome, exchange).run(headers)
        else:
            await _whole(answer, prompt, rules, house, sink, headers, outcome, exchange)
    except UpstreamError as error:
        kind = BACKEND_TIMEOUT if error.phase == "timeout" else BACKEND_UNAVAILABLE
        raise Refusal(kind, detail=f"answer: {error.phase}") from error
    except (answers.MalformedAnswer, SseError) as error:
        answer.blame()
        raise Refusal(BACKEND_UNAVAILABLE, detail=f"answer: {type(error).__name__}") from error
    except TooDear as error:
        answer.blame()
        raise Refusal(BACKEND_UNAVAILABLE, detail="answer: inspection cost") from error
    except InspectorUnavailable as error:
        raise Refusal(INSPECTION_UNAVAILABLE, detail=f"answer: {error}") from error


def _mint(body: dict[str, Any], exchange: Exchange) -> None:
    """Put our own ids and time into a whole answer. SECURITY: an id is a text nobody inspects."""
    body.pop("system_fingerprint", None)
    body.pop("model_version", None)
    if "created" in body:
        body["created"] = int(exchange.started_s)
    if "id" in body:
        body["id"] = answer_id(exchange)
    for choice in body.get("choices", ()):
        for number, call in enumerate((choice.get("message") or {}).get("tool_calls") or ()):
            call["id"] = call_id(answer_id(exchange), choice["index"], number)


async def _whole(
    answer: Answer,
    prompt: ScreenedRequest,
    rules: Rules,
    house: House,
    sink: Sink,
    headers: Headers,
    outcome: Outcome,
    exchange: Exchange,
) -> None:
    valid = prompt.valid
    permit = valid.permit
    operation = permit.asked.operation
    raw = await answer.response.read(MAX_ANSWER_BYTES)
    spec = house.specs(permit.generation).find(operation, permit.route)
    granted = "logprobs" in permit.obligations.grants  # without it `parse_answer` lets no log probability through
    body = answers.parse_answer(operation, raw, model=permit.asked.model, spec=spec, logprobs=granted)
    outcome.reported = reported(body.get("usage"))
    _mint(body, exchange)
    segments = answers.answer_segments(operation, body, spec)
    outcome.output_chars = sum([len(s.text) for s in segments])
    outcome.counted_output = outcome.output_chars // 4 + 1
    scope = Scope.of(permit.subject)
    deadline_s = house.mono_s() + rules.outbound.deadline_s
    key, verdict = judged_before(house.inspection, segments, rules, Direction.OUTBOUND, scope)
    blocked: list[str] = []
    texts: Mapping[int, str] = {}
    if verdict is None:
        findings = Findings()
        given = house.inspection, segments, rules, Direction.OUTBOUND, scope, deadline_s
        result = await review(*given, None, findings, key, prompt.restorer)
        verdict = verdicts.verdict(findings, house.inspection.names, degraded=result.degraded, cached=result.cached)
        blocked, texts = result.blocked, result.texts
    outcome.verdict = verdict
    exchange.status = 200
    if blocked:
        if "choices" not in body:
            raise Refusal(CONTENT_FILTER, message="the answer was filtered by content policy", detail="answer: " + ",".join(blocked))
        answers.withhold(body)
        for choice in body["choices"]:
            choice["content_filter_results"] = verdicts.filter_result(verdict.scores, blocked)
    else:
        if granted and (texts or await _tells_more(body, rules, house, scope, deadline_s)):
            answers.drop_logprobs(body)
        if texts or prompt.restorer is not None:
            await _rewrite(body, segments, texts, prompt, Pace(deadline_s))
    data = _encode(body)
    await sink.answer(200, _whole_headers(data, headers), data)
    outcome.digest.update(data)  # after it was handed over: neither is recorded of what was never sent
    outcome.name = "blocked" if blocked else "finished"


def _whole_headers(data: bytes, headers: Headers) -> Headers:
    return [_JSON, (b"content-length", b"%d" % len(data)), _UNSTORED, *headers]


async def _tells_more(body: dict[str, Any], rules: Rules, house: House, scope: Scope, deadline_s: float) -> bool:
    """Return whether the tokens that were not chosen hold what an answer may not. SECURITY: a backend can write anything there."""
    said = answers.alternatives(body) if body.get("choices") else []
    if not said:
        return False
    segments = [Segment(("logprobs", at), text, Role.ASSISTANT, Use.LABEL) for at, text in enumerate(said)]
    found, _ = await house.inspection.findings(segments, rules, Direction.OUTBOUND, scope, deadline_s)
    side = rules.outbound
    return any(finding.blocking or any(side.action_for(s) >= Action.PSEUDONYMISE for s in finding.spans) for finding in found)


async def _rewrite(
    body: dict[str, Any], segments: Sequence[Segment], texts: Mapping[int, str], prompt: ScreenedRequest, pace: Pace
) -> None:
    restorer = prompt.restorer
    for at, segment in enumerate(segments):
        text = texts.get(at, segment.text)
        if at not in texts and restorer is not None and segment.use is Use.CONTENT:
            text = await restorer.restore(text, pace.breathe)
        if text is not segment.text and segment.use is not Use.LABEL:
            put(body, segment.path, text)


async def answer_locally(prompt: ScreenedRequest, house: House, exchange: Exchange, sink: Sink, headers: Headers) -> Outcome:
    """Answer what the gateway knows itself: which models the caller may use, and what its inspectors think of a text."""
    permit = prompt.valid.permit
    operation = permit.asked.operation
    outcome = Outcome()
    if operation is Operation.MODERATIONS:
        body, outcome.verdict = await _moderate(prompt, house, exchange)
    else:
        usable = permit.generation.usable_models(permit.subject, peer=permit.asked.peer, now_s=house.wall_s())
        if operation is Operation.MODELS_GET:
            if permit.asked.model not in usable:
                raise Refusal(DEPLOYMENT_NOT_FOUND)
            body = _model(permit.asked.model)
        else:
            body = {"object": "list", "data": [_model(name) for name in usable]}
    data = msgspec.json.encode(body)
    outcome.name = "finished"
    exchange.status = 200
    await sink.answer(200, _whole_headers(data, headers), data)
    exchange.answer_hmac = house.prints.content(permit.subject.tenant, hashlib.sha256(data).digest())
    return outcome


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "gateway"}


async def _moderate(prompt: ScreenedRequest, house: House, exchange: Exchange) -> tuple[dict[str, Any], Verdict]:
    permit = prompt.valid.permit
    rules = house.rules(permit.generation, permit.obligations.profile)
    scope = Scope.of(permit.subject)
    try:
        found, cached = await house.inspection.findings(
            prompt.valid.segments, rules, Direction.INBOUND, scope, house.mono_s() + rules.inbound.deadline_s
        )
    except TooDear as error:
        raise Refusal(INVALID_REQUEST, message="the texts take longer to inspect than is allowed", detail="inspection cost") from error
    except InspectorUnavailable as error:
        raise Refusal(INSPECTION_UNAVAILABLE, detail=str(error)) from error
    numeric = "moderation_scores" in permit.obligations.grants
    results = []
    for finding in found:
        categories, scores = house.categories(dict(finding.scores))
        if not numeric:
            scores = {name: 1.0 if categories[name] else 0.0 for name in scores}
        results.append({"flagged": any(categories.values()), "categories": categories, "category_scores": scores})
    highest: dict[str, float] = {}
    for finding in found:
        highest.update((head, score) for head, score in finding.scores if score > highest.get(head, 0.0))
    degraded = any(finding.degraded for finding in found)
    names = house.inspection.names
    verdict = Verdict(entities={}, scores=highest, flagged=(), action="none", detectors=names, degraded=degraded, cached=cached)
    return {"id": f"modr-{exchange.request_id}", "model": "gateway-local", "results": results}, verdict
