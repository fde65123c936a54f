"""Which issuers are trusted, for what, and by which exact `iss` string are their tokens recognised?

Settings give one `IssuerConfig` an issuer; `trust` turns them into one `TrustedIssuer` for each exact `iss` string (an Entra
directory has two: v1 and v2). Nothing here is ever taken from a token. All faults are reported at once.

Specification: OpenID Connect Discovery 1.0 section 4, RFC 8414; Entra ID v1 and v2 access token forms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

import msgspec

HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S

# Asymmetric only. SECURITY: a symmetric name here would let a public key be used as an HMAC secret (CVE-2022-29217).
ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
GUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})
PERSONAL_ACCOUNTS: Final = "9188040d-6c67-4c5b-b112-36a304b66dad"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VISIBLE: Final = re.compile(r"[!-~]{1,512}")
_URL: Final = re.compile(r"[!-~]{1,2048}")


class IssuerKind(StrEnum):
    ENTRA = "entra"
    OIDC = "oidc"
    KUBERNETES = "kubernetes"
    DEVELOPMENT = "development"


class Overage(StrEnum):
    """What to do with a token whose groups did not fit into it (over 200 in Entra)."""

    DENY = "deny"
    RESOLVE = "resolve"  # ask the directory, as the gateway itself
    NO_GROUPS = "no_groups"  # goes on with no groups and a flag: a `forbid` on a group cannot match such a subject


class IssuerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[issuers]]` entry of settings. `issuer` is the exact `iss`, except for Entra, where `tenants` gives it."""

    name: str
    kind: IssuerKind
    audiences: tuple[str, ...]
    issuer: str = ""
    tenants: tuple[str, ...] = ()  # Entra: directory ids whose tokens are accepted
    versions: tuple[str, ...] = ("1.0", "2.0")  # Entra: access token versions accepted
    authority: str = "https://login.microsoftonline.com"  # Entra: differs in sovereign clouds
    sts_authority: str = "https://sts.windows.net"  # Entra: v1 issuer; differs in sovereign clouds
    algorithms: tuple[str, ...] = ("RS256",)
    discovery_url: str = ""  # default: the issuer's well-known document
    jwks_url: str = ""  # names the key set directly and skips discovery
    leeway_s: int = 60
    max_lifetime_s: int = DAY_S  # up to 28 h, the longest life of a continuous-access-evaluation token
    audience_lists: bool = False  # accept a list-valued `aud` that holds one of `audiences`
    guests: bool = False  # Entra: accept subjects whose home directory is another
    groups_overage: Overage = Overage.DENY
    applications: tuple[str, ...] = ()  # calling applications that are accepted; empty: any


class TrustedIssuer(msgspec.Struct, frozen=True, kw_only=True):
    """Everything verification needs to know about one exact `iss`."""

    iss: str
    name: str
    kind: IssuerKind
    audiences: frozenset[str]
    algorithms: frozenset[str]
    audience_lists: bool
    leeway_s: int
    max_lifetime_s: int
    discovery_url: str
    jwks_url: str
    guests: bool
    groups_overage: Overage
    applications: frozenset[str] = frozenset()
    version: str = ""  # Entra: the `ver` that belongs to this form of `iss`
    directory_id: str = ""  # Entra: the path segment of `iss`
    sibling_iss: str = ""  # Entra: the v2 form, which key documents may name for both versions


