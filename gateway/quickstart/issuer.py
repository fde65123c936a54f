"""A real OpenID Connect issuer for development: discovery, key set and token endpoint, with one client per identity.

It exists so that a gateway on one machine verifies tokens exactly as in production. It is not for production: its clients'
secrets are derived from its key, it knows six made-up people, and it refuses to bind to anything but loopback.

Specification: OpenID Connect Discovery 1.0, RFC 6749 section 4.4 (client credentials), RFC 7517, RFC 9068.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

AUDIENCE: Final = "api://gateway-dev"
DIRECTORY_ID: Final = "00000000-0000-4000-8000-00000000de11"
LIFETIME_S: Final = 12 * 3600
KEY_FILE: Final = "issuer-keys.pem"
_MAX_FORM: Final = 4096
_MAX_PUBLISHED: Final = 2  # the signing key and the one before it
_NAMESPACE: Final = uuid.UUID("6b1f6f3e-7c0e-4f0a-9f2d-3d1a4a9b5c00")
_log = logging.getLogger("gateway.quickstart.issuer")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Someone the development issuer vouches for."""

    name: str
    roles: tuple[str, ...]
    application: bool = False

    @property
    def object_id(self) -> str:
        return str(uuid.uuid5(_NAMESPACE, self.name))


IDENTITIES: Final[Mapping[str, Identity]] = {
    one.name: one
    for one in (
        Identity(name="analyst", roles=("analyst",)),
        Identity(name="developer", roles=("developer",)),
        Identity(name="auditor", roles=("auditor",)),
        Identity(name="operator", roles=("operator",)),
        Identity(name="outsider", roles=()),
        Identity(name="loadtest", roles=("loadtest",), application=True),
    )
}


