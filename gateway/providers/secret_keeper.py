"""What is a secret's value now? One keeper for every reference of the settings, whatever its source; the clock is an argument.

At the start every reference must lead somewhere, and all that do not are named at once. From then on values come from memory. Each
is asked for again after its source's time, spread by chance so that replicas do not ask together, and soon after somebody was
refused with it; one flight a reference, bounded in time and in number. A source that cannot answer takes nothing away: the last
good value goes on, its age is a number to alert on, and the source is left alone for a growing while or for as long as it asked.

It must not know how a source is asked, and it must not log, show or compare a value in any way that tells something of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from gateway.ports import Secret, SecretMissing, SecretSource, SecretUnavailable

logger = logging.getLogger("gateway")

TIMEOUT_S: Final = 10.0
PATIENCE_S: Final = 20.0  # at the start, for sources that answer "later"
_SPREAD: Final = 0.2
_BACKOFF_S: Final = 1.0
_BACKOFF_CAP_S: Final = 300.0
_RETRY_AFTER_CAP_S: Final = 3_600.0
_SUSPECT_EVERY_S: Final = 30.0  # a backend that answers 401 to everything must not become a flood at the source
_IDLE_S: Final = 3_600.0
_WARN_EXPIRY_S: Final = 7 * 86_400.0
_AT_ONCE: Final = 8

Taken = Callable[[Secret], None]
"""Takes up a value. Raises `SecretMissing` for one it cannot use: it is logged and the holder keeps what it has."""


class SecretFaults(SecretMissing):
    """Every reference that leads nowhere, one message each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Standing(msgspec.Struct, frozen=True):
    """How one reference stands: seconds since its source last confirmed the value, and what is wrong, "" where nothing is."""

    reference: str
    age_s: float
    fault: str


class _Held:
    __slots__ = ("due_at_s", "failures", "fault", "flight", "good_at_s", "reference", "secret", "source", "suspected_s", "watchers")

    def __init__(self, reference: str, source: SecretSource) -> None:
        self.reference = reference
        self.source = source
        self.secret: Secret | None = None
        self.good_at_s = 0.0
        self.due_at_s = 0.0
        self.suspected_s = -_SUSPECT_EVERY_S
        self.failures = 0
        self.fault = ""
        self.flight: asyncio.Task[float | None] | None = None
        self.watchers: list[Taken] = []


