"""Limits shared by replicas: the same decision as `limits.reservation`, in one Lua script on Redis 6.2 or later.

Redis gets a budget of milliseconds. When it does not answer in time, this replica decides alone at cap / replicas and says so in
the lease; one request a second asks Redis again, the others do not wait for it. What could not be told meanwhile (leases
to settle, reservations whose answer never came) is kept, bounded, and told when Redis is back: a slot is not lost to a blip.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from gateway.evidence import Lease
from gateway.limits.reservation import Charge, Standing, headers, impossible, lease_of, micros, no, standing, tightest
from gateway.providers.local.counters import MemoryCounters
from gateway.providers.redis.scripts import RESERVE, SETTLE, STANDING
from gateway.refusals import RATE_LIMITED, Refusal

RETRY_S = 1.0
_CONNECTIONS = 64
_UNTOLD = 10_000  # beyond it the oldest is left to expire, which errs on the strict side


class _Shown:
    """What the library shows to the server: the password as it is now."""

    def __init__(self, user: str, password: Callable[[], str]) -> None:
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str, ...]:
        return (self._user, self._password()) if self._user else (self._password(),)

    async def get_credentials_async(self) -> tuple[str, ...]:
        return self.get_credentials()


def _without_user(url: str) -> tuple[str, str]:
    """Return a URL without its user part, and the user's name."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl(), unquote(user.partition(":")[0])


class RedisCounters:
    """`ports.CounterStore` over Redis with a local fallback. Needs the `redis` extra; raises `ImportError` without it."""

    def __init__(self, url: str, *, replicas: int = 1, budget_s: float = 0.025, password: Callable[[], str] | None = None) -> None:
        library: Any = importlib.import_module("redis.asyncio")
        retries: Any = importlib.import_module("redis.retry")
        backoff: Any = importlib.import_module("redis.backoff")
        faults: Any = importlib.import_module("redis.exceptions")
        self._errors: tuple[type[Exception], ...] = (faults.RedisError, OSError, TimeoutError)
        # Asked for each new connection, so that a password replaced at its source is used from then on.
        shown: dict[str, Any] = {}
        if password is not None:
            url, user = _without_user(url)
            shown["credential_provider"] = _Shown(user, password)
        # The library's default retries a dead server for seconds.
        pool = library.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=budget_s,
            socket_timeout=budget_s,
            socket_connect_timeout=budget_s,
            retry=retries.Retry(backoff.NoBackoff(), 0),
            decode_responses=True,
            **shown,
        )
        self._redis: Any = library.Redis.from_pool(pool)
        self._reserve = self._redis.register_script(RESERVE)
        self._settle = self._redis.register_script(SETTLE)
        self._standing = self._redis.register_script(STANDING)
        self._budget_s = budget_s
        self._replicas = max(1, replicas)
        self._local = MemoryCounters()
        self._asks_at_s = 0.0  # while Redis is down: when the next request may ask it
        self._down = False
        self._untold: deque[tuple[list[str], str, int]] = deque(maxlen=_UNTOLD)
        self._telling: asyncio.Task[None] | None = None

    @property
    def degraded(self) -> bool:
        """True while this replica decides alone."""
        return self._down

    async def reserve(self, charge: Charge, now_s: float) -> Lease:
        if self._asks():
            keys = _keys(charge.key, tenant=charge.tenant_numbers is not None)
            try:
                async with asyncio.timeout(self._budget_s):
                    answer = await self._reserve(keys=keys, args=_arguments(charge))
            except asyncio.CancelledError:
                self._tell_later(keys, charge.lease_id, 0)
                raise
            except self._errors:
                self._fails()
                # The script may have run although its answer did not come: whatever it took is given back.
                self._tell_later(keys, charge.lease_id, 0)
            else:
                self._answers()
                return _decided(charge, answer, now_s)
        return await self._alone(charge, now_s)

    async def settle(self, lease: Lease, tokens: int, now_s: float) -> None:
        if lease.degraded:
            await self._local.settle(lease, tokens, now_s)
            return
        keys = _keys((lease.keys[0], lease.keys[1], lease.keys[2]), tenant=True)
        if self._down:
            self._tell_later(keys, lease.id, tokens)
            return
        try:
            async with asyncio.timeout(self._budget_s):
                await self._settle(keys=keys, args=[lease.id, max(0, tokens)])
        except asyncio.CancelledError:
            self._tell_later(keys, lease.id, tokens)
            raise
        except self._errors:
            self._fails()
            self._tell_later(keys, lease.id, tokens)

    async def standing(self, charge: Charge, now_s: float) -> tuple[tuple[str, str], ...]:
        """Return how the subject stands over all replicas; where Redis does not say so in time, how it stands here."""
        if self._asks():
            try:
                async with asyncio.timeout(self._budget_s):
                    answer = await self._standing(keys=_keys(charge.key, tenant=charge.tenant_numbers is not None))
            except self._errors:
                self._fails()
            else:
                self._answers()
                return headers(tightest(_standings(charge, answer)))
        return await self._local.standing(self._share(charge), now_s)

    async def ready(self) -> str:
        """Ask Redis once, within the time a request would give it; return what is wrong, "" if nothing is."""
        try:
            async with asyncio.timeout(2 * self._budget_s):  # a connection, then an answer
                told = await self._redis.info("server")
        except self._errors as error:
            return f"Redis does not answer ({type(error).__name__})"
        version = str(told.get("redis_version", ""))
        known = [int(part) for part in version.split(".")[:2] if part.isdigit()]
        return "" if known >= [6, 2] else f"Redis is of version `{version}`: 6.2 or later is needed"

    async def aclose(self) -> None:
        """Stop telling and close every connection."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    # Whether Redis is asked

    def _asks(self) -> bool:
        if not self._down:
            return True
        now_s = time.monotonic()
        if now_s < self._asks_at_s:
            return False
        self._asks_at_s = now_s + RETRY_S  # this request probes; the next does not before a second has passed
        return True

    def _fails(self) -> None:
        self._down = True
        self._asks_at_s = time.monotonic() + RETRY_S

    def _answers(self) -> None:
        self._down = False
        if self._untold and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell())

    # What Redis was not told

    def _tell_later(self, keys: list[str], lease_id: str, tokens: int) -> None:
        self._untold.append((keys, lease_id, tokens))

    async def _tell(self) -> None:
        """Settle what could not be settled. Settling twice, or what was never granted, changes nothing."""
        while self._untold and not self._down:
            keys, lease_id, tokens = self._untold[0]
            try:
                async with asyncio.timeout(self._budget_s):
                    await self._settle(keys=keys, args=[lease_id, max(0, tokens)])
            except self._errors:
                self._fails()
                return
            if self._untold and self._untold[0][1] == lease_id:
                self._untold.popleft()

    async def _alone(self, charge: Charge, now_s: float) -> Lease:
        """Decide with this replica's share of every limit."""
        share = self._share(charge)
        if _possible(charge) and not _possible(share):
            # It fits the limits, not this replica's share of them: no fault of the request.
            raise Refusal(RATE_LIMITED, retry_after_s=RETRY_S, detail="tokens, degraded")
        return msgspec.structs.replace(await self._local.reserve(share, now_s), degraded=True)

    def _share(self, charge: Charge) -> Charge:
        """Return a charge with this replica's part of every limit."""
        tenant = charge.tenant_numbers
        numbers = charge.numbers.share(self._replicas)
        return msgspec.structs.replace(
            charge,
            requests_per_minute=numbers.requests_per_minute,
            burst=numbers.burst,
            tokens_per_minute=numbers.tokens_per_minute,
            concurrent=numbers.concurrent,
            daily_tokens=numbers.daily_tokens,
            tenant_numbers=None if tenant is None else tenant.share(self._replicas),
        )


