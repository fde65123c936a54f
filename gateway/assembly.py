"""How is each part made from settings? One function a part, so that commands can make one without the others."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.content import language, views
from gateway.content.inspect import FindingCache, Inspection, Inspectors
from gateway.evidence import Dialect, Operation
from gateway.identity.apikeys import ApiKeys
from gateway.identity.authenticate import Authenticator
from gateway.identity.issuers import IssuerConfig, IssuerKind, trust
from gateway.identity.keyset import KeySets
from gateway.identity.subject import TenantRule, Tenants
from gateway.policy.facts import RouteFacts
from gateway.ports import CounterStore
from gateway.providers.local.counters import MemoryCounters
from gateway.providers.local.documents import HttpsDocuments
from gateway.providers.local.moderation import LinearModerator
from gateway.providers.local.ner import NerPool
from gateway.providers.local.scanner import PatternScanner
from gateway.providers.local.secrets import Secret, SecretMissing, resolve
from gateway.providers.redis.counters import RedisCounters
from gateway.schema.operations import plain
from gateway.schema.validate import Specs
from gateway.settings import Issuer, Settings, Tenant
from gateway.settings import Route as RouteSettings
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.client import BackendClient, tls_context
from gateway.upstream.forward import Forwarder
from gateway.upstream.route import Backend, Route

logger = logging.getLogger("gateway")
MIN_PEPPER_BYTES = 32


def signing_key(data: bytes) -> Ed25519PrivateKey:
    """Return the log's key from PEM, or from 32 bytes in hex. Raises `SecretMissing` naming what is wrong, never the key."""
    try:
        if data.startswith(b"-----"):
            key = serialization.load_pem_private_key(data, password=None)
        else:
            key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(data.decode("ascii")))
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise SecretMissing("`audit.key`: is neither an unencrypted PEM key nor 32 bytes in hex") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SecretMissing("`audit.key`: must be an Ed25519 key")
    return key


def pepper(data: bytes) -> bytes:
    """Return the pepper. Raises `SecretMissing` for a short one."""
    if len(data) < MIN_PEPPER_BYTES:
        raise SecretMissing(f"`audit.pepper`: needs at least {MIN_PEPPER_BYTES} bytes")
    return data


def route_facts(settings: Settings) -> dict[str, RouteFacts]:
    """Return what policy may know of each route. A route over backends in several regions states none."""
    regions = {b.name: b.region for b in settings.backends}
    facts = {}
    for route in settings.routes:
        where = {regions[name] for name in route.backends}
        facts[route.model] = RouteFacts(
            name=route.model,
            operations=frozenset(route.operations),
            data_class=route.data_class,
            region=where.pop() if len(where) == 1 else "",
            owner=route.owner,
        )
    return facts


def specs_source(settings: Settings) -> Callable[[Any], Specs]:
    """Return `specs(generation)`: the operations' declarations with that generation's plain schemas."""
    kept: dict[str, Specs] = {}

    def specs(generation: Any) -> Specs:
        found = kept.get(generation.digest)
        if found is None:
            kept.clear()
            made: dict[str, Any] = {}
            for route in settings.routes:  # a route whose schema a later set took away does not exist; the others go on
                try:
                    made |= plain_specs([route], generation.schemas)
                except plain.SchemaFaults as faults:
                    logger.error("route without usable schema", extra={"route": route.model, "faults": list(faults.faults)})
            found = kept[generation.digest] = Specs(made)
        return found

    return specs


def plain_specs(routes: Sequence[RouteSettings], schemas: Any) -> dict[str, Any]:
    """Compile the declarations of routes that name a schema. Raises `plain.SchemaFaults`."""
    made = {}
    for route in routes:
        if route.request_schema is None:
            continue
        request = schemas.get(route.request_schema)
        if request is None:
            raise plain.SchemaFaults([f"route `{route.model}`: the policy set has no schema `{route.request_schema}`"])
        answer = schemas.get(route.answer_schema) if route.answer_schema else None
        made[route.model] = plain.load(
            Operation.SCORE, msgspec.json.encode(request), msgspec.json.encode(answer) if answer is not None else None
        )
    return made


def local_inspection(*, ner: Any = None, entries: int = 50_000) -> Inspection:
    """Return inspection by what needs nothing but this machine."""
    inspectors = Inspectors(
        scanner=PatternScanner(),
        moderator=LinearModerator(),
        ner=ner,
        views=views.for_moderation,
        smuggling=views.smuggling,
        language=language.language,
    )
    return Inspection(inspectors, FindingCache(secrets.token_bytes(32), entries))