class SecretKeeper:
    """Keeps secrets current. Not shared between event loops, though `current` may be called from any thread.

    `draw` is uniform in [0, 1); `mono_s` gives monotonic seconds, `wall_s` seconds since 1970.
    """

    def __init__(
        self,
        sources: Mapping[str, SecretSource],
        *,
        draw: Callable[[], float],
        mono_s: Callable[[], float],
        wall_s: Callable[[], float],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._sources = dict(sources)
        self._draw = draw
        self._mono_s = mono_s
        self._wall_s = wall_s
        self._timeout_s = timeout_s
        self._held: dict[str, _Held] = {}
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._wake = asyncio.Event()

    async def load(self, references: Iterable[str], patience_s: float = PATIENCE_S) -> None:
        """Get every reference, asking again for up to `patience_s` where a source says "later". Raises `SecretFaults`, all at once."""
        wanted = [self._entry(reference) for reference in dict.fromkeys(references)]
        got = await asyncio.gather(*(self._insist(held, self._mono_s() + patience_s) for held in wanted))
        faults = [fault for fault in got if fault]
        if faults:
            raise SecretFaults(faults)

    def current(self, reference: str) -> Secret:
        """Return the value as it is known now, from memory. Raises `SecretMissing` for a reference that was not loaded."""
        held = self._held.get(reference)
        if held is None or held.secret is None:
            raise SecretMissing(f"`{reference}`: was not loaded at the start")
        return held.secret

    def watch(self, reference: str, taken: Taken) -> None:
        """Call `taken` with every later value of a loaded reference. Raises `SecretMissing` as `current` does."""
        self.current(reference)
        self._held[reference].watchers.append(taken)

    def suspect(self, reference: str) -> None:
        """Take note that somebody was refused with the value: it is asked for soon, at most twice a minute. Never raises."""
        held = self._held.get(reference)
        now_s = self._mono_s()
        if held is None or not held.source.refresh_s or now_s - held.suspected_s < _SUSPECT_EVERY_S:
            return
        held.suspected_s = now_s
        held.due_at_s = now_s
        self._wake.set()

    async def refresh(self, reference: str) -> bool:
        """Ask for one value now, or join whoever is asking; return whether the source confirmed or replaced it."""
        held = self._entry(reference)
        if held.flight is None:
            held.flight = asyncio.create_task(self._fly(held))
        return await asyncio.shield(held.flight) is None

    async def refresh_due(self) -> None:
        """Ask for every value whose time has come."""
        now_s = self._mono_s()
        due = [held for held in self._held.values() if held.secret is not None and held.due_at_s <= now_s]
        outcomes = await asyncio.gather(*(self.refresh(held.reference) for held in due), return_exceptions=True)
        for held, outcome in zip(due, outcomes, strict=True):
            if isinstance(outcome, Exception):  # a source broke its contract: the others are kept current all the same
                self._failed(held, f"`{held.reference}`: its source failed ({type(outcome).__name__})")

    async def run(self) -> None:
        """Keep every value current until cancelled."""
        while True:
            now_s = self._mono_s()
            wait_s = min((held.due_at_s - now_s for held in self._held.values()), default=_IDLE_S)
            self._wake.clear()
            try:
                async with asyncio.timeout(min(max(wait_s, 0.05), _IDLE_S)):
                    await self._wake.wait()
            except TimeoutError:
                pass  # it is time
            await self.refresh_due()

    def standings(self) -> list[Standing]:
        """Return how each reference stands whose value can change."""
        now_s = self._mono_s()
        known = [held for held in self._held.values() if held.secret is not None and held.source.refresh_s]
        return [Standing(held.reference, now_s - held.good_at_s, held.fault) for held in known]

    async def aclose(self) -> None:
        """End what is under way and close the sources. Idempotent; never raises."""
        flights = [held.flight for held in self._held.values() if held.flight is not None]
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        for source in self._sources.values():
            await source.aclose()

    def _entry(self, reference: str) -> _Held:
        held = self._held.get(reference)
        if held is None:
            source = self._sources.get(reference.partition(":")[0])
            if source is None:
                raise SecretFaults([f"`{reference}`: no provider for `{reference.partition(':')[0]}:` is configured"])
            held = self._held[reference] = _Held(reference, source)
        return held

    async def _insist(self, held: _Held, until_s: float) -> str:
        """Return what is wrong with a reference after asking as long as that may help, "" if nothing is."""
        while True:
            if held.flight is None:
                held.flight = asyncio.create_task(self._fly(held))
            wait_s = await asyncio.shield(held.flight)
            if wait_s is None:
                return ""
            if wait_s < 0 or self._mono_s() + wait_s > until_s:
                return held.fault
            await asyncio.sleep(wait_s)

    async def _fly(self, held: _Held) -> float | None:
        """Ask once. Return None for a good answer, else the seconds after which to ask again, below 0 where that would not help.

        INVARIANT: a flight replaces the value by one its source gave, or leaves it as it is; a failure takes nothing away.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._gate:
                secret = await held.source.fetch(held.reference)
        except SecretMissing as missing:
            return self._failed(held, str(missing), lasting=True)
        except SecretUnavailable as fault:
            return self._failed(held, str(fault), retry_after_s=fault.retry_after_s)
        except TimeoutError:
            return self._failed(held, f"`{held.reference}`: no answer within {self._timeout_s:g} s")
        finally:
            held.flight = None
        now_s = self._mono_s()
        if held.fault and held.secret is not None:
            logger.warning("secret source answers again", extra={"reference": held.reference, "age_s": round(now_s - held.good_at_s)})
        held.good_at_s, held.failures, held.fault = now_s, 0, ""
        held.due_at_s = now_s + self._spread(held.source.refresh_s) if held.source.refresh_s else float("inf")
        self._take(held, secret)
        return None

    def _take(self, held: _Held, secret: Secret) -> None:
        old, held.secret = held.secret, secret
        changed = old is not None and not old.same(secret)
        if (old is None or changed or old.version != secret.version) and secret.expires_at_s is not None:
            left_s = secret.expires_at_s - self._wall_s()
            if left_s < _WARN_EXPIRY_S:
                fields = {"reference": held.reference, "version": secret.version, "days_left": round(left_s / 86_400, 1)}
                logger.warning("secret is about to expire or has expired", extra=fields)
        if not changed:
            return
        logger.warning("secret changed", extra={"reference": held.reference, "version": secret.version})
        for taken in held.watchers:
            try:
                taken(secret)
            except SecretMissing as unusable:
                logger.error("changed secret cannot be used", extra={"reference": held.reference, "reason": str(unusable)})

    def _failed(self, held: _Held, why: str, *, lasting: bool = False, retry_after_s: float = 0.0) -> float:
        now_s = self._mono_s()
        held.fault = why
        backoff_s = self._spread(min(_BACKOFF_CAP_S, _BACKOFF_S * 2**held.failures))
        held.failures = min(held.failures + 1, 16)
        wait_s = max(backoff_s, min(retry_after_s, _RETRY_AFTER_CAP_S))
        held.due_at_s = now_s + max(wait_s, held.source.refresh_s if lasting else 0.0)
        if held.secret is not None:
            fields = {"reference": held.reference, "reason": why, "age_s": round(now_s - held.good_at_s), "version": held.secret.version}
            logger.warning("secret not refreshed: the last good value goes on", extra=fields)
        return -1.0 if lasting else wait_s

    def _spread(self, seconds: float) -> float:
        return seconds * (1.0 - _SPREAD / 2 + _SPREAD * self._draw())
