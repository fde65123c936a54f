"""How is a request served? One coroutine, `serve`; each line's result is evidence the next line needs as its argument.

The order is the security property of this product and stands in one place. A step that is skipped or swapped does not
type-check: `forward` takes a `ScreenedRequest` and an `Opened`, which only `screen` and `record_opened` make. Answers are pushed
into a `Sink`, so the coroutine that owns the lease is the one that sends; nothing is yielded back up. Whatever happens, the
`finally` settles the lease and closes the record.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from gateway.accounting.prices import cost_microusd, settle_usage
from gateway.audit.record import encode
from gateway.content.inbound import screen
from gateway.evidence import Asked, Lease, Operation, Permit, ScreenedRequest, Subject, Usage, ValidRequest, Verdict
from gateway.exchange import Exchange
from gateway.house import House
from gateway.limits.reservation import Charge, Numbers
from gateway.outcome import Outcome, Sink
from gateway.ports import ClientGone, LogUnavailable
from gateway.pouring import answer_locally, pour
from gateway.refusals import (
    AUDIT_UNAVAILABLE,
    BACKEND_TIMEOUT,
    CONTENT_FILTER,
    INTERNAL,
    INVALID_API_KEY,
    INVALID_REQUEST,
    INVALID_TOKEN,
    OVERLOADED,
    POLICY_DENIED,
    Refusal,
)
from gateway.schema import strict_json
from gateway.schema.validate import validate
from gateway.telemetry.logs import place
from gateway.telemetry.metrics import Metrics
from gateway.upstream.answer import Answer, UpstreamFiltered

logger = logging.getLogger("gateway")
LOCAL = frozenset({Operation.MODELS_LIST, Operation.MODELS_GET, Operation.MODERATIONS})  # answered by the gateway itself
UNKNOWN = "[unknown]"  # in records, for a model that is none of ours
UPLOAD_SHARE = 2  # half of the bulkhead is what the bodies of one subject may hold
MAX_EXCHANGE_S = 900.0  # nothing is served longer, whatever backends and clients do
NAMELESS = frozenset({Operation.MODELS_LIST, Operation.MODERATIONS})
BODILESS = frozenset({Operation.MODELS_LIST, Operation.MODELS_GET})
# SECURITY: what is not hex would be the caller's text in records, and no number to whoever traces.
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Inbound(Protocol):
    """One request as the edge received it."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    peer: str

    def header(self, name: bytes) -> bytes | None: ...
    async def body(self, max_bytes: int) -> bytes: ...
    def on_gone(self, callback: Callable[[], object]) -> None: ...
    def stop_watching(self) -> None: ...


class Opened(msgspec.Struct, frozen=True):
    """The intent record is durable at this index: something may leave."""

    index: int


async def serve(inbound: Inbound, sink: Sink, house: House) -> None:
    """Serve one request from its head to its last byte. Never raises but `CancelledError`."""
    exchange = begin(inbound, house)
    lease: Lease | None = None
    try:
        admit(house)
        subject = await authenticate(inbound, house, exchange)
        asked = await read(inbound, subject, house, exchange)
        permit = decide(subject, asked, house, exchange)
        valid = shape(permit, house, exchange)
        lease = await reserve(permit, valid, house, exchange)
        prompt = await inspect(valid, lease, house, exchange)
        opened = await record_opened(prompt, house, exchange)
        await deliver(prompt, opened, inbound, sink, house, exchange)
    except Refusal as refusal:
        await refuse(refusal, sink, house, exchange)
    except asyncio.CancelledError:
        exchange.outcome = "client_gone"  # whatever was under way did not reach anyone
        raise
    except ClientGone:
        exchange.outcome = "client_gone"
    except LogUnavailable as error:
        await refuse(Refusal(AUDIT_UNAVAILABLE, detail=str(error)), sink, house, exchange)
    except Exception as error:  # noqa: BLE001 - the one place where an unknown error becomes a 500 and a record
        logger.error("unknown error", extra={"request_id": exchange.request_id, "error": place(error)})
        await refuse(Refusal(INTERNAL, detail=place(error)), sink, house, exchange)
    finally:
        house.active.active -= 1
        try:
            await settle(lease, house, exchange)
        finally:
            close(house, exchange)


