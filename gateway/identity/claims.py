"""What do the claims of an authentic token say about who is asking? Steps 14 and 15 of `token.verify_token`.

Identifiers are accepted in their exact form only; names and addresses of people (`email`, `upn`, `preferred_username`) are
never read: they change owners. A token that does not say clearly whether a person or an application asks is refused.

Specification: RFC 9068 section 2.2, Entra ID access token and optional claims references, Kubernetes bound tokens.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import msgspec

from gateway.evidence import SubjectKind
from gateway.identity.issuers import GUID, PERSONAL_ACCOUNTS, IssuerKind, TrustedIssuer
from gateway.identity.jwks import VerificationKey

_MAX_VALUES: Final = 256  # directories put at most 200 groups into a token
# SECURITY: no control characters, spaces or line breaks in identifiers: they end in logs and records.
_IDENTIFIER: Final = re.compile(r"[!-~]{1,255}")
_VALUE: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,256}")
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_CLIENT_AUTH: Final = {"0": "public", "1": "secret", "2": "certificate"}
_CONFIDENTIAL: Final = frozenset({"1", "2"})


class Step(IntEnum):
    """The numbered steps, as records name them."""

    SIZE = 1
    SHAPE = 2
    ENCODING = 3
    HEADER = 4
    CLAIMS = 5
    ISSUER = 6
    ALGORITHM = 7
    KEY = 8
    SIGNATURE = 9
    TIME = 10
    AUDIENCE = 11
    DIRECTORY = 12
    KEY_ISSUER = 13
    SUBJECT = 14
    AUTHORITY = 15


class Rejected(Exception):
    """The token is not accepted. `why` is a constant of ours: private, and free of the token's content."""

    def __init__(self, step: Step, why: str) -> None:
        super().__init__(f"{step.name.lower()}: {why}")
        self.step = step
        self.why = why


class VerifiedClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What an authentic token says, reduced to what this gateway understands."""

    iss: str
    issuer_name: str
    issuer_kind: IssuerKind
    kid: str
    key_thumbprint: bytes
    subject_id: str  # "{tid}/{oid}", "{namespace}/{name}" or `sub`
    kind: SubjectKind
    directory_id: str  # `tid`, only from issuers that own directories; else ""
    application: str  # `azp`, `appid` or `client_id`; "" where absent
    application_proven: bool  # the application itself authenticated, so its id may decide something
    namespace: str  # of a service account; else ""
    app_roles: frozenset[str]
    groups: frozenset[str]
    groups_overage: bool  # the groups did not fit into the token; `groups` is empty
    scopes: frozenset[str]
    guest: bool  # lives in another directory, or in none (a personal account)
    auth_context: frozenset[str]
    claims_challenges: bool  # the client can handle a claims challenge (`xms_cc` holds cp1)
    personal: bool  # a personal account, in whichever directory it is a guest
    object_id: str  # `oid`, only from issuers that own directories; else ""
    auth_methods: frozenset[str]
    client_auth: str  # public, secret, certificate; "" where the token does not say
    device: bool
    sign_in_state: frozenset[str]
    sign_in_address: str
    token_id: str
    issued_at_s: int
    not_before_s: int
    expires_at_s: int


def describe(
    claims: Mapping[str, Any], issuer: TrustedIssuer, *, key: VerificationKey, issued_at_s: int, not_before_s: int, expires_at_s: int
) -> VerifiedClaims:
    """Return the reduced claims. Raises `Rejected` at SUBJECT (who) or AUTHORITY (with what)."""
    # 14. Subject: kind, identifiers, calling application.
    application = _application(claims, issuer)
    kind = _kind(claims, issuer, application)
    subject_id, directory_id, namespace = _subject(claims, issuer, kind)
    # 15. Authority: roles, groups, scopes, authentication contexts; groups that did not fit are said to be missing.
    groups, overage = _groups(claims)
    return VerifiedClaims(
        iss=issuer.iss,
        issuer_name=issuer.name,
        issuer_kind=issuer.kind,
        kid=key.kid,
        key_thumbprint=key.thumbprint,
        subject_id=subject_id,
        kind=kind,
        directory_id=directory_id,
        application=application,
        application_proven=_application_proven(claims, issuer, kind, application),
        namespace=namespace,
        app_roles=_values(claims, "roles"),
        groups=groups,
        groups_overage=overage,
        scopes=_scopes(claims, issuer),
        guest=_guest(claims, issuer),
        auth_context=_values(claims, "acrs", single=True),
        claims_challenges="cp1" in {value.lower() for value in _values(claims, "xms_cc", single=True)},
        personal=_personal(claims, issuer),
        object_id=subject_id.partition("/")[2] if directory_id else "",
        auth_methods=_values(claims, "amr", single=True),
        client_auth=_CLIENT_AUTH.get(_proof(claims, issuer), ""),
        device=bool(_optional(claims, "deviceid")) and issuer.kind is IssuerKind.ENTRA,
        sign_in_state=_values(claims, "signin_state", single=True) if issuer.kind is IssuerKind.ENTRA else frozenset(),
        sign_in_address=_address(claims) if issuer.kind is IssuerKind.ENTRA else "",
        token_id=_optional(claims, "uti") or _optional(claims, "jti"),
        issued_at_s=issued_at_s,
        not_before_s=not_before_s,
        expires_at_s=expires_at_s,
    )


def _application(claims: Mapping[str, Any], issuer: TrustedIssuer) -> str:
    if issuer.kind is IssuerKind.ENTRA:
        name = "appid" if issuer.version == "1.0" else "azp"
        application = _required(claims, name)
        if GUID.fullmatch(application) is None:
            raise Rejected(Step.SUBJECT, f"{name} is not a GUID")
        return application
    if issuer.kind is IssuerKind.KUBERNETES:
        return ""
    named = {value for name in ("azp", "client_id") if (value := _optional(claims, name))}
    if len(named) > 1:
        raise Rejected(Step.SUBJECT, "azp and client_id disagree")
    return named.pop() if named else ""


def _kind(claims: Mapping[str, Any], issuer: TrustedIssuer, application: str) -> SubjectKind:
    if issuer.kind is IssuerKind.KUBERNETES:
        return SubjectKind.SERVICE_ACCOUNT
    idtyp = claims.get("idtyp")
    if issuer.kind is IssuerKind.OIDC:
        applies = idtyp == "app" or claims.get("gty") == "client-credentials" or (application != "" and claims.get("sub") == application)
        return SubjectKind.APPLICATION if applies else SubjectKind.USER
    # SECURITY: `roles` is in users' tokens too, so it says nothing about the kind. Only `idtyp` and `scp` do, and a token
    # with neither may be an ID token issued to a client that shares our registration.
    delegated = type(claims.get("scp")) is str and claims["scp"] != ""
    if idtyp == "app" and not delegated:
        return SubjectKind.APPLICATION
    if delegated and idtyp in (None, "user"):
        return SubjectKind.USER
    raise Rejected(Step.SUBJECT, "neither a user's token (scp) nor an application's (optional claim idtyp = app)")


def _application_proven(claims: Mapping[str, Any], issuer: TrustedIssuer, kind: SubjectKind, application: str) -> bool:
    if kind is SubjectKind.APPLICATION or not application:
        return application != ""
    if issuer.kind is not IssuerKind.ENTRA:
        return True
    # SECURITY: anyone can sign a user in under a public client's id (`azpacr` 0); only a client with a secret or a
    # certificate proved which application it is.
    return _proof(claims, issuer) in _CONFIDENTIAL


def _proof(claims: Mapping[str, Any], issuer: TrustedIssuer) -> str:
    if issuer.kind is not IssuerKind.ENTRA:
        return ""
    proof = claims.get("appidacr" if issuer.version == "1.0" else "azpacr")
    return proof if type(proof) is str else ""


def _subject(claims: Mapping[str, Any], issuer: TrustedIssuer, kind: SubjectKind) -> tuple[str, str, str]:
    sub = _required(claims, "sub")
    if kind is SubjectKind.SERVICE_ACCOUNT:
        namespace, name = _service_account(claims, sub)
        return f"{namespace}/{name}", "", namespace
    if issuer.kind is IssuerKind.OIDC:
        return sub, "", ""
    # `sub` is pairwise for each application; `tid` with `oid` is the same person everywhere.
    tid, oid = _required(claims, "tid"), _required(claims, "oid")
    if GUID.fullmatch(tid) is None or GUID.fullmatch(oid) is None:
        raise Rejected(Step.SUBJECT, "tid or oid is not a GUID")
    return f"{tid}/{oid}", tid, ""


def _service_account(claims: Mapping[str, Any], sub: str) -> tuple[str, str]:
    bound = claims.get("kubernetes.io")
    account = bound.get("serviceaccount") if type(bound) is dict else None
    namespace = bound.get("namespace") if type(bound) is dict else None
    name = account.get("name") if type(account) is dict else None
    for part in (namespace, name):
        if type(part) is not str or _DNS_LABEL.fullmatch(part) is None:
            raise Rejected(Step.SUBJECT, "no bound service account")
    if sub != f"system:serviceaccount:{namespace}:{name}":
        raise Rejected(Step.SUBJECT, "sub is not the bound service account")
    return str(namespace), str(name)


def _guest(claims: Mapping[str, Any], issuer: TrustedIssuer) -> bool:
    if issuer.kind is not IssuerKind.ENTRA:
        return False
    idp = claims.get("idp")  # who signed the person in, where that is not the issuer
    own = (issuer.iss, issuer.sibling_iss, f"https://sts.windows.net/{issuer.directory_id}/")
    return claims.get("acct") in (1, "1") or (idp is not None and idp not in own) or issuer.directory_id == PERSONAL_ACCOUNTS


def _personal(claims: Mapping[str, Any], issuer: TrustedIssuer) -> bool:
    # SECURITY: a personal account is anybody's; as a guest it is told only by who signed it in.
    idp = claims.get("idp")
    named = idp.lower() if type(idp) is str else ""
    here = issuer.kind is IssuerKind.ENTRA and issuer.directory_id == PERSONAL_ACCOUNTS
    return here or (issuer.kind is IssuerKind.ENTRA and (PERSONAL_ACCOUNTS in named or named == "live.com"))


def _address(claims: Mapping[str, Any]) -> str:
    try:
        return str(ipaddress.ip_address(_optional(claims, "ipaddr")))
    except ValueError:
        return ""


def _groups(claims: Mapping[str, Any]) -> tuple[frozenset[str], bool]:
    elsewhere = claims.get("_claim_names")
    if claims.get("hasgroups") in (True, "true") or (type(elsewhere) is dict and "groups" in elsewhere):
        # SECURITY: the address in `_claim_sources` comes with the token; nothing ever calls it.
        return frozenset(), True
    return _values(claims, "groups"), False


def _scopes(claims: Mapping[str, Any], issuer: TrustedIssuer) -> frozenset[str]:
    name = "scp" if "scp" in claims or issuer.kind is not IssuerKind.OIDC else "scope"
    value = claims.get(name)
    if type(value) is not str:
        return _values(claims, name)
    scopes = frozenset(value.split(" ")) - {""}
    if len(scopes) > _MAX_VALUES or any(_IDENTIFIER.fullmatch(scope) is None for scope in scopes):
        raise Rejected(Step.AUTHORITY, f"{name} is not a list of scopes")
    return scopes


def _values(claims: Mapping[str, Any], name: str, *, single: bool = False) -> frozenset[str]:
    values = claims.get(name)
    if values is None:
        return frozenset()
    if single and type(values) is str:
        values = [values]
    if type(values) is not list or len(values) > _MAX_VALUES:
        raise Rejected(Step.AUTHORITY, f"{name} is not a list of at most {_MAX_VALUES}")
    for value in values:
        if type(value) is not str or _VALUE.fullmatch(value) is None:
            raise Rejected(Step.AUTHORITY, f"{name} holds something that is not a name")
    return frozenset(values)


def _required(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if type(value) is not str or _IDENTIFIER.fullmatch(value) is None:
        raise Rejected(Step.SUBJECT, f"{name} is missing or malformed")
    return value


def _optional(claims: Mapping[str, Any], name: str) -> str:
    return _required(claims, name) if claims.get(name) is not None else ""
