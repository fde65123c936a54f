"""Which keys of a published key set may verify tokens?

An issuer's document is input like any other: each key is admitted by its own merits, everything else is dropped and
counted. A key that is admitted can do one thing: verify signatures of the algorithms that fit it.

Specification: RFC 7517 (JWK), RFC 7518 section 6, RFC 8725 sections 3.1 to 3.5; NIST SP 800-131A for key sizes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import jwt
import msgspec
from jwt.exceptions import PyJWTError

from gateway.identity.encoding import NotStrict, decode_base64url, parse_object

MAX_KEYS: Final = 64  # large directories publish about ten
MAX_KID: Final = 256
_CURVES: Final = {"P-256": ("ES256", 32), "P-384": ("ES384", 48), "P-521": ("ES512", 66)}
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_MAX_RSA_BITS: Final = 8192  # verification time grows with the square of the modulus; nobody signs with more
_MAX_RSA_EXPONENT: Final = 1 << 32


def _roca_residues() -> tuple[tuple[int, frozenset[int]], ...]:
    primes = [p for p in range(3, 168) if all(p % q for q in range(2, p))]
    residues = ((p, frozenset(pow(65537, k, p) for k in range(p))) for p in primes)
    return tuple((p, powers) for p, powers in residues if len(powers) < p - 1)


# SECURITY: CVE-2017-15361 (ROCA). The broken generator's primes, and so its moduli, are powers of 65537 modulo every small
# prime. A sound modulus passes all of these by chance about once in 2^28.
_ROCA: Final = _roca_residues()


class VerificationKey(msgspec.Struct, frozen=True, kw_only=True):
    """An admitted public key. `by_algorithm` holds it prepared for each algorithm it may verify."""

    kid: str
    by_algorithm: Mapping[str, jwt.PyJWK]
    thumbprint: bytes  # RFC 7638 style: same thumbprint, same key material
    issuer: str = ""  # Entra: who signs with it, `{tenantid}` standing for any directory; "" where the set does not say


class KeySet(msgspec.Struct, frozen=True, kw_only=True):
    """What was admitted from one document, and why the rest was not."""

    keys: Mapping[str, VerificationKey]
    dropped: Mapping[str, int]


class KeySetInvalid(ValueError):
    """The document is not a key set at all; whoever holds an earlier one keeps it."""


class _Dropped(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def admit(document: bytes, algorithms: Iterable[str]) -> KeySet:
    """Return the keys in `document` fit to verify any of `algorithms`. Raises `KeySetInvalid` if it is no key set."""
    try:
        members = parse_object(document).get("keys")
    except NotStrict as fault:
        raise KeySetInvalid(str(fault)) from None
    if type(members) is not list or len(members) > MAX_KEYS or not all(type(member) is dict for member in members):
        raise KeySetInvalid("`keys` is not a list of at most 64 objects")
    return admit_members(members, algorithms)


def admit_members(members: Iterable[Mapping[str, Any]], algorithms: Iterable[str]) -> KeySet:
    allowed = frozenset(algorithms)
    dropped: Counter[str] = Counter()
    admitted: dict[str, VerificationKey] = {}
    members = list(members)
    # SECURITY: which of two keys of one name would verify is the attacker's choice or an accident: neither does, and a
    # name counts as taken even if the other bearer of it would have been dropped.
    named = Counter(str(member.get("kid")) for member in members)
    for member in members:
        try:
            key = _admit_one(member, allowed)
            if named[key.kid] > 1:
                raise _Dropped("duplicate kid")
            admitted[key.kid] = key
        except _Dropped as reason:
            dropped[reason.why] += 1
    return KeySet(keys=admitted, dropped=dict(dropped))


def _admit_one(jwk: Mapping[str, Any], allowed: frozenset[str]) -> VerificationKey:
    kid = jwk.get("kid")
    if type(kid) is not str or not 0 < len(kid) <= MAX_KID:
        raise _Dropped("kid missing or too long")
    if not _PRIVATE.isdisjoint(jwk):
        raise _Dropped("private or symmetric key material")
    if "use" in jwk and jwk["use"] != "sig":
        raise _Dropped("use is not sig")
    if "key_ops" in jwk:
        operations = jwk["key_ops"]
        if type(operations) is not list or any(type(name) is not str for name in operations):
            raise _Dropped("key_ops is not a list of names")
        if "verify" not in operations or not set(operations) <= {"verify", "sign"} or len(set(operations)) < len(operations):
            raise _Dropped("key_ops do not say verify")
    fits, material = _material(jwk)
    if "alg" in jwk:
        fits = tuple(name for name in fits if name == jwk["alg"])
    usable = tuple(name for name in fits if name in allowed)
    if not usable:
        raise _Dropped("no allowed algorithm fits the key")
    issuer = jwk.get("issuer", "")
    if type(issuer) is not str:
        raise _Dropped("issuer is not a string")
    # Only the members looked at above reach the library.
    bare = {name: jwk[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in jwk}
    try:
        prepared = {name: jwt.PyJWK(bare, algorithm=name) for name in usable}
    except (PyJWTError, ValueError, TypeError):
        raise _Dropped("not a valid public key") from None
    return VerificationKey(kid=kid, by_algorithm=prepared, thumbprint=hashlib.sha256(material).digest(), issuer=issuer)


def _material(jwk: Mapping[str, Any]) -> tuple[tuple[str, ...], bytes]:
    kty = jwk.get("kty")
    if kty == "RSA":
        modulus, exponent = _member(jwk, "n"), _member(jwk, "e")
        _check_rsa(int.from_bytes(modulus), int.from_bytes(exponent))
        return _RSA, b"RSA\0" + exponent + b"\0" + modulus
    if kty == "EC":
        curve = jwk.get("crv")
        if type(curve) is not str or curve not in _CURVES:
            raise _Dropped("curve not supported")
        algorithm, size = _CURVES[curve]
        x, y = _member(jwk, "x"), _member(jwk, "y")
        if len(x) != size or len(y) != size:
            raise _Dropped("coordinates do not fit the curve")
        return (algorithm,), b"EC\0" + curve.encode() + x + y
    if kty == "OKP" and jwk.get("crv") == "Ed25519":
        x = _member(jwk, "x")
        if len(x) != 32:
            raise _Dropped("coordinates do not fit the curve")
        return ("EdDSA",), b"OKP\0" + x
    raise _Dropped("kty not supported")


def _member(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    if type(value) is not str or not 0 < len(value) <= 2048:
        raise _Dropped("key material missing or too long")
    try:
        return decode_base64url(value)
    except NotStrict:
        raise _Dropped("key material is not canonical base64url") from None


def _check_rsa(modulus: int, exponent: int) -> None:
    if not 2048 <= modulus.bit_length() <= _MAX_RSA_BITS:
        raise _Dropped("RSA modulus outside 2048 to 8192 bits")
    if not 65537 <= exponent < _MAX_RSA_EXPONENT or exponent % 2 == 0 or modulus % 2 == 0:
        raise _Dropped("RSA exponent or modulus unsound")
    if all(modulus % prime in powers for prime, powers in _ROCA):
        raise _Dropped("RSA modulus has the ROCA fingerprint (CVE-2017-15361)")