def begin(inbound: Inbound, house: House) -> Exchange:
    """Open the ledger. A client's `traceparent` becomes a link, never our parent."""
    house.active.active += 1
    request_id = house.new_id()
    exchange = Exchange(house.instance, request_id, request_id.replace("-", ""), inbound.peer, house.wall_s(), house.mono_s())
    for name, value in inbound.headers:
        if name == b"traceparent" and (trace := TRACEPARENT.fullmatch(value)) is not None:
            exchange.client_trace = trace[1].decode("ascii")
    return exchange


def admit(house: House) -> None:
    """Refuse at once what could not be served in time: the bulkhead is full or the process is draining."""
    if house.active.active > house.max_exchanges or house.active.draining:
        raise Refusal(OVERLOADED, retry_after_s=1.0, detail="bulkhead")
    if not house.log.healthy:
        raise Refusal(AUDIT_UNAVAILABLE, detail="log failed")


async def authenticate(inbound: Inbound, house: House, exchange: Exchange) -> Subject:
    """Who: from the header snapshot alone, before a body byte is read."""
    now_s = int(house.wall_s())
    credential = house.authenticator.credential(inbound.headers)
    subject = house.authenticator.cached(credential, now_s)
    if subject is None:
        subject = await house.authenticator.authenticate(credential, now_s)
    exchange.subject = subject
    exchange.prints = house.fingerprints(subject)
    return subject


async def read(inbound: Inbound, subject: Subject, house: House, exchange: Exchange) -> Asked:
    """What: the path on the exact table, then the body, bounded and strictly parsed once."""
    # SECURITY: `subject` is the evidence that the body is read only for someone known.
    match = house.match(inbound.method, inbound.path)
    operation = match.operation
    exchange.operation, exchange.dialect = operation, match.dialect
    body: dict[str, Any] = {}
    size = 0
    if operation not in BODILESS:
        raw = await receive(inbound, subject, house)
        size = len(raw)
        body = strict_json.parse(raw, house.max_body_bytes)
    named = body.get("model")
    model = match.model if match.model is not None else named if isinstance(named, str) else ""
    if not model and operation not in NAMELESS:
        raise Refusal(INVALID_REQUEST, param="model", message="`model` must name a model")
    stream = body.get("stream") is True
    exchange.stream = stream
    exchange.model_label = "" if model in house.policies.current.routes or not model else UNKNOWN
    exchange.model_label = exchange.model_label or model
    if exchange.model_label == UNKNOWN:
        exchange.unknown = made_up((model,), subject, house)
    return Asked(
        operation=operation, dialect=match.dialect, model=model, body=body, body_bytes=size, stream=stream, peer=inbound.peer
    )


async def receive(inbound: Inbound, subject: Subject, house: House) -> bytes:
    """Take the body. Raises `Refusal`.

    SECURITY: a body may take its time, and nothing limits a subject yet: without a bound one caller, of whatever role, could hold
    every place of the bulkhead with bodies that hardly come.
    """
    uploads, who = house.active.uploads, (subject.tenant, subject.issuer, subject.subject_id)
    under_way = uploads.get(who, 0)
    if under_way and under_way >= house.max_exchanges // UPLOAD_SHARE:
        raise Refusal(OVERLOADED, retry_after_s=1.0, detail="bodies of one subject")
    uploads[who] = under_way + 1
    try:
        return await inbound.body(house.max_body_bytes)
    finally:
        under_way = uploads.pop(who) - 1
        if under_way:
            uploads[who] = under_way


def made_up(names: Iterable[str], subject: Subject, house: House) -> tuple[tuple[str, int], ...]:
    """Return what stands in records for names that are none of ours. SECURITY: they are the caller's text, of whatever kind."""
    return tuple((house.prints.name(subject.tenant, name), len(name)) for name in names)


def decide(subject: Subject, asked: Asked, house: House, exchange: Exchange) -> Permit:
    """May they: under one policy generation, which the exchange keeps to its end."""
    policies = house.policies.current
    exchange.zone = policies.zones.of(asked.peer)
    exchange.policy_digest = policies.digest
    permit = policies.permit(subject, asked, house.wall_s())
    exchange.permit = permit
    exchange.timings["decided"] = house.mono_s() - exchange.started_mono_s
    return permit