class SigningKey(msgspec.Struct, frozen=True):
    kid: str
    private: rsa.RSAPrivateKey

    @classmethod
    def make(cls) -> SigningKey:
        return cls.of(rsa.generate_private_key(public_exponent=65537, key_size=2048))

    @classmethod
    def of(cls, private: rsa.RSAPrivateKey) -> SigningKey:
        der = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(base64.urlsafe_b64encode(hashlib.sha256(der).digest()[:12]).decode("ascii"), private)

    def public_jwk(self) -> dict[str, str]:
        numbers = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": numbers["n"], "e": numbers["e"]}

    def pem(self) -> bytes:
        return self.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class DevelopmentIssuer:
    """The keys, the claims and the endpoints. `clock` is seconds since 1970."""

    def __init__(self, base_url: str, *, state: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Load the keys in `state` (a directory, made 0700) or make one. Raises `NotLoopback` for any other `base_url`."""
        require_loopback(urlsplit(base_url).hostname or "")
        self.issuer = base_url.rstrip("/")
        self._clock = clock
        self._state = state
        self._keys: tuple[SigningKey, ...] = _load(state) if state is not None else ()
        if not self._keys:
            self._keys = (SigningKey.make(),)
            self._save()
        _log.warning("development issuer at %s: its tokens are for trying the gateway on this machine, never for production", self.issuer)

    def mint(self, identity: str, ttl_s: int = LIFETIME_S, **overrides: Any) -> str:
        """Return a signed access token for a named identity. `overrides` replace claims; None removes one. `KeyError` if unknown."""
        claims = self.claims(IDENTITIES[identity], ttl_s) | overrides
        key = self._keys[0]
        present = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(present, key.private, algorithm="RS256", headers={"kid": key.kid, "typ": "at+jwt"})

    def claims(self, identity: Identity, ttl_s: int) -> dict[str, Any]:
        now_s = int(self._clock())
        token_id = secrets.token_urlsafe(16)
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": f"dev-{identity.name}",
            "tid": DIRECTORY_ID,
            "oid": identity.object_id,
            "azp": str(uuid.uuid5(_NAMESPACE, f"client:{identity.name}")),
            "idtyp": "app" if identity.application else "user",
            "roles": list(identity.roles),
            "iat": now_s,
            "nbf": now_s,
            "exp": now_s + ttl_s,
            "uti": token_id,
            "jti": token_id,
        }
        return claims if identity.application else claims | {"scp": "inference.use"}

    def rotate(self) -> str:
        """Sign with a new key from now on, publish the old one beside it, and return the new kid."""
        self._keys = (SigningKey.make(), *self._keys)[:_MAX_PUBLISHED]
        self._save()
        return self._keys[0].kid

    def withdraw_old_keys(self) -> None:
        """Publish the signing key alone: tokens of earlier keys stop verifying."""
        self._keys = self._keys[:1]
        self._save()

    def client_secret(self, identity: str) -> str:
        """Return the secret of a development client, derived from the oldest published key: nothing more to store."""
        return hmac.new(hashlib.sha256(self._keys[-1].pem()).digest(), identity.encode("ascii"), hashlib.sha256).hexdigest()

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.public_jwk() for key in self._keys]}

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/keys",
            "token_endpoint": f"{self.issuer}/token",
            "response_types_supported": ["token"],
            "grant_types_supported": ["client_credentials"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        }

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/keys", self._jwks),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    async def _discovery(self, request: Request) -> Response:
        return JSONResponse(self.discovery())

    async def _jwks(self, request: Request) -> Response:
        return JSONResponse(self.jwks())

    async def _token(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM:
                return _error("invalid_request", 413)
        try:
            pairs = parse_qsl(body.decode("ascii"), strict_parsing=True, max_num_fields=16)
        except (UnicodeDecodeError, ValueError):
            return _error("invalid_request")
        form = dict(pairs)
        if len(form) != len(pairs):
            return _error("invalid_request")
        if form.get("grant_type") != "client_credentials":
            return _error("unsupported_grant_type")
        client, secret = _client(request.headers.get("authorization", ""), form)
        known = client if client in IDENTITIES else "outsider"
        # SECURITY: an unknown client takes the same comparison as a known one.
        matches = hmac.compare_digest(self.client_secret(known).encode(), secret.encode("utf-8", "replace"))
        if not matches or known != client:
            return _error("invalid_client", 401)
        token = {"access_token": self.mint(client, LIFETIME_S), "token_type": "Bearer", "expires_in": LIFETIME_S}
        return JSONResponse(token, headers={"cache-control": "no-store"})

    def _save(self) -> None:
        if self._state is None:
            return
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._state / f".{KEY_FILE}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(key.pem() for key in self._keys))
        temporary.replace(self._state / KEY_FILE)


class NotLoopback(ValueError):
    """Development identities are not served to a network."""


def require_loopback(host: str) -> None:
    """Raise `NotLoopback` unless `host` is a loopback address. Call before binding any development service."""
    if host != "localhost":
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise NotLoopback(f"development identities and simulators listen on loopback alone, not on `{host}`")


def write_tokens(issuer: DevelopmentIssuer, directory: Path, names: Sequence[str] = tuple(IDENTITIES)) -> dict[str, Path]:
    """Write `<name>.jwt` (0600) for each identity and return the paths."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for name in names:
        path = directory / f"{name}.jwt"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(issuer.mint(name))
        written[name] = path
    return written


def _client(authorization: str, form: Mapping[str, str]) -> tuple[str, str]:
    if authorization[:6].lower() != "basic ":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        client, _, secret = base64.b64decode(authorization[6:], validate=True).decode("utf-8").partition(":")
    except ValueError:
        return "", ""
    return client, secret


def _error(code: str, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": code}, status_code=status, headers={"cache-control": "no-store"})


def _load(state: Path) -> tuple[SigningKey, ...]:
    path = state / KEY_FILE
    if not path.exists():
        return ()
    end = b"-----END PRIVATE KEY-----\n"
    keys = []
    for block in path.read_bytes().split(end)[:-1]:
        private = serialization.load_pem_private_key(block + end, password=None)
        if isinstance(private, rsa.RSAPrivateKey):
            keys.append(SigningKey.of(private))
    return tuple(keys)