def _digest(*parts: str) -> str:
    """Return a name for a tuple of texts: framed by length, so that no two share one; hashed, so that Redis holds no identity."""
    framed = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode("utf-8", "surrogatepass") for part in parts))
    return hashlib.blake2b(framed, digest_size=16).hexdigest()


def _keys(key: tuple[str, str, str], *, tenant: bool) -> list[str]:
    """Return the three keys of each account charged, all under the tenant's hash tag, so that one script may touch them."""
    tag = _digest(key[0])
    names = [_digest(*key), "tenant"] if tenant else [_digest(*key)]
    return [f"gw:{{{tag}}}:{name}:{part}" for name in names for part in ("c", "l", "m")]


def _arguments(charge: Charge) -> list[object]:
    arguments: list[object] = [charge.lease_id, charge.tokens, charge.day, micros(charge.lease_s)]
    for numbers in charge.limits():
        daily = -1 if numbers.daily_tokens is None else numbers.daily_tokens
        arguments += [numbers.requests_per_minute, numbers.burst, numbers.tokens_per_minute, numbers.concurrent, daily]
    return arguments


def _possible(charge: Charge) -> bool:
    """Return whether a charge fits each limit it meets when nothing else is taken."""
    return all(
        charge.tokens <= numbers.tokens_per_minute and (numbers.daily_tokens is None or charge.tokens <= numbers.daily_tokens)
        for numbers in charge.limits()
    )


def _standings(charge: Charge, answer: list[Any]) -> list[Standing]:
    """Read, for each account charged, the times in which its requests and tokens are full again."""
    times = [int(time_us) for time_us in answer]
    return [standing(numbers, times[2 * i], times[2 * i + 1]) for i, numbers in enumerate(charge.limits())]


def _decided(charge: Charge, answer: list[Any], now_s: float) -> Lease:
    code, wait_us = answer[0], int(answer[1])
    if code == "impossible":
        raise impossible(charge)
    all_of = _standings(charge, answer[2:])
    if code == "ok":
        return lease_of(charge, all_of, now_s)
    scarce = code if code in ("requests", "tokens") else ""
    raise no(spent=code == "quota", scarce=scarce, wait_s=wait_us / 1_000_000, shown=headers(tightest(all_of)))