async def inspection(settings: Settings) -> tuple[Inspection, NerPool | None]:
    """Return inspection as settings ask for, its workers started."""
    ner = None
    if settings.inspection.ner:
        ner = NerPool(workers=settings.inspection.ner_workers)
        await asyncio.to_thread(ner.wait_ready)
    return local_inspection(ner=ner, entries=settings.inspection.cache_entries), ner


def issuer_config(issuer: Issuer) -> IssuerConfig:
    return IssuerConfig(
        name=issuer.name,
        kind=IssuerKind(issuer.type),
        audiences=issuer.audiences,
        issuer=issuer.issuer or "",
        tenants=issuer.directories,
        algorithms=issuer.algorithms,
        discovery_url=issuer.discovery or "",
        jwks_url=issuer.jwks_uri or "",
        max_lifetime_s=issuer.max_lifetime_s,
    )


def tenant_rules(tenants: Sequence[Tenant], issuers: Sequence[Issuer]) -> list[TenantRule]:
    """Return the rules; an Entra issuer is told apart by directory, so its name alone means each of its directories."""
    named = {i.name: i for i in issuers}
    rules = []
    for tenant in tenants:
        issuer = named.get(tenant.issuer or "")
        common = {"application": tenant.application or "", "namespace": tenant.namespace or "", "key_id": tenant.key or ""}
        if issuer is None or issuer.type != "entra":
            iss = (issuer.issuer or "") if issuer is not None else ""
            rules.append(TenantRule(tenant=tenant.id, issuer=iss, directory_id=tenant.directory or "", **common))
            continue
        directories = (tenant.directory,) if tenant.directory else issuer.directories
        rules += [TenantRule(tenant=tenant.id, directory_id=directory, **common) for directory in directories]
    return rules


async def issuers_and_tenants(settings: Settings) -> tuple[Authenticator, KeySets]:
    """Return the authenticator and its key sets, fetched once (or known to be missing: readiness tells)."""
    trusted = trust([issuer_config(i) for i in settings.issuers])
    keysets = KeySets(trusted, HttpsDocuments(), time.monotonic)
    keys = None
    if settings.keys.enabled and settings.keys.file:
        secret = resolve(settings.keys.pepper).reveal() if settings.keys.pepper else b""
        keys = ApiKeys(Path(settings.keys.file), secret)
    authenticator = Authenticator(trusted, keysets, Tenants(tenant_rules(settings.tenants, settings.issuers), trusted), keys)
    await keysets.refresh()
    return authenticator, keysets


def counter_store(settings: Settings) -> CounterStore:
    """Return the store of the limits."""
    limits = settings.limits
    if limits.store == "redis" and limits.url:
        return RedisCounters(limits.url, replicas=limits.replicas, budget_s=limits.budget_ms / 1000)
    return MemoryCounters()


def forwarder(settings: Settings, secret: Callable[[str], Secret]) -> Forwarder:
    """Return the forwarder with one client a backend. Raises `SecretMissing`."""
    clients: dict[str, BackendClient] = {}
    held: dict[str, tuple[tuple[bytes, bytes], ...]] = {}
    for b in settings.backends:
        timeouts = Timeouts(
            connect_s=b.connect_s, head_s=b.first_byte_s, first_byte_s=b.first_byte_s, idle_s=b.between_reads_s, total_s=b.total_s
        )
        tls = None
        if urlsplit(b.url).scheme == "https":
            tls = tls_context()
            if b.ca_file:
                tls.load_verify_locations(b.ca_file)
        limits = Limits(max_connections=b.max_connections, max_waiting=b.max_waiting)
        clients[b.name] = BackendClient(b.url, tls=tls, limits=limits, timeouts=timeouts)
        if b.credential is None:
            held[b.name] = ()
            continue
        value = secret(b.credential).reveal()
        name = b.credential_header.encode()
        held[b.name] = ((name, b"Bearer " + value if name == b"authorization" else value),)
    routes = {}
    for r in settings.routes:
        backends = tuple(_backend(settings, name, r.upstream_model or "") for name in r.backends)
        routes[r.model] = Route(name=r.model, backends=backends)
    return Forwarder(routes, clients, credentials=lambda backend: held[backend.name], draw=random.random)


def _backend(settings: Settings, name: str, model: str) -> Backend:
    b = next(item for item in settings.backends if item.name == name)
    dialect = {"openai": Dialect.OPENAI, "azure": Dialect.AZURE, "plain": Dialect.PLAIN}[b.kind]
    return Backend(name=name, base_url=b.url, dialect=dialect, model=model, region=b.region, api_version=b.api_version or "")
