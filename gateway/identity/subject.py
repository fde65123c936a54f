"""Whose subject is this? Verified claims or a gateway key become a `Subject` of exactly one tenant.

`[[tenants]]` rules match verified values exactly: no patterns, no defaults, no first-match. No rule, or rules of two
tenants, is 403: the caller is authentic and has no place here. Rules that must collide are refused when settings load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from gateway.evidence import Subject, SubjectKind
from gateway.identity.apikeys import KeyRecord
from gateway.identity.claims import VerifiedClaims
from gateway.identity.issuers import IssuerKind, Overage, TrustedIssuer
from gateway.refusals import POLICY_DENIED, Refusal

KEY_ISSUER: Final = "key"
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FIELDS: Final = ("issuer", "directory_id", "application", "namespace", "key_id")
_NEVER_S: Final = 1 << 40


class TenantRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[tenants]]` entry: every field that is not empty must equal the verified value. At least one is needed."""

    tenant: str
    issuer: str = ""  # exact `iss`
    directory_id: str = ""  # `tid` of an issuer that owns directories
    application: str = ""  # calling application, only where it proved itself; with `issuer` or `directory_id`
    namespace: str = ""  # of a service account; with `issuer`
    key_id: str = ""  # of a gateway key; alone


class TenantFaults(ValueError):
    """The tenant rules cannot be used. `faults` holds every reason, one line each."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class Tenants:
    """The rules, checked. Immutable."""

    def __init__(self, rules: Sequence[TenantRule], trusted: Mapping[str, TrustedIssuer]) -> None:
        """Raises `TenantFaults`."""
        faults = [f"tenant `{rule.tenant}`: {fault}" for rule in rules for fault in _faults(rule, trusted)]
        for index, rule in enumerate(rules):
            faults += (
                f"tenants `{rule.tenant}` and `{other.tenant}` would both match: make their rules exclude each other"
                for other in rules[index + 1 :]
                if rule.tenant != other.tenant and _collide(rule, other)
            )
        if faults:
            raise TenantFaults(faults)
        self._rules = tuple(rules)
        self._trusted = trusted

    def subject_of_token(self, claims: VerifiedClaims, token_digest: bytes) -> Subject:
        """Return the subject of verified claims. Raises `Refusal(POLICY_DENIED)`: authentic, but not one of ours."""
        issuer = self._trusted[claims.iss]
        if claims.personal:
            raise _denied("personal accounts are not accepted")
        if claims.guest and not issuer.guests:
            raise _denied("guests of the directory are not accepted")
        if issuer.applications and claims.application not in issuer.applications:
            raise _denied("the calling application is not on the issuer's list")
        if claims.groups_overage and issuer.groups_overage is Overage.DENY:
            raise _denied("groups overage: assign application roles in place of groups")
        tenant = self._tenant(
            {
                "issuer": claims.iss,
                "directory_id": claims.directory_id,
                "application": claims.application if claims.application_proven else "",
                "namespace": claims.namespace,
                "key_id": "",
            }
        )
        return Subject(
            tenant=tenant,
            issuer=claims.iss,
            subject_id=claims.subject_id,
            kind=claims.kind,
            app_roles=claims.app_roles,
            groups=claims.groups,
            scopes=claims.scopes,
            application=claims.application,
            token_digest=token_digest,
            token_id=claims.token_id,
            issued_at_s=claims.issued_at_s,
            expires_at_s=claims.expires_at_s,
            auth_context=claims.auth_context,
            guest=claims.guest,
            groups_overage=claims.groups_overage,
            claims_challenges=claims.claims_challenges,
            auth_methods=claims.auth_methods,
            client_auth=claims.client_auth,
            device=claims.device,
            sign_in_state=claims.sign_in_state,
            sign_in_address=claims.sign_in_address,
        )

    def subject_of_key(self, record: KeyRecord, key_digest: bytes) -> Subject:
        """Return the subject of a verified gateway key. Raises `Refusal(POLICY_DENIED)`."""
        verified = {"issuer": KEY_ISSUER, "directory_id": "", "application": "", "namespace": "", "key_id": record.id}
        return Subject(
            tenant=self._tenant(verified),
            issuer=KEY_ISSUER,
            subject_id=record.id,
            kind=SubjectKind.KEY,
            app_roles=frozenset(record.roles),
            groups=frozenset(),
            scopes=frozenset(record.scopes),
            application="",
            token_digest=key_digest,
            token_id=record.id,
            issued_at_s=record.created_s,
            expires_at_s=record.expires_s or _NEVER_S,
        )

    def _tenant(self, verified: Mapping[str, str]) -> str:
        matched = {rule.tenant for rule in self._rules if all(getattr(rule, f) in ("", verified[f]) for f in _FIELDS)}
        if len(matched) != 1:
            raise _denied("rules of two tenants match" if matched else "no tenant rule matches")
        return matched.pop()


def _denied(why: str) -> Refusal:
    return Refusal(POLICY_DENIED, detail=f"tenant: {why}")


def _collide(one: TenantRule, other: TenantRule) -> bool:
    """Tell whether whatever matches one of the two rules must match the other as well."""
    given = [{f: getattr(rule, f) for f in _FIELDS if getattr(rule, f)} for rule in (one, other)]
    return given[0].items() <= given[1].items() or given[1].items() <= given[0].items()


def _faults(rule: TenantRule, trusted: Mapping[str, TrustedIssuer]) -> Iterable[str]:
    if _TENANT.fullmatch(rule.tenant) is None:
        yield "the id must be lower-case letters, digits, - and _"
    given = [name for name in _FIELDS if getattr(rule, name)]
    if not given:
        yield "give at least one of issuer, directory, application, namespace, key"
    if rule.key_id and len(given) > 1:
        yield "`key` stands alone"
    if rule.issuer and rule.issuer not in trusted:
        yield f"`issuer` `{rule.issuer}` is not a configured issuer"
    owners = [issuer for issuer in trusted.values() if issuer.kind is IssuerKind.DEVELOPMENT or issuer.directory_id == rule.directory_id]
    if rule.directory_id and not owners:
        yield f"`directory` `{rule.directory_id}` is not accepted by any configured issuer"
    # SECURITY: these names are unique within one issuer alone; another issuer may give the same name to someone else.
    if rule.application and not (rule.issuer or rule.directory_id):
        yield "`application` needs `issuer` or `directory` beside it"
    if rule.namespace and not rule.issuer:
        yield "`namespace` needs `issuer` beside it"
