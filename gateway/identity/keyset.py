"""Which keys does each issuer sign with now? A cache of key sets that no request and no outage can turn against us.

Each issuer is on its own: one fetch in flight at a time, refreshed in the background, answered from the last good set
meanwhile. A failed fetch, a document that is no key set or one over 256 KiB leaves the last good set in place, for 24 hours
after it was fetched and not a second longer. A set that is well-formed replaces the old one, so a key that was withdrawn
stops verifying. A kid nobody knows causes at most one fetch every 30 seconds, counted apart from the background ones, so
that a key which really is new works with the first token it signed.

Specification: OpenID Connect Discovery 1.0 sections 4.2 and 4.3 (`issuer` must be identical), RFC 7517 section 5.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.identity.encoding import NotStrict, parse_object
from gateway.identity.issuers import TrustedIssuer, url_fault
from gateway.identity.jwks import KeySet, KeySetInvalid, admit
from gateway.ports import DocumentSource

MAX_DOCUMENT: Final = 256 * 1024
_MAX_ABSENT: Final = 1024
_MAX_WAITING: Final = 64


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long things last, in seconds. `refresh_s` bounds how long a withdrawn key still verifies."""

    refresh_s: float = 300.0
    rediscover_s: float = 3600.0
    unknown_kid_s: float = 30.0  # between fetches that unknown kids cause
    absent_s: float = 300.0  # a kid that a fetch proved absent causes none for this long
    max_age_s: float = 86_400.0
    timeout_s: float = 5.0  # of one document
    wait_s: float = 3.0  # that a request waits for a fetch its kid caused
    retry_max_s: float = 30.0


class KeySetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One issuer's state, for readiness and metrics."""

    ready: bool
    keys: int
    dropped: int
    age_s: float  # since the last good fetch; infinite before the first
    failures: int  # in a row
    fetches: int
    last_fault: str


class _State:
    """What is known of one issuer. Touched by the event loop alone."""

    def __init__(self, issuer: TrustedIssuer) -> None:
        self.issuer = issuer
        self.keyset: KeySet | None = None
        self.digest = b""
        self.good_at = -math.inf
        self.due_at = -math.inf
        self.forced_at = -math.inf
        self.jwks_url = issuer.jwks_url
        self.discovered_at = -math.inf
        self.task: asyncio.Task[None] | None = None
        self.waiting = 0
        self.failures = 0
        self.fetches = 0
        self.last_fault = "not fetched yet"
        self.absent: OrderedDict[str, float] = OrderedDict()


