"""How does the gateway prove to Entra ID which application it is? By secret, certificate or federated token, through MSAL.

Two grants: for the application itself (client credentials) and on behalf of a person (RFC 7523 as Entra extends it). MSAL's own
caches are switched off: `token_keeper` is the only place that keeps a token, so nothing outlives what it was kept for. Secrets
are asked for each time, so that one replaced at its source is used from then on without a restart.

Blocking: every method is for a thread. Specification: RFC 6749 section 4.4, RFC 7523, Entra ID's on-behalf-of flow.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.providers.azure.authority_http import AuthorityHttp
from gateway.providers.azure.token_keeper import NoToken
from gateway.providers.local.secrets import SecretMissing

MAX_FEDERATED_BYTES: Final = 16_384
MIN_RSA_BITS: Final = 2048
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----[A-Za-z0-9+/=\s]+-----END \1-----")

Reveal = Callable[[], bytes]


class SdkMissing(Exception):
    """Settings ask for an identity and the `azure` extra is not installed."""

    def __init__(self) -> None:
        super().__init__("the azure extra is not installed: pip install 'secure-inference-gateway[azure]'")


class CertificateFault(ValueError):
    """The client certificate cannot be used; the message never holds any of it."""


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """Which application the gateway is, where, and for what. Exactly one of `secret`, `certificate`, `federated` is given."""

    client_id: str
    tenant: str
    scope: str
    authority: str = "https://login.microsoftonline.com"
    ca_file: str | None = None
    secret: Reveal | None = None
    certificate: Reveal | None = None  # PEM: an unencrypted private key and its certificate
    federated: Path | None = None

    def __repr__(self) -> str:
        return f"Application({self.client_id})"


class Forgetful(dict[str, Any]):
    """MSAL's cache of HTTP answers, without the memory: how long a refusal counts is the keeper's decision."""

    def __setitem__(self, key: str, value: Any) -> None:
        return


class MsalClient:
    """One application at one authority. Makes MSAL's client when it is first asked, for that asks the authority too."""

    def __init__(self, application: Application) -> None:
        """Raises `SdkMissing`, `OSError` for a CA file that cannot be read."""
        try:
            self._msal: Any = import_module("msal")
        except ImportError:
            raise SdkMissing from None
        self._faults: tuple[type[Exception], ...] = (
            *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
            *(http.client.HTTPException, self._msal.exceptions.MsalError),
            import_module("jwt").PyJWTError,  # the SDK lets those of its signer through
        )
        self._application = application
        self._http = AuthorityHttp(urlsplit(application.authority).netloc, ca_file=application.ca_file)
        self._lock = threading.Lock()
        self._made: Any = None
        self._made_with = b""

    def __repr__(self) -> str:
        return f"MsalClient({self._application.client_id})"

    def for_application(self) -> Mapping[str, Any]:
        """Return the authority's answer to the client credentials grant. Raises `NoToken`."""
        return self._asked(lambda client: client.acquire_token_for_client([self._application.scope]))

    def for_user(self, assertion: str) -> Mapping[str, Any]:
        """Return the authority's answer to the on-behalf-of grant for a caller's verified token. Raises `NoToken`."""
        return self._asked(lambda client: client.acquire_token_on_behalf_of(assertion, [self._application.scope]))

    def _asked(self, ask: Callable[[Any], Any]) -> Mapping[str, Any]:
        self._http.forget()
        try:
            answer = ask(self._client())
        except NoToken:
            raise
        except SecretMissing:
            raise NoToken("the client's credential is not available") from None
        except self._faults as fault:
            # SECURITY: `from None`, and no word of the fault: an SDK's message may quote what it was given.
            raise NoToken(f"the authority could not be asked ({type(fault).__name__})", retry_after_s=self._http.retry_after_s) from None
        if not isinstance(answer, dict):
            raise NoToken("the authority's answer holds no token", retry_after_s=self._http.retry_after_s)
        return {**answer, "retry_after_s": self._http.retry_after_s}

    def _client(self) -> Any:
        with self._lock:
            shown = self._shown()
            if self._made is None or shown != self._made_with:
                self._made, self._made_with = self._make(shown), shown
            return self._made

    def _shown(self) -> bytes:
        application = self._application
        source = application.secret or application.certificate
        return source() if source is not None else b""

    def _make(self, shown: bytes) -> Any:
        application = self._application
        credential: Any
        if application.federated is not None:
            credential = {"client_assertion": self._federated}
        elif application.certificate is not None:
            key, certificates = certificate_parts(shown)
            credential = {"private_key": key, "public_certificate": certificates}
        else:
            credential = shown.decode("utf-8")
        return self._msal.ConfidentialClientApplication(
            application.client_id,
            client_credential=credential,
            authority=f"{application.authority}/{application.tenant}",
            http_client=self._http,
            http_cache=Forgetful(),
            token_cache=no_cache(self._msal),
            # The authority comes from settings, never from a request: nobody else need be asked whether it is a known one.
            instance_discovery=False,
            enable_pii_log=False,
        )

    def _federated(self) -> str:
        """Return the projected token as it is now: it is replaced in place long before it expires."""
        return federated_token(self._application.federated or Path())


def no_cache(msal: Any) -> Any:
    """Return a token cache for MSAL that keeps nothing."""
    cache = msal.TokenCache()
    cache.add = lambda *_, **__: None
    return cache


def federated_token(path: Path) -> str:
    """Return the token in a projected file. Raises `NoToken`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FEDERATED_BYTES + 1)
        text = data.decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise NoToken("the federated token file cannot be read") from None
    if not text or len(data) > MAX_FEDERATED_BYTES:
        raise NoToken("the federated token file is empty or larger than 16 KiB")
    return text


def certificate_parts(pem: bytes) -> tuple[str, str]:
    """Return (private key, certificates) of one PEM text. Raises `CertificateFault`."""
    parts = [(found[1], found[0]) for found in _PEM.finditer(pem)]
    keys = [text for label, text in parts if label.endswith(b"PRIVATE KEY")]
    certificates = [text for label, text in parts if label == b"CERTIFICATE"]
    if len(keys) != 1 or not certificates:
        raise CertificateFault("needs one private key and its certificate, both PEM")
    try:
        private = serialization.load_pem_private_key(keys[0], password=None)
        certificate = x509.load_pem_x509_certificate(certificates[0])
    except (ValueError, TypeError):
        raise CertificateFault("the private key is encrypted, or it or the certificate is malformed") from None
    if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < MIN_RSA_BITS:
        raise CertificateFault(f"the private key must be RSA of at least {MIN_RSA_BITS} bits: the authority takes no other")
    if private.public_key() != certificate.public_key():
        raise CertificateFault("the first certificate is not the private key's")
    return keys[0].decode("ascii"), b"\n".join(certificates).decode("ascii")
