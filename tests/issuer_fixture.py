"""A token issuer under a test's control: keys, documents, tokens valid or wrong in one chosen way, a fake document source.

issuer = FakeIssuer()                      # an Entra-v2-like directory
token = issuer.token(roles=["analyst"])    # any claim replaced; None removes one
authenticator = issuer.authenticator()     # keys fetched from memory, one tenant `acme`
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.identity.authenticate import Authenticator
from gateway.identity.issuers import IssuerConfig, IssuerKind, TrustedIssuer, trust
from gateway.identity.jwks import KeySet, admit
from gateway.identity.keyset import KeySets, Timing
from gateway.identity.subject import TenantRule, Tenants

NOW = 1_800_000_000
TID = "11111111-2222-4333-8444-555555555555"
OID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
CLIENT = "99999999-8888-4777-8666-555555555555"
AUDIENCE = "77777777-6666-4555-8444-333333333333"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@functools.cache
def rsa_key(name: str = "one", bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def ec_key(name: str = "one") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def ed_key(name: str = "one") -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public_jwk(key: Any, kid: str, **members: Any) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm, ed25519.Ed25519PrivateKey: OKPAlgorithm}
    algorithm = next(one for kind, one in kinds.items() if isinstance(key, kind))
    jwk = algorithm.to_jwk(key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    return {name: value for name, value in (jwk | {"kid": kid, "use": "sig"} | members).items() if value is not None}


class FakeClock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeDocuments:
    """`DocumentSource` from memory. A value may be bytes, an exception to raise, or a function giving either."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.fetched: list[str] = []
        self.gate: asyncio.Event | None = None  # when set, fetches wait for it

    async def fetch(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
        self.fetched.append(url)
        if self.gate is not None:
            await self.gate.wait()
        document = self.documents.get(url, ConnectionRefusedError(url))
        if callable(document):
            document = document()
        if isinstance(document, Exception):
            raise document
        return document


class FakeIssuer:
    def __init__(
        self, kind: IssuerKind = IssuerKind.ENTRA, *, key: Any = None, kid: str = "kid-1", algorithm: str = "RS256", **config: Any
    ) -> None:
        defaults: dict[str, Any] = {"name": kind.value, "kind": kind, "audiences": (AUDIENCE, "api://gateway"), "algorithms": (algorithm,)}
        if kind is IssuerKind.ENTRA:
            defaults["tenants"] = (TID,)
        elif kind is IssuerKind.DEVELOPMENT:
            defaults["issuer"] = "http://127.0.0.1:8400"
        else:
            defaults["issuer"] = "https://issuer.example"
        self.config = IssuerConfig(**(defaults | config))
        self.trusted: dict[str, TrustedIssuer] = trust([self.config])
        self.iss = next((iss for iss in self.trusted if iss.endswith("/v2.0")), next(iter(self.trusted)))
        self.key = key or rsa_key()
        self.kid = kid
        self.algorithm = algorithm
        self.jwks: list[dict[str, Any]] = [public_jwk(self.key, kid)]
        self.source = FakeDocuments()
        self.clock = FakeClock()
        self.publish()

    def publish(self) -> None:
        for iss, issuer in self.trusted.items():
            self.source.documents[issuer.discovery_url] = json.dumps({"issuer": iss, "jwks_uri": self.keys_url(iss)}).encode()
            self.source.documents[self.keys_url(iss)] = lambda: json.dumps({"keys": self.jwks}).encode()

    def keys_url(self, iss: str | None = None) -> str:
        return (iss or self.iss).rstrip("/") + "/keys"

    def claims(self, **changes: Any) -> dict[str, Any]:
        claims: dict[str, Any] = {
            "iss": self.iss,
            "aud": AUDIENCE,
            "sub": "pairwise-subject",
            "tid": TID,
            "oid": OID,
            "azp": CLIENT,
            "azpacr": "1",
            "ver": "2.0",
            "scp": "inference.use",
            "roles": ["analyst"],
            "iat": NOW - 10,
            "nbf": NOW - 10,
            "exp": NOW + 3600,
            "uti": "token-id-1",
        }
        if self.config.kind is IssuerKind.KUBERNETES:
            claims = {name: claims[name] for name in ("iss", "iat", "nbf", "exp")} | {
                "aud": [AUDIENCE],
                "sub": "system:serviceaccount:prod:caller",
                "jti": "token-id-1",
                "kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "caller", "uid": OID}, "pod": {"name": "caller-0"}},
            }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, *, header: dict[str, Any] | None = None, key: Any = None, algorithm: str | None = None, **changes: Any) -> str:
        headers = {"kid": self.kid, "typ": "JWT"} | (header or {})
        payload = json.dumps(self.claims(**changes)).encode()  # the signing layer alone: the claims layer corrects mistakes
        return jwt.PyJWS().encode(payload, key or self.key, algorithm=algorithm or self.algorithm, headers=headers)

    def raw(self, header: bytes, payload: bytes, *, key: Any = None) -> str:
        """Sign any two byte strings with RS256, as no library would."""
        signed = f"{b64(header)}.{b64(payload)}"
        signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(signed.encode(), key or self.key)
        return f"{signed}.{b64(signature)}"

    def keyset(self) -> KeySet:
        return admit(json.dumps({"keys": self.jwks}).encode(), self.config.algorithms)

    def keyset_of(self) -> Callable[[str], KeySet | None]:
        return {iss: self.keyset() for iss in self.trusted}.get

    def keysets(self, timing: Timing | None = None) -> KeySets:
        return KeySets(self.trusted, self.source, self.clock, timing)

    def tenants(self, *rules: TenantRule) -> Tenants:
        return Tenants(rules or [TenantRule(tenant="acme", issuer=iss) for iss in self.trusted], self.trusted)

    async def authenticator(self, *rules: TenantRule, timing: Timing | None = None, **more: Any) -> Authenticator:
        keysets = self.keysets(timing)
        await keysets.refresh()
        return Authenticator(self.trusted, keysets, self.tenants(*rules), **more)


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"gateway"), (b"authorization", b"Bearer " + token.encode("utf-8"))]
