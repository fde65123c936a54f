"""How is each part made from settings? One function a part, so that commands can make one without the others."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
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
from gateway.identity.issuers import IssuerConfig, IssuerKind, Overage, trust
from gateway.identity.keyset import KeySets
from gateway.identity.subject import TenantRule, Tenants
from gateway.policy.decide import PolicySet
from gateway.policy.facts import RouteFacts
from gateway.ports import BackendCredential, CounterStore, RemoteModerator
from gateway.providers.azure.content_safety import ContentSafety
from gateway.providers.azure.group_membership import GraphGroups
from gateway.providers.azure.sdk_credential import SdkCredential
from gateway.providers.azure.token_keeper import Flights
from gateway.providers.azure.upstream_identity import COGNITIVE_SERVICES, IdentityConfig, application_credential, backend_credential
from gateway.providers.local import encoder
from gateway.providers.local.counters import MemoryCounters
from gateway.providers.local.documents import HttpsDocuments
from gateway.providers.local.moderation import LinearModerator
from gateway.providers.local.ner import NerPool
from gateway.providers.local.rotating_credential import RotatingCredential
from gateway.providers.local.scanner import PatternScanner
from gateway.providers.local.secrets import Secret, SecretMissing, resolve
from gateway.providers.redis.counters import RedisCounters
from gateway.schema.operations import plain
from gateway.schema.validate import Specs
from gateway.settings import Issuer, Settings, Tenant
from gateway.settings import Route as RouteSettings
from gateway.settings_identity import Identity, completed
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.client import BackendClient, tls_context
from gateway.upstream.forward import Forwarder
from gateway.upstream.route import Backend, Route

logger = logging.getLogger("gateway")
MIN_PEPPER_BYTES = 32
Watch = Callable[[str, Callable[[Secret], None]], None]
"""Has a function called with every later value of a reference."""


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


def local_inspection(
    *,
    ner: Any = None,
    entries: int = 50_000,
    countries: Sequence[str] = (),
    remote: RemoteModerator | None = None,
    opinion: encoder.Encoder | None = None,
) -> Inspection:
    """Return inspection by what needs nothing but this machine, unless `remote` is given."""
    inspectors = Inspectors(
        scanner=PatternScanner(countries=countries or None),
        moderator=LinearModerator(),
        ner=ner,
        views=views.for_moderation,
        smuggling=views.smuggling,
        language=language.language,
        remote=remote,
        opinion=opinion,
        blend=opinion.blend if opinion is not None else None,
        secrets=PatternScanner(secrets_only=True),
    )
    return Inspection(inspectors, FindingCache(secrets.token_bytes(32), entries))


def content_safety(
    settings: Settings, secret: Callable[[str], Secret], watch: Watch | None = None, suspect: Callable[[str], None] = lambda _: None
) -> ContentSafety | None:
    """Return Azure AI Content Safety as settings name it, None where they do not. Asks nobody. Raises `SecretMissing`, `ImportError`."""
    section = settings.content_safety
    if section is None:
        return None
    sdk: dict[str, Any] = {"connection_verify": section.ca_file} if section.ca_file else {}
    own = section.key
    credential: Any = secret(own) if own else None
    if own:
        sdk["rejected"] = lambda _: suspect(own)
    if credential is None:
        config = identity_config("content_safety", section, secret)
        identity = application_credential(config, Flights(2), random.random)
        credential = SdkCredential(identity)
        sdk["rejected"] = lambda now_s: identity.rejected(None, now_s)
    made = ContentSafety(
        section.endpoint,
        credential,
        deadline_s=section.deadline_ms / 1000,
        concurrent=section.max_concurrent,
        waiting=section.max_waiting,
        api_version=section.api_version,
        scope=section.scope or COGNITIVE_SERVICES,
        **sdk,
    )
    if own and watch is not None:
        watch(own, made.rekey)
    return made


def asks_cloud(policies: PolicySet) -> list[str]:
    """Return the profiles that ask Azure AI Content Safety."""
    return [name for name, p in policies.content.profiles.items() if p.inbound.cloud is not None or p.outbound.cloud is not None]


def asks_twice(policies: PolicySet) -> list[str]:
    """Return the profiles that ask for a second opinion."""
    return [name for name, p in policies.content.profiles.items() if p.inbound.second_opinion or p.outbound.second_opinion]


def second_opinion(settings: Settings, policies: PolicySet) -> encoder.Encoder | None:
    """Return the encoder: with its weights where a profile asks for it now, with its card alone where a later set may.

    None where settings switch it off, or where it is not installed and nobody asks. Raises `RuntimeError`, `ModelInvalid`.
    """
    asking = asks_twice(policies)
    if not settings.inspection.second_opinion:
        if asking:
            logger.warning("no second opinion: settings switch it off", extra={"profiles": asking})
        return None
    if not encoder.available():
        if asking:
            raise RuntimeError(f"the profile `{asking[0]}` asks for a second opinion, and the extra `encoder` is not installed")
        return None
    made = encoder.Encoder()
    if asking:
        made.load()
    return made


async def inspection(
    settings: Settings, remote: RemoteModerator | None = None, opinion: encoder.Encoder | None = None
) -> tuple[Inspection, NerPool | None]:
    """Return inspection as settings ask for, its workers started."""
    ner = None
    if settings.inspection.ner:
        ner = NerPool(workers=settings.inspection.ner_workers, queue=settings.inspection.ner_queue)
        await asyncio.to_thread(ner.wait_ready)
    made = local_inspection(
        ner=ner, entries=settings.inspection.cache_entries, countries=settings.inspection.countries, remote=remote, opinion=opinion
    )
    return made, ner


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
        authority=issuer.authority,
        sts_authority=issuer.sts_authority,
        applications=issuer.applications,
        guests=issuer.guests == "allow",
        groups_overage=Overage(issuer.groups_overage),
    )


def directory_issuers(issuers: Sequence[Issuer]) -> frozenset[str]:
    """Return each exact `iss` whose subjects are named by directory and object: the same person under every form of it."""
    trusted = trust([issuer_config(i) for i in issuers])
    return frozenset(iss for iss, issuer in trusted.items() if issuer.kind is IssuerKind.ENTRA)


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


async def issuers_and_tenants(
    settings: Settings, secret: Callable[[str], Secret] = resolve, watch: Watch | None = None
) -> tuple[Authenticator, KeySets]:
    """Return the authenticator and its key sets, fetched once (or known to be missing: readiness tells).

    `watch` tells of secrets that change later.
    """
    trusted = trust([issuer_config(i) for i in settings.issuers])
    keysets = KeySets(trusted, HttpsDocuments(), time.monotonic)
    keys = None
    if settings.keys.enabled and settings.keys.file:
        own = settings.keys.pepper
        held = keys = ApiKeys(Path(settings.keys.file), secret(own).reveal() if own else b"")
        if own and watch is not None:
            watch(own, lambda changed: held.repepper(changed.reveal()))
    tenants = Tenants(tenant_rules(settings.tenants, settings.issuers), trusted)
    authenticator = Authenticator(trusted, keysets, tenants, keys, group_source(settings, secret))
    await keysets.refresh()
    return authenticator, keysets


def group_source(settings: Settings, secret: Callable[[str], Secret]) -> GraphGroups | None:
    """Return whoever knows groups that did not fit into tokens, None where settings name nobody. Raises `SecretMissing`."""
    directory = settings.directory
    if directory is None:
        return None
    config = identity_config("directory", directory, secret, scope="https://graph.microsoft.com/.default")
    client = BackendClient(directory.url, tls=backend_tls(directory.url, directory.ca_file))
    tenant = config.tenant or directory.identity_tenant or ""
    return GraphGroups(client, application_credential(config, Flights(2), random.random), directory=tenant, cache_s=directory.cache_s)


def identity_config(name: str, given: Identity, secret: Callable[[str], Secret], *, scope: str = COGNITIVE_SERVICES) -> IdentityConfig:
    """Return an identity with what the environment injects. Asks nobody and opens no secret: that is done for each request for a token."""
    item = completed(given, os.environ)
    own, certificate = item.client_secret, item.client_certificate
    return IdentityConfig(
        name=name,
        kind=item.identity or "",
        client_id=item.identity_client_id or "",
        tenant=item.identity_tenant or "",
        scope=item.scope or scope,
        authority=item.authority,
        ca_file=item.identity_ca_file,
        federated_token_file=item.federated_token_file or "",
        client_secret=(lambda: secret(own).reveal()) if own else None,
        client_certificate=(lambda: secret(certificate).reveal()) if certificate else None,
    )


def backend_tls(url: str, ca_file: str | None) -> ssl.SSLContext | None:
    """Return the TLS context of a backend, None for plaintext on loopback."""
    if urlsplit(url).scheme != "https":
        return None
    tls = tls_context()
    if ca_file:
        tls.load_verify_locations(ca_file)
    return tls


def counter_store(settings: Settings, secret: Callable[[str], Secret]) -> CounterStore:
    """Return the store of the limits."""
    limits = settings.limits
    if limits.store == "redis" and limits.url:
        own = limits.password
        password = (lambda: secret(own).reveal().decode("utf-8", "replace")) if own else None
        return RedisCounters(limits.url, replicas=limits.replicas, budget_s=limits.budget_ms / 1000, password=password)
    return MemoryCounters()


def forwarder(
    settings: Settings, secret: Callable[[str], Secret], watch: Watch | None = None, suspect: Callable[[str], None] = lambda _: None
) -> Forwarder:
    """Return the forwarder with one client a backend. Raises `SecretMissing`.

    `watch` tells of secrets that change later; `suspect` is told the reference of a key that a backend did not accept.
    """
    clients: dict[str, BackendClient] = {}
    held: dict[str, tuple[tuple[bytes, bytes], ...] | None] = {}
    identities: dict[str, BackendCredential] = {}
    flights = Flights()
    for b in settings.backends:
        timeouts = Timeouts(
            connect_s=b.connect_s, head_s=b.first_byte_s, first_byte_s=b.first_byte_s, idle_s=b.between_reads_s, total_s=b.total_s
        )
        limits = Limits(max_connections=b.max_connections, max_waiting=b.max_waiting)
        clients[b.name] = BackendClient(b.url, tls=backend_tls(b.url, b.ca_file), limits=limits, timeouts=timeouts)
        if b.identity is not None:
            identities[b.name] = backend_credential(identity_config(b.name, b, secret), flights, random.random)
            held[b.name] = None
            continue
        held[b.name] = ()
        if b.credential:
            rotating = RotatingCredential(b.credential, b.credential_header, secret(b.credential), partial(suspect, b.credential))
            identities[b.name], held[b.name] = rotating, rotating.held
            if watch is not None:
                watch(b.credential, partial(_rotate, held, b.name, rotating))
    routes = {}
    for r in settings.routes:
        backends = tuple(_backend(settings, name, r.upstream_model or "") for name in r.backends)
        routes[r.model] = Route(name=r.model, backends=backends)
    return Forwarder(routes, clients, credentials=lambda backend: held[backend.name], identities=identities, draw=random.random)


def _rotate(held: dict[str, Any], name: str, credential: RotatingCredential, changed: Secret) -> None:
    credential.take(changed)
    held[name] = credential.held


def _backend(settings: Settings, name: str, model: str) -> Backend:
    b = next(item for item in settings.backends if item.name == name)
    dialect = {"openai": Dialect.OPENAI, "azure": Dialect.AZURE, "plain": Dialect.PLAIN}[b.kind]
    return Backend(name=name, base_url=b.url, dialect=dialect, model=model, region=b.region, api_version=b.api_version or "")
