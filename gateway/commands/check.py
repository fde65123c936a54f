"""`gateway check`: everything that is wrong with settings and policies, at once, with file and line. `--live` asks the world once."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from gateway.assembly import forwarder, issuers_and_tenants, route_facts
from gateway.policy.facts import Zones
from gateway.policy.faults import PolicyFaults
from gateway.policy.load import load_policies
from gateway.providers.local.secrets import SecretMissing, resolve
from gateway.settings import Settings, SettingsFaults, load


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("check", help="find every fault in settings and policies", epilog="example: gateway check -c gateway.toml")
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="settings; their policies are checked too")
    parser.add_argument("policies", nargs="?", type=Path, metavar="POLICIES", help="a policy set to check on its own")
    parser.add_argument("--live", action="store_true", help="ask every issuer, backend and secret once")
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
        faults += secret_faults(settings)
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
    try:
        load_policies(directory, invariants=invariants, routes=routes, zones=zones, bad_sets=True)
    except PolicyFaults as found:
        return [str(f) for f in found.faults]
    return []


def secret_faults(settings: Settings) -> list[str]:
    """Return a line for each secret reference that leads nowhere."""
    references = {settings.audit.key, settings.audit.pepper}
    references |= {b.credential for b in settings.backends if b.credential}
    if settings.keys.enabled and settings.keys.pepper:
        references.add(settings.keys.pepper)
    faults = []
    for reference in sorted(references):
        if reference.startswith("keyvault:"):
            continue
        try:
            resolve(reference)
        except SecretMissing as error:
            faults.append(str(error))
    return faults


async def live_faults(settings: Settings) -> list[str]:
    """Ask every issuer for its keys and every backend for a connection, once."""
    faults = []
    _, keysets = await issuers_and_tenants(settings)
    faults += [f"issuer `{name}`: no usable keys" for name, good in keysets.ready().items() if not good]
    await keysets.aclose()
    asked = forwarder(settings, resolve)
    faults += [f"backend `{name}`: cannot be reached" for name, good in (await asked.warm()).items() if not good]
    await asked.aclose()
    return faults