def shape(permit: Permit, house: House, exchange: Exchange) -> ValidRequest:
    """In what shape: closed schema, limits injected, every text named."""
    valid = validate(permit, house.specs(permit.generation), house.tokenizer)
    exchange.schema = permit.asked.operation
    exchange.uninspected = valid.uninspected
    exchange.input_tokens_estimate = valid.input_tokens
    exchange.output_ceiling = valid.output_tokens
    return valid


async def reserve(permit: Permit, valid: ValidRequest, house: House, exchange: Exchange) -> Lease:
    """How much: requests, tokens, concurrency and quota in one atomic step."""
    tier = permit.generation.tier(permit.obligations.tier)
    whole = permit.generation.limits.of_tenant(permit.subject.tenant)
    charge = charge_of(permit.subject, tier, whole, valid.input_tokens + valid.output_tokens, exchange)
    lease = await house.counters.reserve(charge, house.mono_s())
    exchange.lease = lease
    if lease.degraded:
        house.metrics.count(house.metrics.degraded, 1, "limits")
    return lease


def charge_of(subject: Subject, tier: Any, whole: Any, tokens: int, exchange: Exchange) -> Charge:
    """Return what an exchange wants to take under a tier of the policy set, and under the limits of the whole tenant if it has any."""
    return Charge(
        tenant=subject.tenant,
        subject=f"{subject.issuer}\n{subject.subject_id}",
        tier=tier.name,
        requests_per_minute=tier.requests_per_minute,
        burst=tier.burst,
        tokens_per_minute=tier.tokens_per_minute,
        concurrent=tier.concurrent,
        daily_tokens=tier.daily_tokens,
        tokens=tokens,
        lease_id=exchange.request_id,
        day=int(exchange.started_s) // 86_400,
        tenant_numbers=None if whole is None else numbers_of(whole),
    )


def numbers_of(tier: Any) -> Numbers:
    """Return the numbers of a tier."""
    return Numbers(
        requests_per_minute=tier.requests_per_minute,
        burst=tier.burst,
        tokens_per_minute=tier.tokens_per_minute,
        concurrent=tier.concurrent,
        daily_tokens=tier.daily_tokens,
    )


async def standing(house: House, exchange: Exchange) -> tuple[tuple[str, str], ...]:
    """Return the rate-limit headers of a known subject that has taken nothing."""
    subject, permit = exchange.subject, exchange.permit
    if subject is None:
        return ()
    policies = house.policies.current if permit is None else permit.generation
    if permit is None:
        tier = policies.standing_tier(subject, peer=exchange.peer, now_s=house.wall_s())
    else:
        tier = policies.tier(permit.obligations.tier)
    if tier is None:
        return ()
    return await house.counters.standing(charge_of(subject, tier, policies.limits.of_tenant(subject.tenant), 0, exchange), house.mono_s())


async def inspect(valid: ValidRequest, lease: Lease, house: House, exchange: Exchange) -> ScreenedRequest:
    """Fit to send: inspected as it will be serialised."""
    del lease  # evidence that the cost of inspection is within the caller's limits
    rules = house.rules(valid.permit.generation, valid.permit.obligations.profile)
    deadline_s = house.mono_s() + rules.inbound.deadline_s
    if valid.permit.asked.operation in LOCAL:
        nothing = Verdict(entities={}, scores={}, flagged=(), action="none", detectors=())
        prompt = ScreenedRequest(valid=valid, payload=b"", verdict=nothing, restorer=None)
        if valid.permit.asked.operation is Operation.MODERATIONS:
            exchange.request_hmac = house.prints.content(valid.permit.subject.tenant, strict_json.dump(valid.body))
    else:
        prompt = await screen(valid, rules, house.inspection, nonce=house.nonce, deadline_s=deadline_s)
        exchange.inbound = prompt.verdict
        exchange.request_hmac = house.prints.content(valid.permit.subject.tenant, prompt.payload)
    exchange.timings["inspected"] = house.mono_s() - exchange.started_mono_s
    return prompt


async def record_opened(prompt: ScreenedRequest, house: House, exchange: Exchange) -> Opened:
    """The intent is durable before anything leaves. CRASH before this: nothing left. CRASH after: recovery closes it."""
    del prompt
    ticket = house.log.append(encode(exchange.opened_fields()))
    exchange.opened = exchange.index = ticket.index
    await ticket.wait()
    exchange.timings["opened"] = house.mono_s() - exchange.started_mono_s
    return Opened(exchange.opened)


