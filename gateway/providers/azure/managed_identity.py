"""How does the gateway get a token as the machine or pod it runs on? From the host's metadata service, through MSAL.

The system-assigned identity, or a user-assigned one by its client id. There is no secret: whoever reaches the metadata service
is the identity, so application pods must not reach it. Blocking: for a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from gateway.providers.azure.authority_http import AuthorityHttp
from gateway.providers.azure.msal_client import Forgetful, SdkMissing, no_cache
from gateway.providers.azure.token_keeper import NoToken


class ManagedIdentity:
    """One identity of this host. `client_id` empty means the system-assigned one; `scope` ends in `/.default`."""

    def __init__(self, scope: str, client_id: str = "") -> None:
        """Raises `SdkMissing`."""
        try:
            msal: Any = import_module("msal")
        except ImportError:
            raise SdkMissing from None
        identity = msal.UserAssignedManagedIdentity(client_id=client_id) if client_id else msal.SystemAssignedManagedIdentity()
        self._resource = scope.removesuffix("/.default")
        self._http = AuthorityHttp(metadata=True)
        self._client: Any = msal.ManagedIdentityClient(identity, http_client=self._http, token_cache=no_cache(msal), http_cache=Forgetful())

    def acquire(self) -> Mapping[str, Any]:
        """Return the metadata service's answer. Raises `NoToken`."""
        self._http.forget()
        try:
            answer = self._client.acquire_token_for_client(resource=self._resource)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as fault:
            # SECURITY: `from None`, and no word of the fault: an SDK's message may quote what it was given.
            why = f"the metadata service could not be asked ({type(fault).__name__})"
            raise NoToken(why, retry_after_s=self._http.retry_after_s) from None
        if not isinstance(answer, dict):
            raise NoToken("the metadata service's answer holds no token", retry_after_s=self._http.retry_after_s)
        return {**answer, "retry_after_s": self._http.retry_after_s}
