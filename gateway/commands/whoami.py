"""`gateway whoami`: a token becomes subject, tenant, roles and permitted models, as the gateway would see it now."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from gateway.assembly import issuers_and_tenants, route_facts
from gateway.identity.issuers import IssuerFaults
from gateway.identity.subject import TenantFaults
from gateway.policy.facts import Zones
from gateway.policy.faults import PolicyFaults
from gateway.policy.load import load_policies
from gateway.refusals import Refusal
from gateway.settings import Settings, SettingsFaults, load


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    epilog = "example: gateway whoami -c .quickstart/gateway.toml .quickstart/tokens/analyst.jwt"
    parser = commands.add_parser("whoami", help="who a token is", epilog=epilog)
    parser.add_argument("-c", "--config", type=Path, default=Path("gateway.toml"), metavar="FILE", help="settings")
    parser.add_argument("token", metavar="FILE", help="a file holding the token, or - for standard input; never the token itself")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 for a token that is not accepted, 2 for settings that cannot be used."""
    try:
        settings = load(arguments.config, os.environ)
        token = sys.stdin.read() if arguments.token == "-" else Path(arguments.token).read_text()
    except SettingsFaults as faults:
        print(faults, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"the token file cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    try:
        seen = asyncio.run(_ask(settings, token.strip()))
    except (IssuerFaults, TenantFaults) as faults:
        print("\n".join(faults.faults), file=sys.stderr)
        return 2
    except Refusal as refusal:
        print(f"not accepted: {refusal.detail or refusal.kind.code}", file=sys.stderr)
        return 1
    except PolicyFaults as faults:
        print(faults, file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(seen))
    else:
        for key, value in seen.items():
            print(f"{key:12} {', '.join(value) if isinstance(value, list) else value}")
    return 0


async def _ask(settings: Settings, token: str) -> dict[str, Any]:
    authenticator, keysets = await issuers_and_tenants(settings)
    try:
        now_s = time.time()
        credential = authenticator.credential(((b"authorization", b"Bearer " + token.encode("latin-1", "replace")),))
        subject = await authenticator.authenticate(credential, int(now_s))
    finally:
        await keysets.aclose()
    policies = load_policies(
        Path(settings.policies.directory),
        invariants=None,
        routes=route_facts(settings),
        zones=Zones(dict(settings.network.zones)),
        tenants=frozenset(tenant.id for tenant in settings.tenants),
    )
    return {
        "tenant": subject.tenant,
        "subject": subject.subject_id,
        "kind": subject.kind.value,
        "application": subject.application,
        "roles": sorted(policies.roles.of(subject)),
        "models": list(policies.usable_models(subject, peer="127.0.0.1", now_s=now_s)),
        "expires_in_s": int(subject.expires_at_s - now_s),
    }
