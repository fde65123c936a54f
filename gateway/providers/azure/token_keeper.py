"""When is a token asked for, by whom, and what is served meanwhile? One keeper a token; the clock is an argument.

A good token is served from memory. Past its time for renewal one flight fetches the next in the background while the old one goes
on until it expires; without a good one, however many ask, one flight runs and all wait for it. After a failure the authority is
left alone for a growing while, or for as long as it asked. A caller that leaves does not take the flight with it.

It must not know how a token is got, and it must not log or show one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

logger = logging.getLogger("gateway")

WAIT_S: Final = 10.0  # a caller waits no longer for its first token
MAX_TOKEN: Final = 32_768
MAX_LIFE_S: Final = 7 * 86_400
_SKEW_S: Final = 60.0  # a token is not used in its last minute: clocks differ, and a request takes time to arrive
_BACKOFF_S: Final = 1.0
_BACKOFF_CAP_S: Final = 30.0
_RETRY_AFTER_CAP_S: Final = 300.0
_REJECT_EVERY_S: Final = 30.0  # a backend that answers 401 to everything must not become a flood at the authority
_ERROR_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz_")

Headers = tuple[tuple[bytes, bytes], ...]


class NoToken(Exception):
    """The authority gave none. Holds error codes alone: descriptions name people, applications and addresses."""

    def __init__(self, why: str, *, error: str = "", suberror: str = "", claims: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.error = error
        self.suberror = suberror
        self.claims = claims  # what the authority demands of the person, as JSON; empty where it demands nothing
        self.retry_after_s = retry_after_s


class Token(msgspec.Struct, frozen=True):
    """A token as headers, with the seconds (since 1970) of its end and of its renewal."""

    headers: Headers
    expires_at_s: float
    renew_at_s: float

    def __repr__(self) -> str:
        return "Token(...)"


Acquire = Callable[[], Mapping[str, Any]]
"""Asks the authority and returns its answer as the SDK gives it. Blocking; runs in a thread. Raises `NoToken`."""


class Flights:
    """The threads in which the synchronous SDK waits for the authority: few, with a bounded queue, gone when nobody holds them."""

    def __init__(self, threads: int = 8, limit: int = 256) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="identity")
        self._limit = limit
        self._flying = 0

    async def run(self, acquire: Acquire) -> Mapping[str, Any]:
        """Return what `acquire` returns. Raises `NoToken` at once where too many are waiting."""
        if self._flying >= self._limit:
            raise NoToken("too many token requests at once")
        self._flying += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, acquire)
        finally:
            self._flying -= 1


class TokenKeeper:
    """Keeps one token good. Not shared between event loops. `draw` is uniform in [0, 1): replicas must not renew together."""

    __slots__ = ("_draw", "_failed", "_failures", "_flight", "_flights", "_name", "_quiet_until_s", "_rejected_s", "_token")

    def __init__(self, name: str, flights: Flights, draw: Callable[[], float]) -> None:
        self._name = name
        self._flights = flights
        self._draw = draw
        self._token: Token | None = None
        self._flight: asyncio.Task[None] | None = None
        self._failed: NoToken | None = None
        self._failures = 0
        self._quiet_until_s = 0.0
        self._rejected_s = -_REJECT_EVERY_S

    async def get(self, acquire: Acquire, now_s: float, *, wait_s: float = WAIT_S) -> Token:
        """Return a token that is good at `now_s` (seconds since 1970). Waits only where none is held. Raises `NoToken`."""
        token = self._token
        if token is not None and now_s < token.expires_at_s:
            if now_s >= token.renew_at_s and self._flight is None and now_s >= self._quiet_until_s:
                self._launch(acquire, now_s)
            return token
        if self._flight is None:
            if self._failed is not None and now_s < self._quiet_until_s:
                raise _again(self._failed)
            self._launch(acquire, now_s)
        flight = self._flight
        try:
            async with asyncio.timeout(wait_s):
                if flight is not None:
                    await asyncio.shield(flight)
        except TimeoutError:
            raise NoToken("the authority did not answer in time") from None
        if self._token is not None and now_s < self._token.expires_at_s:
            return self._token
        raise _again(self._failed) if self._failed is not None else NoToken("the token was expired when it came")

    def reject(self, now_s: float) -> None:
        """Forget the token: whoever it was for did not take it. At most twice a minute, whatever a backend answers."""
        if now_s - self._rejected_s >= _REJECT_EVERY_S:
            self._rejected_s = now_s
            self._token = None

    async def aclose(self) -> None:
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    def _launch(self, acquire: Acquire, now_s: float) -> None:
        self._flight = asyncio.create_task(self._fly(acquire, now_s))

    async def _fly(self, acquire: Acquire, now_s: float) -> None:
        """INVARIANT: a flight replaces the token by a better one or leaves it as it is; a failure takes nothing away."""
        try:
            self._token = token_of(await self._flights.run(acquire), now_s, self._draw())
            self._failed, self._failures, self._quiet_until_s = None, 0, 0.0
        except NoToken as failed:
            self._failed = failed
            backoff_s = min(_BACKOFF_CAP_S, _BACKOFF_S * 2**self._failures) * (0.5 + self._draw())
            self._failures = min(self._failures + 1, 10)
            self._quiet_until_s = now_s + max(backoff_s, min(failed.retry_after_s, _RETRY_AFTER_CAP_S))
            logger.warning("no token for a backend", extra={"identity": self._name, "reason": failed.why})
        finally:
            self._flight = None


def token_of(answer: Mapping[str, Any], asked_at_s: float, draw: float) -> Token:
    """Return the token of an authority's answer; its life counts from when it was asked for. Raises `NoToken`."""
    value = answer.get("access_token")
    if not isinstance(value, str) or "error" in answer:
        raise _refusal(answer)
    # SECURITY: it becomes a header's value; a control character would end the header.
    if not 0 < len(value) <= MAX_TOKEN or not all("!" <= c <= "~" for c in value):
        raise NoToken("the authority's token is malformed")
    life_s = _seconds(answer.get("expires_in"))
    if not 0 < life_s <= MAX_LIFE_S or str(answer.get("token_type", "Bearer")).lower() != "bearer":
        raise NoToken("the authority's token has no sensible life or is no bearer token")
    usable_s = life_s - min(_SKEW_S, life_s * 0.1)
    advised_s = _seconds(answer.get("refresh_in"))
    renew_s = advised_s if 0 < advised_s < usable_s else usable_s * 0.75
    headers = ((b"authorization", b"Bearer " + value.encode("ascii")),)
    return Token(headers, asked_at_s + usable_s, asked_at_s + renew_s * (1.0 - 0.1 * draw))


def _seconds(value: object) -> float:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _refusal(answer: Mapping[str, Any]) -> NoToken:
    error, suberror = _code(answer.get("error")), _code(answer.get("suberror"))
    codes = answer.get("error_codes")
    numbers = [f"AADSTS{n}" for n in codes[:3] if type(n) is int and 0 < n < 10**9] if isinstance(codes, list) else []
    claims = answer.get("claims")
    told = " ".join(part for part in (error, suberror, *numbers) if part)
    return NoToken(
        f"the authority refused: {told}" if told else "the authority's answer holds no token",
        error=error,
        suberror=suberror,
        claims=claims if isinstance(claims, str) and len(claims) <= 4096 else "",
        retry_after_s=_seconds(answer.get("retry_after_s")),
    )


def _code(value: object) -> str:
    return value if isinstance(value, str) and 0 < len(value) <= 64 and _ERROR_CHARS.issuperset(value) else ""


def _again(failed: NoToken) -> NoToken:
    """Return a copy to raise: one exception object raised to many callers would gather all their tracebacks."""
    return NoToken(
        failed.why, error=failed.error, suberror=failed.suberror, claims=failed.claims, retry_after_s=failed.retry_after_s
    )
