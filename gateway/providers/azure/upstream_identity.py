"""Which identity does the gateway show to a backend, and what holds its token? One `BackendCredential` for each that settings name.

Here meet the parts: who answers (`managed_identity`, `msal_client`), who keeps (`token_keeper`), who is spoken for
(`on_behalf_of`). The SDK is imported when an identity is made, so a gateway without one neither needs it nor pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from gateway.evidence import Subject
from gateway.ports import BackendCredential, CallerHeaders, UpstreamError
from gateway.providers.azure.managed_identity import ManagedIdentity
from gateway.providers.azure.msal_client import Application, MsalClient, Reveal
from gateway.providers.azure.on_behalf_of import OnBehalfOf
from gateway.providers.azure.token_keeper import Acquire, Flights, Headers, NoToken, TokenKeeper

COGNITIVE_SERVICES: Final = "https://cognitiveservices.azure.com/.default"


class IdentityConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One identity, complete: what settings leave to the environment has been filled in."""

    name: str  # of the backend, for logs
    kind: str  # managed, workload, client_secret, client_certificate, on_behalf_of
    client_id: str = ""
    tenant: str = ""
    scope: str = COGNITIVE_SERVICES
    authority: str = "https://login.microsoftonline.com"
    ca_file: str | None = None
    federated_token_file: str = ""
    client_secret: Reveal | None = None
    client_certificate: Reveal | None = None


class ApplicationCredential:
    """`BackendCredential` that speaks for the gateway itself: one token, whoever asked."""

    personal = False

    def __init__(self, name: str, acquire: Acquire, flights: Flights, draw: Callable[[], float]) -> None:
        self._acquire = acquire
        self._keeper = TokenKeeper(name, flights, draw)

    async def headers(self, subject: Subject | None, caller: CallerHeaders | None, now_s: float) -> Headers:
        """Return the headers of the gateway's own token. Raises `UpstreamError("credential", ...)`."""
        try:
            return (await self._keeper.get(self._acquire, now_s)).headers
        except NoToken as failed:
            raise UpstreamError("credential", failed.why) from None

    def rejected(self, subject: Subject | None, now_s: float) -> None:
        """Forget the token: the backend did not take it."""
        self._keeper.reject(now_s)

    async def ready(self, now_s: float) -> bool:
        """Return whether a token can be had."""
        try:
            await self._keeper.get(self._acquire, now_s)
        except NoToken:
            return False
        return True

    async def aclose(self) -> None:
        await self._keeper.aclose()


def backend_credential(config: IdentityConfig, flights: Flights, draw: Callable[[], float]) -> BackendCredential:
    """Return the credential settings describe. Asks nobody. Raises `SdkMissing`, `OSError` for an unreadable CA file."""
    if config.kind == "on_behalf_of":
        return OnBehalfOf(config.name, _client(config), flights, draw, directory=config.tenant)
    return application_credential(config, flights, draw)


def application_credential(config: IdentityConfig, flights: Flights, draw: Callable[[], float]) -> ApplicationCredential:
    """Return the credential of the gateway itself. Raises as `backend_credential`, and `ValueError` for a kind that speaks for others."""
    if config.kind == "on_behalf_of":
        raise ValueError("an identity of the gateway's own cannot be `on_behalf_of`")
    if config.kind == "managed":
        return ApplicationCredential(config.name, ManagedIdentity(config.scope, config.client_id).acquire, flights, draw)
    return ApplicationCredential(config.name, _client(config).for_application, flights, draw)


def _client(config: IdentityConfig) -> MsalClient:
    return MsalClient(
        Application(
            client_id=config.client_id,
            tenant=config.tenant,
            scope=config.scope,
            authority=config.authority.rstrip("/"),
            ca_file=config.ca_file,
            secret=config.client_secret,
            certificate=config.client_certificate,
            federated=Path(config.federated_token_file) if config.federated_token_file else None,
        )
    )
