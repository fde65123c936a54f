"""Which groups is somebody in whose token could not hold them all? Asked of Microsoft Graph, as the gateway itself.

The address in a token's `_claim_sources` is never called: the question is built here, from the directory and object id that were
verified. Bounded, cached for minutes, single-flight; an answer that may be incomplete is no answer.

Specification: Microsoft Graph v1.0 `getMemberObjects`; permission `GroupMember.Read.All` (application).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final

import msgspec

from gateway.identity.issuers import GUID
from gateway.ports import GroupsUnavailable, UpstreamError
from gateway.providers.azure.token_keeper import Headers
from gateway.providers.azure.upstream_identity import ApplicationCredential
from gateway.upstream.client import BackendClient

MAX_GROUPS: Final = 11_000  # what Graph answers with at most; beyond it refuses by itself
MAX_BYTES: Final = 1_048_576
_SUBJECTS: Final = 1024
_TIMEOUT_S: Final = 5.0
_QUIET_S: Final = 5.0  # after a failure nobody is asked about for this long
_QUESTION: Final = b'{"securityEnabledOnly":true}'
_JSON: Final = (b"content-type", b"application/json"), (b"accept", b"application/json")


class GraphGroups:
    """`GroupSource` over Graph. `directory` is the one the gateway's identity belongs to; others cannot be asked about."""

    def __init__(self, client: BackendClient, credential: ApplicationCredential, *, directory: str = "", cache_s: float = 600.0) -> None:
        self._client = client
        self._credential = credential
        self._directory = directory
        self._cache_s = cache_s
        self._known: OrderedDict[str, tuple[frozenset[str], float]] = OrderedDict()
        self._flights: dict[str, asyncio.Task[frozenset[str]]] = {}
        self._names: dict[str, str] = {}
        self._quiet_until_s = 0.0

    async def groups_of(self, directory_id: str, object_id: str, *, application: bool, now_s: float) -> frozenset[str]:
        """Return every group of the subject. Raises `GroupsUnavailable`."""
        if GUID.fullmatch(object_id) is None or (self._directory and directory_id != self._directory):
            raise GroupsUnavailable("the subject's directory cannot be asked")
        key = f"{directory_id}/{object_id}"
        known = self._known.get(key)
        if known is not None and now_s < known[1]:
            self._known.move_to_end(key)
            return known[0]
        flight = self._flights.get(key)
        if flight is None:
            if now_s < self._quiet_until_s:
                raise GroupsUnavailable("the directory failed a moment ago")
            flight = asyncio.create_task(self._ask("servicePrincipals" if application else "users", object_id, key, now_s))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def _landed(self, key: str, flight: asyncio.Task[frozenset[str]]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()  # whoever waited has it; if all of them left, nobody needs it

    async def aclose(self) -> None:
        for flight in tuple(self._flights.values()):
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)
        await self._credential.aclose()
        await self._client.aclose()

    async def _ask(self, kind: str, object_id: str, key: str, now_s: float) -> frozenset[str]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._fetched(f"/{kind}/{object_id}/getMemberObjects", now_s)
        except GroupsUnavailable:
            raise
        except (TimeoutError, UpstreamError) as error:
            self._quiet_until_s = now_s + _QUIET_S
            raise GroupsUnavailable(f"the directory could not be asked ({type(error).__name__})") from None
        self._known[key] = (found, now_s + self._cache_s)
        if len(self._known) > _SUBJECTS:
            self._known.popitem(last=False)
        return found

    async def _fetched(self, path: str, now_s: float) -> frozenset[str]:
        headers: Headers = await self._credential.headers(None, None, now_s)
        response = await self._client.post(path, (*_JSON, *headers), _QUESTION)
        try:
            if response.status == 401:
                self._credential.rejected(None, now_s)
            if response.status != 200:
                if response.status == 429 or response.status >= 500:
                    self._quiet_until_s = now_s + _QUIET_S
                raise GroupsUnavailable(f"the directory answered {response.status}")
            return self._read(await response.read(MAX_BYTES))
        finally:
            await response.aclose()

    def _read(self, body: bytes) -> frozenset[str]:
        try:
            answer: Any = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            raise GroupsUnavailable("the directory's answer is not JSON") from None
        values = answer.get("value") if isinstance(answer, dict) else None
        # SECURITY: half of the groups may be the half without the one that a `forbid` names.
        if not isinstance(values, list) or len(values) > MAX_GROUPS or "@odata.nextLink" in answer:
            raise GroupsUnavailable("the directory's answer is not a whole list of groups")
        if any(not isinstance(value, str) or GUID.fullmatch(value) is None for value in values):
            raise GroupsUnavailable("the directory's answer holds something that is no group id")
        return frozenset(self._shared(value) for value in values)

    def _shared(self, group: str) -> str:
        """Return one string for one group, whoever is in it: people of one house share most of theirs."""
        if len(self._names) > 4 * MAX_GROUPS:
            self._names.clear()
        return self._names.setdefault(group, group)