async def deliver(
    prompt: ScreenedRequest, opened: Opened, inbound: Inbound, sink: Sink, house: House, exchange: Exchange
) -> None:
    """Forward and pour, watching for the client to leave: then the backend's connection is closed at once."""
    if prompt.valid.permit.asked.operation in LOCAL:
        outcome = await answer_locally(prompt, house, exchange, sink, base_headers(exchange))
        note(outcome, prompt, house, exchange)
        return
    serving = asyncio.current_task()
    if serving is not None:
        inbound.on_gone(serving.cancel)
    answer: Answer | None = None
    outcome = Outcome()
    try:
        outcome.sent = True
        answer = await forward(prompt, opened, inbound, house, exchange)
        await pour(answer, prompt, house, exchange, sink, base_headers(exchange), outcome)
    except Refusal as refusal:
        outcome.sent = refusal.kind is BACKEND_TIMEOUT or outcome.answered
        raise
    finally:
        inbound.stop_watching()
        if answer is not None:
            await answer.aclose()
        note(outcome, prompt, house, exchange)


async def forward(prompt: ScreenedRequest, opened: Opened, inbound: Inbound, house: House, exchange: Exchange) -> Answer:
    """To whom: the first permitted backend that answers."""
    del opened  # evidence that the intent is durable
    deadline_s = house.mono_s() + MAX_EXCHANGE_S
    # `caller` lends its headers to backends that are asked on behalf of the person; no other step sees the credential.
    answer = await house.forwarder.forward(prompt, deadline_s=deadline_s, request_id=exchange.request_id, caller=inbound)
    exchange.backend = answer.backend
    exchange.attempts = answer.attempts
    if isinstance(answer, UpstreamFiltered):
        inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": answer.categories}
        raise Refusal(CONTENT_FILTER, param="prompt", inner=inner, detail="filtered by the backend")
    exchange.timings["first_byte"] = house.mono_s() - exchange.started_mono_s
    return answer


def note(outcome: Outcome, prompt: ScreenedRequest, house: House, exchange: Exchange) -> None:
    """Enter what the answer was: usage, cost, verdict, outcome."""
    valid = prompt.valid
    exchange.outbound = outcome.verdict
    exchange.outcome = exchange.outcome or outcome.name
    if not outcome.answered and outcome.sent:  # sent, and nobody waited for the answer: it was computed all the same
        exchange.usage = Usage(input_tokens=valid.input_tokens, output_tokens=0 if valid.stream else valid.output_tokens, counted=True)
        return
    if not outcome.answered:  # answered by us, or no backend took it: nothing was consumed
        exchange.usage = Usage(input_tokens=0, output_tokens=0, counted=True)
        return
    exchange.usage = settle_usage(
        outcome.reported, valid.input_tokens, outcome.counted_output, outcome.output_chars, valid.output_tokens
    )
    exchange.cost_microusd = cost_microusd(house.prices, valid.permit.route, exchange.usage)
    if outcome.digest is not None:
        exchange.answer_hmac = house.prints.content(valid.permit.subject.tenant, outcome.digest.digest())


def base_headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """Return the headers every answer of this exchange bears as soon as they are known."""
    headers = [(b"x-request-id", exchange.request_id.encode())]
    lease = exchange.lease
    if lease is not None:
        headers += [
            (b"x-ratelimit-limit-requests", b"%d" % lease.limit_requests),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, lease.remaining_requests)),
            (b"x-ratelimit-reset-requests", b"%.3f" % lease.reset_requests_s),
            (b"x-ratelimit-limit-tokens", b"%d" % lease.limit_tokens),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, lease.remaining_tokens)),
            (b"x-ratelimit-reset-tokens", b"%.3f" % lease.reset_tokens_s),
        ]
    if exchange.index is not None:
        headers.append((b"x-audit-index", b"%d" % exchange.index))
    return headers


