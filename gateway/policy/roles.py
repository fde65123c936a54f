"""Which roles a verified subject has: `roles.toml`, from app roles, groups and named workloads to the gateway's roles.

Every comparison is exact. A workload is named with its tenant in front (`tenant/namespace/name`), because the same name in
another tenant is somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.evidence import Subject, SubjectKind
from gateway.policy.facts import DATA_CLASSES
from gateway.policy.faults import Fault
from gateway.policy.toml_table import Table, read_table

FILE = "roles.toml"

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class RoleRule(msgspec.Struct, frozen=True, kw_only=True):
    """One role and who has it. `tenants` empty: any tenant. `clearance` is a place in `DATA_CLASSES`."""

    name: str
    says: str
    app_roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    applications: frozenset[str] = frozenset()
    service_accounts: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    clearance: int = 0

    def holds(self, subject: Subject) -> bool:
        """Return whether the subject has this role."""
        if self.tenants and subject.tenant not in self.tenants:
            return False
        if not self.app_roles.isdisjoint(subject.app_roles) or not self.groups.isdisjoint(subject.groups):
            return True
        if subject.kind is SubjectKind.APPLICATION:
            # SECURITY: only an application acting as itself; a user's token that came through it names it too
            return f"{subject.tenant}/{subject.application}" in self.applications
        if subject.kind is SubjectKind.SERVICE_ACCOUNT:
            return f"{subject.tenant}/{subject.subject_id}" in self.service_accounts
        return subject.kind is SubjectKind.KEY and f"{subject.tenant}/{subject.subject_id}" in self.keys


class RoleMap(msgspec.Struct, frozen=True, kw_only=True):
    """Every role by name."""

    rules: Mapping[str, RoleRule]

    def of(self, subject: Subject) -> frozenset[str]:
        """Return the gateway roles of a subject."""
        return frozenset(name for name, rule in self.rules.items() if rule.holds(subject))

    def clearance(self, roles: frozenset[str]) -> int:
        """Return the highest clearance among `roles`, 0 where there is none."""
        return max((self.rules[name].clearance for name in roles if name in self.rules), default=0)


def _rule(name: str, table: Table) -> RoleRule:
    table.known("says", "clearance", "app_roles", "groups", "applications", "service_accounts", "keys", "tenants")
    if not _NAME.fullmatch(name):
        table.fault(f"the role name `{name}` must be lower-case letters, digits, `-` and `_`")
    sources = {key: frozenset(table.strings(key)) for key in ("app_roles", "groups", "applications", "service_accounts", "keys")}
    if not any(sources.values()):
        table.fault(f"nobody can have the role `{name}`: name app roles, groups, applications, service accounts or keys")
    for key, parts in (("applications", 2), ("service_accounts", 3), ("keys", 2)):
        for entry in sorted(sources[key]):
            if len(entry.split("/")) != parts or not all(entry.split("/")):
                shape = "tenant/namespace/name" if parts == 3 else "tenant/id"
                table.fault(f"`{entry}` in `{key}` must have the form {shape}", key)
    return RoleRule(
        name=name,
        says=table.string("says"),
        tenants=frozenset(table.strings("tenants")),
        clearance=DATA_CLASSES.index(table.choice("clearance", DATA_CLASSES)),
        **sources,
    )


def read_roles(content: bytes, faults: list[Fault]) -> RoleMap:
    """Read `roles.toml`."""
    root = read_table(FILE, content, faults)
    root.known("roles")
    rules = {name: _rule(name, table) for name, table in root.table("roles").tables()}
    if not rules:
        root.fault("no role is defined")
    return RoleMap(rules=rules)
