"""How does an Azure SDK get a token from an identity of ours? A credential object in the SDK's shape over a `BackendCredential`.

One keeper for all tokens: refreshed ahead, single flight, bounded threads. Must not keep a token itself.
"""

from __future__ import annotations

import importlib
import time
from typing import Any, Self

from gateway.providers.azure.upstream_identity import ApplicationCredential


class SdkCredential:
    """`azure.core.credentials_async.AsyncTokenCredential` for one scope: the one the identity was made for.

    Raises `ImportError` without the `azure` extra.
    """

    def __init__(self, identity: ApplicationCredential) -> None:
        self._identity = identity
        self._core: Any = importlib.import_module("azure.core.credentials")

    async def get_token_info(self, *scopes: str, options: Any = None) -> Any:
        """Return the token. Raises `UpstreamError("credential", ...)`."""
        token, expires_on = await self._token()
        return self._core.AccessTokenInfo(token, expires_on)

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        """As `get_token_info`, for SDKs that know only this."""
        token, expires_on = await self._token()
        return self._core.AccessToken(token, expires_on)

    async def _token(self) -> tuple[str, int]:
        now_s = time.time()
        ((_, value),) = await self._identity.headers(None, None, now_s)
        # The SDK renews five minutes before the end it is told: told less, it asks each time, and the keeper answers from memory.
        return value.decode("ascii").removeprefix("Bearer "), int(now_s) + 60

    async def close(self) -> None:
        """End what is under way."""
        await self._identity.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