class IssuerFaults(ValueError):
    """The issuer settings cannot be used. `faults` holds every reason, one line each."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


def is_loopback_url(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOOPBACK_HOSTS
    except ValueError:
        return False


def url_fault(url: str) -> str:
    """Return why `url` may not be fetched, "" if it may: https with a plain host, or http to loopback."""
    # SECURITY: CVE-2026-48522, key sets read from file: and ftp: URLs. Only these two schemes exist here.
    if _URL.fullmatch(url) is None:
        return "is not a plain URL"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a plain URL"
    if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment or "\\" in url or port == 0:
        return "must be a plain URL with a host and without user, password or fragment"
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS):
        return ""
    return "must be https (http is for loopback alone)"


def forbidden_kubernetes_audience(audience: str, iss: str) -> bool:
    """Tell whether a service-account token for `audience` would be worth something elsewhere.

    SECURITY: the API server's own audiences open the cluster; the token-exchange audience can be traded for the
    workload's Azure identity. A gateway that took such a token would hold a stolen key to both.
    """
    plain = audience.strip("\"' ").rstrip("/").casefold()
    return (
        plain == "api://azureadtokenexchange"
        or plain == iss.rstrip("/").casefold()
        or "kubernetes.default" in plain
        or plain.endswith(".azmk8s.io")
        or ".azmk8s.io:" in plain
        or plain in {"kubernetes", "k3s", "sts.amazonaws.com", "vault"}
    )


def trust(configs: Iterable[IssuerConfig]) -> dict[str, TrustedIssuer]:
    """Return exact `iss` -> rules. Raises `IssuerFaults` with every fault."""
    trusted: dict[str, TrustedIssuer] = {}
    faults: list[str] = []
    names: set[str] = set()
    for config in configs:
        faults += (f"issuer `{config.name}`: {fault}" for fault in _faults(config))
        if config.name in names:
            faults.append(f"issuer `{config.name}`: the name is used twice")
        names.add(config.name)
        for one in _expand(config):
            if one.iss in trusted:
                faults.append(f"issuer `{config.name}`: `{one.iss}` is configured twice")
            trusted[one.iss] = one
    if faults:
        raise IssuerFaults(faults)
    return trusted


def development_issuers(trusted: Mapping[str, TrustedIssuer]) -> tuple[str, ...]:
    """Return the names of development issuers: a gateway that serves others must refuse to start with any."""
    return tuple(sorted({one.name for one in trusted.values() if one.kind is IssuerKind.DEVELOPMENT}))


def _expand(config: IssuerConfig) -> Iterable[TrustedIssuer]:
    if config.kind is not IssuerKind.ENTRA:
        default = config.issuer.rstrip("/") + "/.well-known/openid-configuration"
        yield _trusted(config, config.issuer, discovery_url=config.discovery_url or default)
        return
    for tenant in config.tenants:
        v1, v2 = f"{config.sts_authority}/{tenant}/", f"{config.authority}/{tenant}/v2.0"
        for version, iss, path in (("1.0", v1, ""), ("2.0", v2, "/v2.0")):
            if version in config.versions:
                url = f"{config.authority}/{tenant}{path}/.well-known/openid-configuration"
                yield _trusted(config, iss, discovery_url=url, version=version, directory_id=tenant, sibling_iss=v2)


def _trusted(
    config: IssuerConfig, iss: str, *, discovery_url: str, version: str = "", directory_id: str = "", sibling_iss: str = ""
) -> TrustedIssuer:
    return TrustedIssuer(
        iss=iss,
        name=config.name,
        kind=config.kind,
        audiences=frozenset(config.audiences),
        algorithms=frozenset(config.algorithms),
        audience_lists=config.audience_lists,
        leeway_s=config.leeway_s,
        max_lifetime_s=config.max_lifetime_s,
        discovery_url=discovery_url,
        jwks_url=config.jwks_url,
        guests=config.guests,
        groups_overage=config.groups_overage,
        applications=frozenset(config.applications),
        version=version,
        directory_id=directory_id,
        sibling_iss=sibling_iss,
    )


def _faults(config: IssuerConfig) -> Iterable[str]:
    if _NAME.fullmatch(config.name) is None:
        yield "`name` must be lower-case letters, digits, dots, dashes"
    if not config.audiences:
        yield "`audiences` must name at least one audience: a token for anyone is a token for no one"
    for audience in config.audiences:
        if _VISIBLE.fullmatch(audience) is None or "*" in audience:
            yield f"audience `{audience}` must be one exact string without spaces or wildcards"
        if config.kind is IssuerKind.KUBERNETES and forbidden_kubernetes_audience(audience, config.issuer):
            yield f"audience `{audience}` opens other doors; project a token with an audience of the gateway's own"
    if not config.algorithms:
        yield "`algorithms` must not be empty"
    for algorithm in sorted(set(config.algorithms) - ALGORITHMS):
        yield f"algorithm `{algorithm}` is not one of {', '.join(sorted(ALGORITHMS))}"
    if not 0 <= config.leeway_s <= 300:
        yield "`leeway_s` must be 0 to 300"
    if not 60 <= config.max_lifetime_s <= 28 * HOUR_S:
        yield "`max_lifetime_s` must be 60 to 100800 (28 h)"
    yield from _entra_faults(config) if config.kind is IssuerKind.ENTRA else _plain_faults(config)


def _entra_faults(config: IssuerConfig) -> Iterable[str]:
    if config.issuer or config.discovery_url or config.jwks_url:
        yield "an Entra issuer is given by `tenants`, not by `issuer`, `discovery_url` or `jwks_url`"
    if not config.tenants:
        yield "`tenants` must list the directory ids that are accepted"
    for tenant in config.tenants:
        if GUID.fullmatch(tenant) is None:
            yield f"tenant `{tenant}` must be a directory id: a lower-case GUID, never `common` or a domain name"
        if tenant == PERSONAL_ACCOUNTS:
            yield "the directory of personal accounts cannot be trusted: anyone is in it"
    if not config.versions or set(config.versions) - {"1.0", "2.0"}:
        yield '`versions` must be "1.0", "2.0" or both'
    for name, url in (("authority", config.authority), ("sts_authority", config.sts_authority)):
        if url_fault(url) or url.endswith("/"):
            yield f"`{name}` must be an https origin without a trailing slash"


def _plain_faults(config: IssuerConfig) -> Iterable[str]:
    if config.tenants:
        yield "`tenants` is for Entra issuers"
    # SECURITY: `|` parts tenant, issuer and subject in the ids that policies see.
    if _VISIBLE.fullmatch(config.issuer) is None or "|" in config.issuer:
        yield "`issuer` must be the exact `iss` string, without `|`"
        return
    for name, url in (("issuer", config.issuer), ("discovery_url", config.discovery_url), ("jwks_url", config.jwks_url)):
        if url and (fault := url_fault(url)):
            yield f"`{name}` {fault}"
    if config.kind is IssuerKind.DEVELOPMENT and not is_loopback_url(config.issuer):
        yield "a development issuer lives on loopback alone"
