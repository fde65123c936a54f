"""The composition root: settings in, a running gateway out. The only module that knows every room.

Start order is a promise: keys and policies are good, the log is open and recovered, the inspectors are warm, and only then does
the data port listen. Stop order is its mirror: readiness off, streams drained, the log closed last.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import ssl
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.requests import Request

from gateway.accounting.prices import TokenPrice
from gateway.assembly import (
    asks_cloud,
    content_safety,
    counter_store,
    directory_issuers,
    forwarder,
    inspection,
    issuers_and_tenants,
    pepper,
    plain_specs,
    route_facts,
    second_opinion,
    signing_key,
    specs_source,
)
from gateway.audit import record
from gateway.audit.log import AuditLog
from gateway.audit.shipper import Shipper
from gateway.audit.tree import Signer
from gateway.challenge import insufficient_claims
from gateway.console.status import control_app
from gateway.content.inspect import Inspection
from gateway.evidence import Subject
from gateway.exchange import Fingerprints
from gateway.house import Gate, House
from gateway.http.endpoint import DataPlane
from gateway.http.head import Fault as EdgeFault
from gateway.http.ops import ops_app
from gateway.http.paths import match
from gateway.http.protocol import Limits as EdgeLimits
from gateway.http.server import make_server
from gateway.identity.keyset import KeySets
from gateway.observed import Observed
from gateway.policy.facts import Zones
from gateway.policy.holder import PolicyHolder
from gateway.ports import LogUnavailable
from gateway.profiles import rules_source
from gateway.providers.local.moderation_categories import openai_categories
from gateway.providers.local.ner import NerPool
from gateway.providers.local.tokenizer import LazyTokenizer
from gateway.providers.otel.traces import Spans
from gateway.providers.secret_keeper import SecretKeeper
from gateway.refusals import POLICY_DENIED, Refusal
from gateway.secret_sources import loaded
from gateway.settings import Settings, Tls, host_port
from gateway.sinks import checkpoint_sinks, shippers
from gateway.sinks import spans as span_exporters
from gateway.telemetry.logs import place
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger("gateway")
SHIP_GRACE_S = 3.0  # for what is left to ship when all else has ended; the next start ships the rest
KEYS_S = 2.0  # a revoked gateway key works no longer than this
GC_YOUNG = 20_000  # allocations between collections: an exchange makes some hundred objects and few cycles
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class DevelopmentIssuerRefused(Exception):
    """Settings name the development issuer where only real ones may be."""


class Summary:
    """Counts what floods could multiply: one record a second, however many there were."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, reason: str) -> None:
        self._counts[reason] += 1

    def take(self) -> dict[str, int]:
        counts, self._counts = dict(self._counts), Counter()
        return counts

    def put_back(self, counts: Mapping[str, int]) -> None:
        """Count again what could not be recorded: the next record tells it."""
        self._counts.update(counts)


