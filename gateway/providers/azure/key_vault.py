"""What does a secret in Azure Key Vault hold now? `keyvault:vault/secret[/version]` through the real SDK, one client a vault.

The SDK's own retries, redirects and proxies from the environment are switched off: our keeper decides when to ask again, and a token
goes to the vault's own host alone. The check that a vault's challenge speaks for that vault's domain stays on. SECURITY: nothing a vault
or an SDK says is repeated but error codes, since their messages may quote the request or the answer.

Not verified against live Azure: `docs/azure-live-checks.md` names what to try.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import time
from collections.abc import Callable
from typing import Any, Final

from gateway.ports import Secret, SecretMissing, SecretUnavailable, UpstreamError
from gateway.providers.azure.sdk_faults import retry_after_s
from gateway.providers.local.secrets import MAX_SECRET_BYTES

SCOPE: Final = "https://vault.azure.net/.default"
_REFERENCE: Final = re.compile(r"keyvault:([A-Za-z0-9-]+)/([A-Za-z0-9-]+)(?:/([0-9a-f]{32}))?")
_AT_ONCE: Final = 8
_CONNECT_S: Final = 3.0
_LATER: Final = frozenset((408, 409, 425, 429))
_WORDS: Final = {
    "SecretDisabled": "the secret is disabled",
    "ForbiddenByFirewall": "the vault's firewall does not let this address in",
    "ForbiddenByRbac": "the identity may not read it: grant it the role Key Vault Secrets User",
    "AccessDenied": "the identity may not read it: grant it the permission get on secrets",
    "ForbiddenByPolicy": "the identity may not read it: grant it the permission get on secrets",
}


class KeyVaultSecrets:
    """`SecretSource` for `keyvault:` references.

    `credential` is an async token credential in the SDK's sense, `vault_url` gives a vault's address by its name, `rejected` is told
    the seconds since 1970 when a vault did not accept the credential's token. Raises `ImportError` without the `azure` extra.
    """

    def __init__(
        self,
        credential: Any,
        vault_url: Callable[[str], str],
        *,
        refresh_s: float,
        timeout_s: float = 10.0,
        rejected: Callable[[float], None] | None = None,
        **sdk: Any,
    ) -> None:
        self.refresh_s: Final = refresh_s
        self._library: Any = importlib.import_module("azure.keyvault.secrets.aio")
        importlib.import_module("aiohttp")  # the SDK's transport, which it would miss only at the first request
        core: Any = importlib.import_module("azure.core.exceptions")
        self._http_error: type[Exception] = core.HttpResponseError
        malformed = (ValueError, TypeError, KeyError, AttributeError)
        self._errors: tuple[type[Exception], ...] = (core.AzureError, UpstreamError, OSError, *malformed)
        self._credential = credential
        self._vault_url = vault_url
        self._timeout_s = timeout_s
        self._rejected = rejected
        self._sdk = {"retry_total": 0, "permit_redirects": False, "use_env_settings": False, **sdk}
        self._clients: dict[str, Any] = {}
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, reference: str) -> Secret:
        """Return the secret's latest version, or the version named. Raises `SecretMissing`, `SecretUnavailable`."""
        found = _REFERENCE.fullmatch(reference)
        if found is None:
            raise SecretMissing(f"`{reference}`: must be keyvault:vault/secret or keyvault:vault/secret/version, 32 hex digits")
        vault, name, version = found.groups()
        try:
            async with asyncio.timeout(self._timeout_s), self._gate:
                answer = await self._client(vault).get_secret(
                    name, version, connection_timeout=_CONNECT_S, read_timeout=self._timeout_s, logging_enable=False
                )
            return _secret(reference, version or "", answer)
        except TimeoutError:
            raise SecretUnavailable(f"`{reference}`: the vault did not answer within {self._timeout_s:g} s") from None
        except self._errors as fault:
            # SECURITY: `from None`: the fault may hold the answer.
            raise self._judged(reference, fault) from None

    async def aclose(self) -> None:
        """Close the connections to every vault."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    def _client(self, vault: str) -> Any:
        client = self._clients.get(vault)
        if client is None:
            client = self._clients[vault] = self._library.SecretClient(self._vault_url(vault), self._credential, **self._sdk)
        return client

    def _judged(self, reference: str, fault: Exception) -> SecretMissing | SecretUnavailable:
        if isinstance(fault, UpstreamError):
            return SecretUnavailable(f"`{reference}`: no token for the vault: {fault.detail}")
        status = getattr(fault, "status_code", None)
        if not isinstance(fault, self._http_error) or not isinstance(status, int):
            if isinstance(fault, ValueError) and not isinstance(fault, UnicodeError):
                return SecretUnavailable(f"`{reference}`: the answer or the challenge does not fit: it may be no vault of this domain")
            return SecretUnavailable(f"`{reference}`: the vault cannot be reached or does not speak as one ({type(fault).__name__})")
        code = _code(fault)
        named = f" {code}" if code else ""
        if status == 401:
            if self._rejected is not None:
                self._rejected(time.time())
            return SecretUnavailable(f"`{reference}`: the vault does not accept the identity (401{named})")
        if status in _LATER or status >= 500 or 200 <= status < 400:
            wait_s = retry_after_s(getattr(getattr(fault, "response", None), "headers", None))
            return SecretUnavailable(f"`{reference}`: the vault answered {status}{named}", wait_s)
        if status == 404:
            return SecretMissing(f"`{reference}`: the vault holds no such secret or version (404{named})")
        return SecretMissing(f"`{reference}`: {_WORDS.get(code, 'the vault refuses it')} ({status}{named})")


def _secret(reference: str, wanted: str, answer: Any) -> Secret:
    """Return what an answer holds. Raises `SecretMissing`, `SecretUnavailable` for one that is no secret."""
    properties, value = answer.properties, answer.value
    if properties.enabled is False:
        raise SecretMissing(f"`{reference}`: the secret is disabled")
    version = properties.version
    if not isinstance(value, str) or not isinstance(version, str) or re.fullmatch(r"[0-9A-Za-z]{1,64}", version) is None:
        raise SecretUnavailable(f"`{reference}`: the vault's answer is no secret")
    if wanted and version != wanted:
        raise SecretUnavailable(f"`{reference}`: the vault answered with another version")
    data = value.encode("utf-8").strip()
    if not data or len(data) > MAX_SECRET_BYTES:
        raise SecretMissing(f"`{reference}`: the secret is empty or larger than 64 KiB")
    return Secret(data, version, properties.expires_on.timestamp() if properties.expires_on is not None else None)


def _code(fault: Any) -> str:
    """Return the innermost error code that is a plain word, "" where there is none."""
    error = getattr(fault, "error", None)
    inner = getattr(error, "innererror", None)
    codes = (inner.get("code") if isinstance(inner, dict) else None, getattr(error, "code", None))
    return next((code for code in codes if isinstance(code, str) and code.isascii() and code.isalnum() and len(code) <= 64), "")
