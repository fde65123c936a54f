"""`gateway check`: everything that is wrong with settings and policies, at once, with file and line. `--live` asks the world once."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from gateway.app import server_tls
from gateway.assembly import (
    asks_cloud,
    asks_twice,
    content_safety,
    counter_store,
    forwarder,
    issuer_config,
    issuers_and_tenants,
    route_facts,
    tenant_rules,
)
from gateway.identity.issuers import IssuerFaults, trust
from gateway.identity.subject import TenantFaults, Tenants
from gateway.policy.facts import Zones
from gateway.policy.faults import PolicyFaults
from gateway.policy.load import load_policies
from gateway.ports import Secret, SinkRefused, SinkUnavailable
from gateway.providers.azure.msal_client import CertificateFault, certificate_parts
from gateway.providers.azure.token_keeper import Flights
from gateway.providers.local import encoder
from gateway.providers.local.secrets import SecretMissing, resolve
from gateway.providers.redis.counters import RedisCounters
from gateway.providers.secret_keeper import SecretFaults
from gateway.secret_sources import loaded
from gateway.settings import Settings, SettingsFaults, load, located
from gateway.settings_identity import Identity, completed
from gateway.settings_secrets import references
from gateway.sinks import application_insights, connection_string, evidence_sink

_OPENED: Final = (("audit_sinks", "connection"), ("telemetry", "appinsights"))  # looked into as well, further down


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("check", help="find every fault in settings and policies", epilog="example: gateway check -c gateway.toml")
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="settings; their policies are checked too")
    parser.add_argument("policies", nargs="?", type=Path, metavar="POLICIES", help="a policy set to check on its own")
    parser.add_argument("--live", action="store_true", help="ask every issuer, backend, store and secret once")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if there is a fault, 2 if there is nothing to check."""
    config: Path | None = arguments.config
    if config is None and arguments.policies is None:
        config = Path("gateway.toml")
    faults: list[str] = []
    settings: Settings | None = None
    if config is not None:
        try:
            settings = load(config, os.environ)
        except SettingsFaults as found:
            faults += [str(f) for f in found.faults]
    policies: Path | None = arguments.policies
    if policies is None and settings is not None:
        policies = Path(settings.policies.directory)
    if policies is not None:
        faults += policy_faults(policies, settings)
    if settings is not None:
        faults += secret_faults(settings, config)
        faults += identity_faults(config, settings) if config is not None else []
        if arguments.live and not faults:
            faults += asyncio.run(live_faults(settings))
    if arguments.json:
        print(json.dumps({"ok": not faults, "faults": faults}))
    else:
        for fault in faults:
            print(fault, file=sys.stderr)
        print("no fault" if not faults else f"{len(faults)} fault{'s' if len(faults) > 1 else ''}")
    return 1 if faults else 0


def policy_faults(directory: Path, settings: Settings | None) -> list[str]:
    """Return every fault of a policy set, against the settings' routes where there are settings."""
    routes = route_facts(settings) if settings is not None else None
    invariants = Path(settings.policies.invariants) if settings is not None and settings.policies.invariants else None
    zones = Zones(dict(settings.network.zones)) if settings is not None else None
    tenants = frozenset(tenant.id for tenant in settings.tenants) if settings is not None else None
    try:
        policies = load_policies(directory, invariants=invariants, routes=routes, zones=zones, tenants=tenants, bad_sets=True)
    except PolicyFaults as found:
        return [str(f) for f in found.faults]
    if settings is None:
        return []
    faults: list[str] = []
    if settings.inspection.second_opinion and not encoder.available():
        why = "asks for a second opinion, and the extra `encoder` is not installed"
        faults += (f"the profile `{name}` {why}" for name in asks_twice(policies))
    if settings.content_safety is None:
        why = "asks Azure AI Content Safety, and settings have no [content_safety]"
        faults += (f"the profile `{name}` {why}" for name in asks_cloud(policies))
    return faults


def identities(settings: Settings) -> list[tuple[str, int, Identity]]:
    """Return (section, which of them, identity) of everything that shows an identity of the gateway's own."""
    found: list[tuple[str, int, Identity]] = [("backends", at, b) for at, b in enumerate(settings.backends) if b.identity is not None]
    if settings.directory is not None:
        found.append(("directory", 0, settings.directory))
    for name, section in (("secrets", settings.secrets), ("content_safety", settings.content_safety)):
        if section is not None and section.identity is not None:
            found.append((name, 0, section))
    return found


