"""How much each tier may take: `limits.toml` as plain data.

A tier is named by a policy's @tier. Counting is done elsewhere; this module only reads and checks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

import msgspec

from gateway.policy.faults import Fault
from gateway.policy.toml_table import Table, read_table

FILE = "limits.toml"
EVERY_TENANT = "*"

_MAX_RATE = 10**9
_MAX_TOKENS = 10**12


class LimitTier(msgspec.Struct, frozen=True, kw_only=True):
    """One tier, for each subject of a tenant, or what a whole tenant may take. `burst`: how many requests at once before the rate holds."""

    name: str
    says: str
    requests_per_minute: int
    burst: int
    tokens_per_minute: int
    concurrent: int
    daily_tokens: int | None = None  # None: no daily quota


class LimitTiers(msgspec.Struct, frozen=True, kw_only=True):
    """Every tier, and what whole tenants may take. `strictness` lists tiers from the most generous to the strictest."""

    default: str
    strictness: tuple[str, ...]
    tiers: Mapping[str, LimitTier]
    tenants: Mapping[str, LimitTier] = {}

    def of_tenant(self, tenant: str) -> LimitTier | None:
        """Return what all subjects of a tenant may take together; None: no limit but their own."""
        return self.tenants.get(tenant) or self.tenants.get(EVERY_TENANT)


def _tier(name: str, table: Table) -> LimitTier:
    table.known("says", "requests_per_minute", "burst", "tokens_per_minute", "concurrent", "daily_tokens")
    rate = table.integer("requests_per_minute", 1, _MAX_RATE)
    daily = table.integer("daily_tokens", 1, _MAX_TOKENS) if "daily_tokens" in table.data else None
    return LimitTier(
        name=name,
        says=table.string("says"),
        requests_per_minute=rate,
        burst=table.integer("burst", 1, _MAX_RATE, default=rate),
        tokens_per_minute=table.integer("tokens_per_minute", 1, _MAX_TOKENS),
        concurrent=table.integer("concurrent", 1, 10**6),
        daily_tokens=daily,
    )


def _no_looser(strict: LimitTier, loose: LimitTier) -> list[str]:
    bad = [key for key in ("requests_per_minute", "burst", "tokens_per_minute", "concurrent") if getattr(strict, key) > getattr(loose, key)]
    if loose.daily_tokens is not None and (strict.daily_tokens is None or strict.daily_tokens > loose.daily_tokens):
        bad.append("daily_tokens")
    return bad


def read_order(root: Table, names: Mapping[str, object], kind: str) -> tuple[str, ...]:
    """Read `strictness` and `default`; every one of `names` must stand in the order exactly once."""
    order = root.strings("strictness", default=...)
    for name in order:
        if name not in names:
            root.fault(f"`strictness` names the {kind} `{name}`, which is not defined", "strictness")
    for name in names:
        if name not in order:
            root.fault(f"the {kind} `{name}` is not in `strictness`: when two apply, nothing says which wins", f"{kind}s", name)
    return tuple(name for name in order if name in names)


def read_limits(content: bytes, faults: list[Fault], tenants: Collection[str] | None = None) -> LimitTiers:
    """Read `limits.toml`. `tenants` are those of settings, None where there are no settings."""
    root = read_table(FILE, content, faults)
    root.known("default", "strictness", "tiers", "tenants")
    tiers = {name: _tier(name, table) for name, table in root.table("tiers").tables()}
    order = read_order(root, tiers, "tier")
    for loose, strict in pairwise(order):
        for key in _no_looser(tiers[strict], tiers[loose]):
            root.fault(f"the tier `{strict}` is listed as stricter than `{loose}` but allows more: `{key}`", "tiers", strict, key)
    default = root.choice("default", tuple(tiers)) if tiers else ""
    if not tiers:
        root.fault("no tier is defined")
    whole = {name: _tier(name, table) for name, table in root.table("tenants").tables()} if "tenants" in root.data else {}
    for name in whole:
        if tenants is not None and name not in (*tenants, EVERY_TENANT):
            root.fault(f"settings have no tenant `{name}`: this limit would hold for nobody", "tenants", name)
    return LimitTiers(default=default, strictness=order, tiers=tiers, tenants=whole)
