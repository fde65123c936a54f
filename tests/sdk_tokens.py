"""A token credential in the shape Azure SDKs ask for, whose tokens mean nothing anywhere else."""

from __future__ import annotations

import time
from typing import Any

from azure.core.credentials import AccessToken, AccessTokenInfo


class CountingCredential:
    """Gives `token-N`, a new one for each time it is asked after `forget`."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, ...], Any]] = []
        self.number = 1

    @property
    def token(self) -> str:
        return f"token-{self.number}"

    def forget(self, now_s: float = 0.0) -> None:
        self.number += 1

    async def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        self.asked.append((scopes, options))
        return AccessTokenInfo(self.token, int(time.time()) + 60)

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken(self.token, int(time.time()) + 60)

    async def close(self) -> None: ...

    async def __aenter__(self) -> CountingCredential:
        return self

    async def __aexit__(self, *_: object) -> None: ...