class KeySets:
    """The key sets of all trusted issuers. `clock` is monotonic seconds; nothing here reads the time of day."""

    def __init__(
        self, trusted: Mapping[str, TrustedIssuer], source: DocumentSource, clock: Callable[[], float], timing: Timing | None = None
    ) -> None:
        self._states = {iss: _State(issuer) for iss, issuer in trusted.items()}
        self._source = source
        self._clock = clock
        self._timing = timing or Timing()

    def current(self, iss: str) -> KeySet | None:
        """Return the last good key set of an issuer, None before the first and once it is over 24 hours old.

        The same object is returned until the published document changes.
        """
        state = self._states.get(iss)
        if state is None or self._clock() - state.good_at > self._timing.max_age_s:
            return None
        return state.keyset

    def ready(self) -> dict[str, bool]:
        """Return `iss` -> whether tokens of that issuer can be verified now."""
        return {iss: (keyset := self.current(iss)) is not None and len(keyset.keys) > 0 for iss in self._states}

    def status(self) -> dict[str, KeySetStatus]:
        """Return `iss` -> its state. Nothing in it comes from a token."""
        ready, now = self.ready(), self._clock()
        return {
            iss: KeySetStatus(
                ready=ready[iss],
                keys=len(state.keyset.keys) if state.keyset else 0,
                dropped=sum(state.keyset.dropped.values()) if state.keyset else 0,
                age_s=now - state.good_at,
                failures=state.failures,
                fetches=state.fetches,
                last_fault=state.last_fault,
            )
            for iss, state in self._states.items()
        }

    async def run(self) -> None:
        """Keep every set fresh until cancelled. One task for the life of the process."""
        tick_s = max(0.05, min(1.0, self._timing.refresh_s / 4))
        try:
            while True:
                self.start_due()
                await asyncio.sleep(tick_s)
        finally:
            await self.aclose()

    def start_due(self) -> None:
        """Start a background fetch for each issuer whose set is due. Returns at once: a slow issuer holds up no other."""
        now = self._clock()
        for state in self._states.values():
            if now >= state.due_at and state.task is None:
                self._start(state)

    async def refresh(self) -> dict[str, bool]:
        """Fetch every set now, all at once, and return `ready()`. For start-up; never raises for an unreachable issuer."""
        await asyncio.gather(*(asyncio.shield(self._start(state)) for state in self._states.values()))
        return self.ready()

    async def find(self, iss: str, kid: str) -> bool:
        """Tell whether an unknown kid has become known, fetching the issuer's set at most once every 30 seconds for all kids."""
        state = self._states.get(iss)
        if state is None:
            return False
        if self._knows(state, kid):
            return True
        if self._clock() < state.absent.get(kid, -math.inf):
            return False
        for _ in range(2):
            # A fetch under way may have begun before the key was published: it is waited for first, and only if it did not
            # bring the key may this kid cause one of its own.
            task = state.task
            mine = task is None
            if mine:
                if self._clock() - state.forced_at < self._timing.unknown_kid_s:
                    return False
                state.forced_at = self._clock()
                task = self._start(state)
            await self._wait(state)
            if self._knows(state, kid):
                return True
            if state.task is task:
                return False  # still under way
            if mine:
                break
        if mine and state.failures == 0:
            # SECURITY: one client with a stale key must not use up the one fetch that a rotated key would need.
            state.absent[kid] = self._clock() + self._timing.absent_s
            if len(state.absent) > _MAX_ABSENT:
                state.absent.popitem(last=False)
        return False

    async def aclose(self) -> None:
        """Cancel what is under way. Idempotent."""
        tasks = [state.task for state in self._states.values() if state.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _knows(self, state: _State, kid: str) -> bool:
        keyset = self.current(state.issuer.iss)
        return keyset is not None and kid in keyset.keys

    async def _wait(self, state: _State) -> None:
        """Wait for the fetch under way, briefly, and only if few others do: waiting requests are memory too."""
        task = state.task
        if task is None or state.waiting >= _MAX_WAITING:
            return
        state.waiting += 1
        try:
            await asyncio.wait((task,), timeout=self._timing.wait_s)
        finally:
            state.waiting -= 1

    def _start(self, state: _State) -> asyncio.Task[None]:
        # INVARIANT: one fetch an issuer at a time; whoever asks meanwhile shares it.
        if state.task is None:
            state.task = asyncio.get_running_loop().create_task(self._fetch(state), name=f"keyset:{state.issuer.name}")
        return state.task

    async def _fetch(self, state: _State) -> None:
        began = self._clock()
        state.fetches += 1
        state.failures += 1  # until it has succeeded
        state.due_at = began + min(self._timing.retry_max_s, 2.0 ** min(state.failures, 8))
        try:
            document = await self._document(await self._keys_url(state))
            keyset = admit(document, state.issuer.algorithms)
        except (OSError, EOFError, KeySetInvalid, NotStrict) as fault:
            # SECURITY: CVE-2026-48524, one bad fetch emptied the cache. The last good set stays; the address is asked for anew.
            state.last_fault = f"{type(fault).__name__}: {fault}"[:200]
            state.jwks_url = state.issuer.jwks_url
            return
        finally:
            state.task = None
        digest = hashlib.sha256(document).digest()
        if state.keyset is None or digest != state.digest:
            state.keyset, state.digest = keyset, digest
        state.good_at = began
        state.due_at = began + self._timing.refresh_s
        state.failures = 0
        state.last_fault = ""

    async def _keys_url(self, state: _State) -> str:
        issuer = state.issuer
        fresh = self._clock() - state.discovered_at < self._timing.rediscover_s
        if issuer.jwks_url or (state.jwks_url and fresh):
            return state.jwks_url
        began = self._clock()
        url = keys_url(await self._document(issuer.discovery_url), issuer)
        state.jwks_url, state.discovered_at = url, began
        return url

    async def _document(self, url: str) -> bytes:
        # The source has the same bound and the same deadline; a cache that lives on them does not take its word.
        async with asyncio.timeout(self._timing.timeout_s):
            document = await self._source.fetch(url, max_bytes=MAX_DOCUMENT, timeout_s=self._timing.timeout_s)
        if len(document) > MAX_DOCUMENT:
            raise KeySetInvalid("the document is over 256 KiB")
        return document


def keys_url(document: bytes, issuer: TrustedIssuer) -> str:
    """Return `jwks_uri` of a discovery document that is the issuer's own. Raises `KeySetInvalid`, `NotStrict`."""
    discovery = parse_object(document)
    if discovery.get("issuer") != issuer.iss:
        raise KeySetInvalid("the discovery document is another issuer's")
    url = discovery.get("jwks_uri")
    if type(url) is not str or url_fault(url):
        raise KeySetInvalid("jwks_uri is missing or may not be fetched")
    # SECURITY: a document from the network must not point us at a service on our own host.
    if urlsplit(issuer.discovery_url).scheme == "https" and urlsplit(url).scheme != "https":
        raise KeySetInvalid("jwks_uri leaves https")
    return url