async def refuse(refusal: Refusal, sink: Sink, house: House, exchange: Exchange) -> None:
    """Say no, once, on the record. After the first byte of a stream the no becomes its last event."""
    exchange.refusal = refusal
    if not sink.begun:
        exchange.status = refusal.kind.status
    exchange.inbound = exchange.inbound or refusal.verdict
    if refusal.foreign and exchange.subject is not None:
        exchange.unknown += made_up(refusal.foreign, exchange.subject, house)
    if exchange.opened is not None:
        exchange.outcome = "blocked" if refusal.kind is CONTENT_FILTER else "failed"
    else:
        exchange.outcome = "refused"
    house.metrics.count(house.metrics.refusals, 1, refusal.kind.code)
    # Authentic, but of no tenant: nobody we serve, and all the same worth a record. Everyone else unknown is only counted.
    if exchange.subject is None and refusal.kind is not POLICY_DENIED:
        if refusal.kind in (INVALID_TOKEN, INVALID_API_KEY):
            house.metrics.count(house.metrics.unauthenticated)
            house.unauthenticated.count(refusal.kind.code)
    elif exchange.opened is None:
        try:
            ticket = house.log.append(encode(exchange.refused_fields()))
            exchange.index = ticket.index
            await ticket.wait()
        except LogUnavailable:
            refusal = Refusal(AUDIT_UNAVAILABLE, detail="refusal could not be recorded")
            exchange.index = None
    told = base_headers(exchange)
    if exchange.lease is None and refusal.kind is not INTERNAL and not any(name.startswith("x-ratelimit") for name, _ in refusal.headers):
        told += [(name.encode(), value.encode()) for name, value in await standing(house, exchange)]
    await sink.refuse(refusal, told)


async def settle(lease: Lease | None, house: House, exchange: Exchange) -> None:
    """Give the lease back: actual tokens where the exchange was opened, nothing where it never was."""
    if lease is None:
        return
    usage = exchange.usage
    spent = usage.input_tokens + usage.output_tokens if usage is not None and exchange.opened is not None else 0
    await house.counters.settle(lease, spent, house.mono_s())


def close(house: House, exchange: Exchange) -> None:
    """Write the closing record of an opened exchange and count it. CRASH here: the next start writes `unknown`.

    Who is known and leaves before that is on the record too: else whether a stolen credential is good could be tried in silence.
    """
    now_mono_s = house.mono_s()
    elapsed_s = now_mono_s - exchange.started_mono_s
    exchange.timings["total"] = elapsed_s
    if exchange.opened is not None or (exchange.refusal is None and exchange.subject is not None):
        fields = exchange.refused_fields() if exchange.opened is None else exchange.closed_fields(house.wall_s())
        try:
            house.log.append(encode(fields), soon=False)
        except LogUnavailable as error:
            logger.error("closing record not taken", extra={"request_id": exchange.request_id, "reason": str(error)})
    measure(house.metrics, exchange, elapsed_s)
    if house.span is not None:
        house.span(exchange)


def measure(metrics: Metrics, exchange: Exchange, elapsed_s: float) -> None:
    """Count a finished exchange."""
    route = exchange.permit.route if exchange.permit is not None else ""
    metrics.count(metrics.exchanges, 1, exchange.operation, route, exchange.outcome)
    if exchange.permit is None:
        return
    metrics.duration.observe(elapsed_s, (exchange.operation, route))
    opened_s, first_byte_s = exchange.timings.get("opened"), exchange.timings.get("first_byte")
    if opened_s is not None:
        metrics.overhead.observe(opened_s, (exchange.operation,))
        if first_byte_s is not None:
            metrics.first_byte.observe(first_byte_s - opened_s, (exchange.backend,))
    if exchange.usage is not None:
        metrics.count(metrics.tokens, exchange.usage.input_tokens, route, "input")
        metrics.count(metrics.tokens, exchange.usage.output_tokens, route, "output")
        if exchange.cost_microusd:
            metrics.count(metrics.cost, exchange.cost_microusd, exchange.permit.subject.tenant)
    for direction, verdict in (("inbound", exchange.inbound), ("outbound", exchange.outbound)):
        if verdict is None:
            continue
        for type_, number in verdict.entities.items():
            metrics.count(metrics.entities, number, type_, direction)
        if verdict.action == "block":
            for reason in verdict.flagged:
                metrics.count(metrics.blocks, 1, reason, direction)
        if verdict.degraded:
            metrics.count(metrics.degraded, 1, "inspection")