def identity_faults(config: Path, settings: Settings) -> list[str]:
    """Return a line for each file of an identity that cannot be used, and for rules of issuers and tenants that cannot work."""
    faults: list[str] = []
    for section, at, given in identities(settings):
        item = completed(given, os.environ)
        for key in ("identity_ca_file", "federated_token_file"):
            named = getattr(item, key)
            if named is not None and not os.access(named, os.R_OK):
                faults.append(str(located(config, f"`{key}` `{named}` cannot be read", section, key, at)))
        if item.client_certificate is None or item.client_certificate.startswith("keyvault:"):
            continue
        try:
            certificate_parts(resolve(item.client_certificate).reveal())
        except SecretMissing:
            continue  # said with the other references
        except CertificateFault as fault:
            faults.append(str(located(config, f"`client_certificate`: {fault}", section, "client_certificate", at)))
    try:
        trusted = trust([issuer_config(i) for i in settings.issuers])
        Tenants(tenant_rules(settings.tenants, settings.issuers), trusted)
    except (IssuerFaults, TenantFaults) as found:
        faults += [f"{config}: {fault}" for fault in found.faults]
    return faults


def secret_faults(settings: Settings, config: Path | None = None) -> list[str]:
    """Return a line for each secret reference that leads nowhere, with the places in `config` where it stands."""
    faults = []
    for reference, places in sorted(references(settings).items()):
        if reference.startswith("keyvault:") or set(places) <= set(_OPENED):
            continue
        try:
            resolve(reference)
        except SecretMissing as error:
            faults += [str(located(config, str(error), *place)) for place in _places(settings, reference)] if config else [str(error)]
    tls = settings.server.tls
    if tls is not None:
        try:
            server_tls(tls)
        except RuntimeError as error:
            faults.append(str(located(config, str(error), "server.tls", "certificate") if config else error))
    for name, section in (("secrets", settings.secrets), ("content_safety", settings.content_safety)):
        if section is not None and section.ca_file and not Path(section.ca_file).is_file():
            faults.append(f"[{name}] `ca_file`: `{section.ca_file}` is no file")
    return faults + evidence_faults(settings)


def _places(settings: Settings, reference: str) -> list[tuple[str, str, int]]:
    """Return (section, key, which of them) of each place where a reference stands."""
    places = []
    for section, key in dict.fromkeys(references(settings)[reference]):
        part = getattr(settings, section)
        items = part if isinstance(part, tuple) else (part,)
        places += [(section, key, at) for at, item in enumerate(items) if getattr(item, key) == reference]
    return places


def evidence_faults(settings: Settings) -> list[str]:
    """Return a line for each connection string that is none, and each sink's directory that is not there."""
    faults = []
    for sink in settings.audit_sinks:
        if sink.connection and not sink.connection.startswith("keyvault:"):
            try:
                connection_string(sink, resolve)
            except SecretMissing as error:
                faults.append(str(error))
        if sink.type == "directory" and not Path(sink.directory or "").is_dir():
            faults.append(f"audit sink `{sink.name}`: `{sink.directory}` is no directory: mount it or make it, it is never made for you")
        if sink.ca_file and not Path(sink.ca_file).is_file():
            faults.append(f"audit sink `{sink.name}`: `{sink.ca_file}` is no file")
    reference = settings.telemetry.appinsights
    if reference and not reference.startswith("keyvault:"):
        try:
            application_insights(reference, resolve)
        except SecretMissing as error:
            faults.append(str(error))
    return faults


async def live_faults(settings: Settings) -> list[str]:
    """Ask every vault for its secrets, every issuer for its keys, every backend and the store for a connection, once."""
    try:
        keeper = await loaded(msgspec.structs.replace(settings, secrets=msgspec.structs.replace(settings.secrets, start_s=0.0)))
    except SecretFaults as missing:
        return missing.faults
    try:
        return await _answers(settings, keeper.current)
    finally:
        await keeper.aclose()


async def _answers(settings: Settings, secret: Callable[[str], Secret]) -> list[str]:
    faults = []
    _, keysets = await issuers_and_tenants(settings, secret)
    faults += [f"issuer `{name}`: no usable keys" for name, good in keysets.ready().items() if not good]
    await keysets.aclose()
    asked = forwarder(settings, secret)
    faults += [f"backend `{name}`: cannot be reached" for name, good in (await asked.warm()).items() if not good]
    faults += [f"backend `{name}`: no token for its identity" for name, good in (await asked.ready_identities()).items() if not good]
    await asked.aclose()
    store = counter_store(settings, secret)
    if isinstance(store, RedisCounters):
        if fault := await store.ready():
            faults.append(f"[limits] {fault}")
        await store.aclose()
    remote = content_safety(settings, secret)
    if remote is not None:
        if fault := await remote.ready():
            faults.append(f"[content_safety] {fault}")
        await remote.aclose()
    return faults + await sink_faults(settings, secret)


async def sink_faults(settings: Settings, secret: Callable[[str], Secret]) -> list[str]:
    """Ask every audit sink that can be asked what it holds, once."""
    faults = []
    flights = Flights(2)
    for item in settings.audit_sinks:
        sink = evidence_sink(item, secret, flights)
        try:
            async with asyncio.timeout(item.timeout_s):
                await sink.held(settings.audit.origin)
        except (SinkUnavailable, SinkRefused) as error:
            faults.append(f"audit sink `{item.name}`: {error}")
        except TimeoutError:
            faults.append(f"audit sink `{item.name}`: no answer within {item.timeout_s:g} s")
        await sink.aclose()
    return faults