class Application:
    """One serving process. Made by `build`; `start` returns when the data port listens."""

    def __init__(
        self,
        settings: Settings,
        house: House,
        log: AuditLog,
        inspected: Inspection,
        summary: Summary,
        ner: NerPool | None,
        keysets: KeySets,
        spans: Spans | None,
        shippers: Sequence[Shipper] = (),
        secrets: SecretKeeper | None = None,
    ) -> None:
        self.settings = settings
        self.house = house
        self.log = log
        self._inspection = inspected
        self._summary = summary
        self._ner = ner
        self._keysets = keysets
        self._spans = spans
        self._shippers = shippers
        self._secrets = secrets
        self._observed = Observed(settings, house, log, keysets, shippers, self.readiness, inspected, ner)
        self._servers: list[Any] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._stopped = asyncio.Event()

    def readiness(self) -> dict[str, bool]:
        """Name each part that must be good, and whether it is."""
        keys = self._keysets.ready()
        return {
            **{f"keys:{name}": good for name, good in keys.items()},
            "policies": self.house.policies.status.ready,
            "audit": self.log.healthy,
            "backends": self.house.forwarder.ready(),
            "serving": not self.house.active.draining,
        }

    def status(self) -> dict[str, Any]:
        """Return what the status page shows."""
        policies = self.house.policies.status
        return {
            "instance": self.settings.server.instance,
            "ready": all(self.readiness().values()),
            "parts": self.readiness(),
            "policy generation": policies.generation,
            "policy digest": policies.digest,
            "policy error": policies.error or "none",
            "audit records": self.log.size,
            "exchanges in progress": self.house.active.active,
            "inspectors": ", ".join(self._inspection.inspectors.names),
            "cached findings": len(self._inspection.cache),
        }

    async def permitted(self, request: Request, action: str) -> bool:
        """Return whether the request bears a token that policy permits `action` on this gateway."""
        return await self.objection(request, action) is None

    async def objection(self, request: Request, action: str) -> Refusal | None:
        """Return why the request may not do `action` on this gateway: 401 for who it is, 403 for what it may; None if it may."""
        now_s = time.time()
        authenticator = self.house.authenticator
        try:
            credential = authenticator.credential(tuple(request.headers.raw))
            subject = authenticator.cached(credential, int(now_s))
            if subject is None:
                subject = await authenticator.authenticate(credential, int(now_s))
        except Refusal as refusal:
            return refusal
        policies = self.house.policies.current
        peer = request.client.host if request.client else ""
        context = policies.context(subject, "", peer=peer, stream=False, now_s=now_s)
        decision = policies.decide(subject, action, "", context)
        if decision.allowed:
            return None
        return insufficient_claims(subject, decision.step_up) if decision.step_up else Refusal(POLICY_DENIED, detail=decision.detail)

    def gauges(self) -> bytes:
        """Refresh the gauges and return the metrics page."""
        self._observed.refresh()
        for held in self._secrets.standings() if self._secrets is not None else ():
            self.house.metrics.secret_age.labels(held.reference).set(held.age_s)
            self.house.metrics.secret_healthy.labels(held.reference).set(0 if held.fault else 1)
        return self.house.metrics.render()

    async def start(self, *, sockets: Mapping[str, Any] | None = None) -> None:
        """Listen. Returns when every port accepts connections."""
        server = self.settings.server
        edge = EdgeLimits(body_idle_s=server.body_idle_s, connections=server.max_connections)
        tls = server_tls(server.tls) if server.tls else None
        plane = DataPlane(self.house, server.terminator.peers if server.terminator else None)
        apps = {
            "data": plane,
            "control": control_app(self.status, self.objection),
            "ops": ops_app(self.readiness, self.gauges, self.settings.telemetry.scrapers, self.permitted),
        }
        for name, app in apps.items():
            host, port = host_port(getattr(server, name))
            given = sockets.get(name) if sockets else None
            self._servers.append(
                make_server(
                    app,
                    host=host,
                    port=port,
                    sock=given,
                    limits=edge,
                    on_malformed=self._malformed if name == "data" else None,
                    tls=tls if name != "ops" else None,  # a kubelet's probes speak plainly; what tokens are shown to does not
                )
            )
        self._tasks += [asyncio.create_task(s.serve()) for s in self._servers]
        self._tasks += [asyncio.create_task(self._every(1.0, self._summarise)), asyncio.create_task(self._watch_policies())]
        self._tasks.append(asyncio.create_task(self._keysets.run()))
        if self._secrets is not None:
            self._tasks.append(asyncio.create_task(self._secrets.run()))
        self._tasks.append(asyncio.create_task(self._observed.heartbeat()))
        for shipper in self._shippers:
            shipper.start()
        self._tasks.append(asyncio.create_task(self._every(KEYS_S, self.house.authenticator.reload_keys)))
        # What was made so far lives as long as the process: the collector need not look at it again, and looks less often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_YOUNG, 20, 50)
        while not all(s.started for s in self._servers):
            if any(t.done() for t in self._tasks):
                raise RuntimeError("a port could not be opened")
            await asyncio.sleep(0.005)
        where = {name: getattr(server, name) for name in apps}
        logger.info("serving", extra={"instance": server.instance, **where, "policy_digest": self.house.policies.status.digest})
        self._tasks.append(asyncio.create_task(self._prepare()))

    async def _prepare(self) -> None:
        """Ask for the tokens of the backends before anyone waits for them; readiness does not wait."""
        missing = [name for name, good in (await self.house.forwarder.ready_identities()).items() if not good]
        if missing:
            logger.warning("backends without a token", extra={"backends": missing})

    def _malformed(self, fault: EdgeFault) -> None:
        self.house.metrics.count(self.house.metrics.malformed, 1, fault.value)
        self._summary.count(f"malformed_{fault.value}")

    async def _every(self, period_s: float, work: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                work()
            except OSError as error:  # what is done every second is done the next second too
                logger.error("periodic work failed", extra={"error": place(error)})

    def _summarise(self) -> None:
        counts = self._summary.take()
        if not counts:
            return
        try:
            self.log.append(record.summary(now_s=time.time(), instance=self.settings.server.instance, period_s=1.0, counts=counts))
        except LogUnavailable:
            # SECURITY: a flood that fills the log's queue must not be what nothing is said of.
            self._summary.put_back(counts)

    async def _watch_policies(self) -> None:
        period_s = self.settings.policies.watch_s
        holder = self.house.policies
        while period_s > 0:
            await asyncio.sleep(period_s)
            if not await asyncio.to_thread(holder.look):
                continue
            old = holder.current.digest
            taken = await asyncio.to_thread(holder.reload)
            reasons = [str(f) for f in holder.status.faults][:20]
            outcome = "refused" if not taken else "unchanged" if holder.current.digest == old else "swapped"
            logger.warning("policy set %s", outcome, extra={"reasons": reasons})
            change = record.policy_change(
                now_s=time.time(),
                instance=self.settings.server.instance,
                old=old,
                new=holder.current.digest,
                outcome=outcome,
                reasons=reasons,
            )
            while self.log.healthy:
                try:
                    self.log.append(change)
                    break
                except LogUnavailable:  # its queue is full: a change of policy waits for its place
                    await asyncio.sleep(period_s)

    async def wait(self) -> None:
        """Return when a signal has asked the process to end."""
        await asyncio.wait([self._tasks[0], asyncio.create_task(self._stopped.wait())], return_when=asyncio.FIRST_COMPLETED)

    def drain(self) -> None:
        """Turn readiness off; exchanges in progress go on."""
        self.house.active.draining = True
        logger.info("draining", extra={"instance": self.settings.server.instance, "exchanges": self.house.active.active})

    async def stop(self) -> None:
        """Drain within the grace, then close the ports, the inspectors and, last, the log."""
        self.drain()
        end_s = time.monotonic() + self.settings.server.drain_s
        while self.house.active.active > 0 and time.monotonic() < end_s:  # noqa: ASYNC110 - a drain is not worth an event in the hot path
            await asyncio.sleep(0.02)
        for server in self._servers:
            server.should_exit = True
        serving = self._tasks[: len(self._servers)]
        if serving:
            await asyncio.wait(serving, timeout=5.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.house.forwarder.aclose()
        await self._keysets.aclose()
        await self.house.authenticator.aclose()
        if self._inspection.inspectors.remote is not None:
            await self._inspection.inspectors.remote.aclose()
        if self._secrets is not None:
            await self._secrets.aclose()
        if self._ner is not None:
            await asyncio.to_thread(self._ner.close)
        if self._inspection.inspectors.opinion is not None:
            self._inspection.inspectors.opinion.close()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        self._summarise()
        await self.log.close()
        # What the log wrote last, its final checkpoint included, still has a moment to reach the second places.
        await asyncio.gather(*(shipper.stop(SHIP_GRACE_S) for shipper in self._shippers))


def server_tls(files: Tls) -> ssl.SSLContext:
    """Return the context of the data port: TLS 1.2 at least, HTTP/1.1 alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key)
    except OSError as error:  # an unfit certificate is one too
        why = error.strerror or "not a certificate and its key"
        raise RuntimeError(f"[server.tls] `{files.certificate}`, `{files.key}`: {why}") from error
    return context


def fingerprints(prints: record.Pseudonymiser, directories: Collection[str] = ()) -> Callable[[Subject], Fingerprints]:
    """Return a maker of what stands for a subject in records; a credential's is made once.

    `directories`: issuers whose subject ids are a directory's, and mean the same person under each form of `iss`.
    """

    @lru_cache(maxsize=4096)
    def of(tenant: str, issuer: str, subject_id: str, token_id: str) -> Fingerprints:
        # SECURITY: elsewhere an id is one issuer's alone; who may choose theirs at another must not be recorded as somebody else.
        given = "" if issuer in directories else f"{issuer}\n"
        return Fingerprints(prints.subject(tenant, given + subject_id), prints.token(tenant, given + token_id) if token_id else "")

    return lambda subject: of(subject.tenant, subject.issuer, subject.subject_id, subject.token_id)


class Randomness:
    """Random bytes drawn from the system in blocks: a call a request would let go of the interpreter's lock twice.

    Not shared between threads, and gone over a fork: processes are spawned, never forked.
    """

    BLOCK = 4_096

    def __init__(self) -> None:
        self._held = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return bytes that were never returned before."""
        if self._at + count > len(self._held):
            self._held = os.urandom(self.BLOCK)
            self._at = 0
        self._at += count
        return self._held[self._at - count : self._at]

    def new_id(self) -> str:
        """Return a random request id in the form of a UUID of version 4."""
        h = self.take(16).hex()
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"

    def nonce(self) -> str:
        """Return four characters for a request's pseudonyms: 1 in 1.6 million."""
        number = int.from_bytes(self.take(4), "big")
        return _ALPHABET[number % 36] + _ALPHABET[number // 36 % 36] + _ALPHABET[number // 1296 % 36] + _ALPHABET[number // 46656 % 36]


async def build(settings: Settings, *, unsafe_development: bool = False) -> Application:
    """Make an application from settings. Raises what its parts raise: policy faults, a refused log, missing secrets."""
    if not unsafe_development and any(issuer.type == "development" for issuer in settings.issuers):
        raise DevelopmentIssuerRefused("an issuer of type `development` is for `gateway quickstart` alone")
    metrics = Metrics()
    summary = Summary()
    holder = PolicyHolder(
        Path(settings.policies.directory),
        routes=route_facts(settings),
        invariants=Path(settings.policies.invariants) if settings.policies.invariants else None,
        zones=Zones(dict(settings.network.zones)),
        tenants=frozenset(tenant.id for tenant in settings.tenants),
    )
    plain_specs(settings.routes, holder.current.schemas)
    secrets = await loaded(settings)
    key = signing_key(secrets.current(settings.audit.key).reveal())
    remote = content_safety(settings, secrets.current, secrets.watch, secrets.suspect)
    if remote is None and (asking := asks_cloud(holder.current)):
        raise RuntimeError(f"the profile `{asking[0]}` asks Azure AI Content Safety, and settings have no [content_safety]")
    opinion = second_opinion(settings, holder.current)  # on this thread: what another thread frees, it keeps
    # What could be wrong with where evidence goes is found before the log is opened.
    shipping = shippers(settings, Signer(settings.audit.origin, key).verifier_key(), secrets.current)
    spans = span_exporters(settings, secrets.current)
    log = AuditLog.open(
        Path(settings.audit.directory),
        origin=settings.audit.origin,
        key=key,
        instance=settings.server.instance,
        now=time.time,
        checkpoint_sinks=checkpoint_sinks(settings.audit),
    )
    await log.start()
    inspected, ner = await inspection(settings, remote, opinion)
    authenticator, keysets = await issuers_and_tenants(settings, secrets.current, secrets.watch)
    prints = record.Pseudonymiser(pepper(secrets.current(settings.audit.pepper).reveal()))
    randomness = Randomness()
    house = House(
        authenticator=authenticator,
        match=match,
        policies=holder,
        specs=specs_source(settings),
        tokenizer=LazyTokenizer(),
        counters=counter_store(settings, secrets.current),
        inspection=inspected,
        rules=rules_source(ner_enabled=ner is not None, second_opinion=settings.inspection.second_opinion),
        log=log,
        prints=prints,
        fingerprints=fingerprints(prints, directory_issuers(settings.issuers)),
        forwarder=forwarder(settings, secrets.current, secrets.watch, secrets.suspect),
        metrics=metrics,
        span=spans.record if spans is not None else None,
        prices={name: TokenPrice(p.input, p.output) for name, p in settings.prices.items()},
        unauthenticated=summary,
        wall_s=time.time,
        mono_s=time.monotonic,
        new_id=randomness.new_id,
        nonce=randomness.nonce,
        categories=openai_categories,
        instance=settings.server.instance,
        max_body_bytes=settings.server.max_body_bytes,
        max_exchanges=settings.server.max_exchanges,
        active=Gate(),
    )
    return Application(settings, house, log, inspected, summary, ner, keysets, spans, shipping, secrets)
