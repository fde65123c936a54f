"""Is this token genuine, for us, and valid now? Fifteen numbered steps an auditor can tick off; no I/O, no clock.

`verify_token` returns what was proven or raises `Rejected` naming the step. It never fetches, never asks the token where
its key is, never tries a second key, and knows asymmetric algorithms alone. Nothing of the token is in a rejection.

Specification: RFC 7515 (JWS compact serialisation), RFC 7519 (JWT), RFC 8725 (best current practice), RFC 9068 (access
tokens); Entra ID access token forms v1 and v2; Kubernetes bound service-account tokens. What each step adds to a plain
library call is said where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.identity.claims import Rejected, Step, VerifiedClaims, describe
from gateway.identity.encoding import NotStrict, decode_base64url, parse_object
from gateway.identity.issuers import IssuerKind, TrustedIssuer, forbidden_kubernetes_audience
from gateway.identity.jwks import MAX_KID, KeySet, VerificationKey

MAX_TOKEN: Final = 16 * 1024  # a token with 200 groups is about 9 KiB; 5 MB cost 0.6 s of CPU to refuse after parsing
MAX_HEADER: Final = 2 * 1024
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Extensions and key material that a token may not bring along (RFC 8725 sections 3.9 and 3.10; CVE-2026-32597, CVE-2026-48525).
_FORBIDDEN_HEADERS: Final = frozenset({"crit", "b64", "zip", "jku", "x5u", "x5c", "jwk", "cty"})
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_END_OF_TIME: Final = 1 << 40

KeySetOf = Callable[[str], KeySet | None]


class KeyUnknown(Rejected):
    """The issuer is trusted and its key set has no such key: the one rejection a fresh key set may change."""

    def __init__(self, iss: str, kid: str) -> None:
        super().__init__(Step.KEY, "no key of that kid")
        self.iss = iss
        self.kid = kid


class Opened:
    """A token split and read, nothing believed yet."""

    __slots__ = ("algorithm", "kid", "payload", "signature", "signed")

    def __init__(self, algorithm: str, kid: str, signed: bytes, payload: str, signature: bytes) -> None:
        self.algorithm = algorithm
        self.kid = kid
        self.signed = signed
        self.payload = payload
        self.signature = signature


def verify_token(token: str, trusted: Mapping[str, TrustedIssuer], keyset_of: KeySetOf, now_s: int) -> VerifiedClaims:
    """Return the verified claims of `token` at `now_s` (seconds since 1970). Raises `Rejected`, of which `KeyUnknown` is one.

    `trusted` is keyed by exact `iss`; `keyset_of` gives the pinned key set of one, None where there is none usable. The
    result holds only claims this gateway understands.
    """
    opened = open_token(token)  # 1 to 4
    claims = _read_claims(opened)  # 5
    issuer = _select_issuer(claims, trusted)  # 6
    key = _select_key(opened, issuer, keyset_of)  # 7, 8
    check_signature(opened, key, issuer.algorithms)  # 9
    # INVARIANT: every claim read above this line was only used to choose by exact match among configured values.
    issued_at_s, not_before_s, expires_at_s = _check_times(claims, issuer, now_s)  # 10
    _check_audience(claims, issuer)  # 11
    _check_directory(claims, issuer)  # 12
    _check_key_issuer(claims, issuer, key)  # 13
    return describe(  # 14, 15
        claims, issuer, key=key, issued_at_s=issued_at_s, not_before_s=not_before_s, expires_at_s=expires_at_s
    )


def open_token(token: str) -> Opened:
    """Steps 1 to 4: size, shape, encoding, header. Raises `Rejected`."""
    # 1. Size, before anything looks at the content.
    if len(token) > MAX_TOKEN:
        raise Rejected(Step.SIZE, "longer than 16 KiB")
    # 2. Shape: three non-empty parts. Five parts (JWE) end here; so do padding, white space and every other alphabet.
    if _COMPACT.fullmatch(token) is None:
        raise Rejected(Step.SHAPE, "not three base64url parts")
    signed, _, signature_text = token.rpartition(".")
    header_text, _, payload_text = signed.partition(".")
    # 3. Encoding: canonical, so that one token has one spelling (the verified-token cache is keyed by the text).
    if len(header_text) > MAX_HEADER * 4 // 3:
        raise Rejected(Step.HEADER, "header longer than 2 KiB")
    try:
        header_bytes, signature = decode_base64url(header_text), decode_base64url(signature_text)
    except NotStrict as fault:
        raise Rejected(Step.ENCODING, str(fault)) from None
    # 4. Header: one strict JSON object without extensions, of an allowed type.
    try:
        header = parse_object(header_bytes)
    except NotStrict as fault:
        raise Rejected(Step.HEADER, str(fault)) from None
    if not _FORBIDDEN_HEADERS.isdisjoint(header):
        raise Rejected(Step.HEADER, "a forbidden header parameter")
    if "typ" in header:
        # SECURITY: logout tokens and others are signed by the same keys; only access-token types pass (RFC 8725 section 3.11).
        typ = header["typ"]
        if type(typ) is not str or typ.lower() not in _TYPES:
            raise Rejected(Step.HEADER, "typ is not an access token's")
    # Algorithm and key id are strings; whether they are allowed depends on the issuer.
    algorithm, kid = header.get("alg"), header.get("kid")
    if type(algorithm) is not str:
        raise Rejected(Step.HEADER, "alg is not a string")
    if type(kid) is not str or not 0 < len(kid) <= MAX_KID:
        raise Rejected(Step.HEADER, "kid is missing or longer than 256")
    return Opened(algorithm, kid, signed.encode("ascii"), payload_text, signature)


def _read_claims(opened: Opened) -> dict[str, Any]:
    # 5. Claims: one strict JSON object. Duplicate names are refused here, where a plain parser lets the last one win.
    try:
        return parse_object(decode_base64url(opened.payload))
    except NotStrict as fault:
        raise Rejected(Step.CLAIMS, str(fault)) from None


def _select_issuer(claims: Mapping[str, Any], trusted: Mapping[str, TrustedIssuer]) -> TrustedIssuer:
    # 6. Issuer: the whole string equals a configured one. SECURITY: CVE-2024-53861, a part of the issuer was enough.
    iss = claims.get("iss")
    if type(iss) is not str or (issuer := trusted.get(iss)) is None:
        raise Rejected(Step.ISSUER, "iss is not a configured issuer")
    return issuer


def _select_key(opened: Opened, issuer: TrustedIssuer, keyset_of: KeySetOf) -> VerificationKey:
    # 7. Algorithm: on the issuer's list, which holds asymmetric names alone.
    if opened.algorithm not in issuer.algorithms:
        raise Rejected(Step.ALGORITHM, "alg is not allowed for the issuer")
    # 8. Key: by kid, from the pinned key set of this issuer and of no other.
    keyset = keyset_of(issuer.iss)
    key = None if keyset is None else keyset.keys.get(opened.kid)
    if key is None:
        raise KeyUnknown(issuer.iss, opened.kid)
    return key


def check_signature(opened: Opened, key: VerificationKey, algorithms: frozenset[str]) -> None:
    """Step 9: the signature, with the algorithm that issuer, token and key agree on. Raises `Rejected`."""
    # SECURITY: CVE-2022-29217, CVE-2026-48526, CVE-2026-48523: the key decides what may be done with it, not the header.
    prepared = key.by_algorithm.get(opened.algorithm)
    if prepared is None or opened.algorithm not in algorithms:
        raise Rejected(Step.ALGORITHM, "alg does not fit the key")
    if not prepared.Algorithm.verify(opened.signed, prepared.key, opened.signature):
        raise Rejected(Step.SIGNATURE, "the signature does not verify")


def _check_times(claims: Mapping[str, Any], issuer: TrustedIssuer, now_s: int) -> tuple[int, int, int]:
    # 10. Times: whole seconds in a sane range; valid now within the leeway; and not for longer than the issuer's cap.
    expires_at_s, issued_at_s = _seconds(claims, "exp"), _seconds(claims, "iat")
    required = issuer.kind is not IssuerKind.OIDC  # some OpenID providers write no `nbf`; the named kinds all do
    not_before_s = _seconds(claims, "nbf") if required or "nbf" in claims else issued_at_s
    leeway = issuer.leeway_s
    if now_s >= expires_at_s + leeway:
        raise Rejected(Step.TIME, "expired")
    if not_before_s > now_s + leeway:
        raise Rejected(Step.TIME, "not valid yet")
    if issued_at_s > now_s + leeway:
        raise Rejected(Step.TIME, "issued in the future")
    if expires_at_s <= issued_at_s or expires_at_s <= not_before_s:
        raise Rejected(Step.TIME, "expires before it begins")
    if expires_at_s - issued_at_s > issuer.max_lifetime_s + leeway:
        raise Rejected(Step.TIME, "lives longer than the issuer may say")
    return issued_at_s, not_before_s, expires_at_s


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    # SECURITY: strings, floats, booleans and 1e308 are all taken by lenient libraries. `type`, as True is an int.
    value = claims.get(name)
    if type(value) is not int or not 0 < value < _END_OF_TIME:
        raise Rejected(Step.TIME, f"{name} is not whole seconds in range")
    return value


def _check_audience(claims: Mapping[str, Any], issuer: TrustedIssuer) -> None:
    # 11. Audience: the one exact string we are. A list would make the token good elsewhere too.
    audience = claims.get("aud")
    if issuer.kind is IssuerKind.KUBERNETES:
        # The API server always writes a list; with a single member it says what a string says.
        if type(audience) is list and len(audience) == 1:
            audience = audience[0]
        if type(audience) is str and forbidden_kubernetes_audience(audience, issuer.iss):
            raise Rejected(Step.AUDIENCE, "a service-account token for another door; project one with the gateway's own audience")
    if type(audience) is str:
        if audience not in issuer.audiences:
            raise Rejected(Step.AUDIENCE, "aud is not this gateway")
        return
    if type(audience) is not list or not issuer.audience_lists or issuer.kind is IssuerKind.KUBERNETES:
        raise Rejected(Step.AUDIENCE, "aud is missing or a list")
    if len(audience) > 16 or any(type(one) is not str for one in audience) or issuer.audiences.isdisjoint(audience):
        raise Rejected(Step.AUDIENCE, "aud does not name this gateway")


def _check_directory(claims: Mapping[str, Any], issuer: TrustedIssuer) -> None:
    # 12. Directory (Entra): `tid` is the path segment of `iss`, which is on the list; `ver` is the form `iss` belongs to.
    if issuer.kind is not IssuerKind.ENTRA:
        return
    if claims.get("tid") != issuer.directory_id:
        raise Rejected(Step.DIRECTORY, "tid is not the directory of iss")
    if claims.get("ver") != issuer.version:
        raise Rejected(Step.DIRECTORY, "ver does not belong to this form of iss")


def _check_key_issuer(claims: Mapping[str, Any], issuer: TrustedIssuer, key: VerificationKey) -> None:
    # 13. Key issuer (Entra): one document carries keys of several issuers, and a key signs only for its own.
    # Key documents name the v2 form for both token versions, so either form of the very same directory will do.
    if issuer.kind is not IssuerKind.ENTRA or not key.issuer:
        return
    if key.issuer.replace("{tenantid}", issuer.directory_id) not in (issuer.iss, issuer.sibling_iss):
        raise Rejected(Step.KEY_ISSUER, "the key belongs to another issuer")
