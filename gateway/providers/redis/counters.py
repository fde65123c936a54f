"""Limits shared by replicas: the same decision as `limits.reservation`, in one Lua script on Redis 6.2 or later.

Redis gets a budget of milliseconds. When it does not answer in time, this replica decides alone at cap / replicas and says so in the
lease; it asks Redis again once a second. Time is Redis's own, so replicas need no common clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import time
from typing import Any

import msgspec

from gateway.evidence import Lease
from gateway.limits.reservation import LEASE_TTL_S, MIN_SLOT_WAIT_S, Charge, impossible, lease_of
from gateway.providers.local.counters import MemoryCounters
from gateway.refusals import QUOTA_EXCEEDED, RATE_LIMITED, Refusal

RETRY_S = 1.0
_KEEP_S = 172_800  # a day's quota and the next

# KEYS: account hash, lease set. ARGV: lease id, tokens, capacity and per-second of requests, the same of tokens, concurrent,
# daily (-1: none), day, lease ttl. Answers {code, wait, requests tat - now, tokens tat - now}; times as text, floats would be cut.
RESERVE = """
local t = redis.call('TIME'); local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local h = redis.call('HMGET', KEYS[1], 'r', 't', 'd', 'u')
local rt = math.max(tonumber(h[1] or now), now); local tt = math.max(tonumber(h[2] or now), now)
local cost = tonumber(ARGV[2]); local day = ARGV[9]
local used = 0; if h[3] == day then used = tonumber(h[4] or 0) end
local rcap, rps, tcap, tps = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local function say(code, wait) return {code, tostring(wait), tostring(rt - now), tostring(tt - now)} end
if cost > tcap then return say('impossible', 0) end
local daily = tonumber(ARGV[8]); if daily >= 0 and used + cost > daily then return say('quota', 0) end
local wait = math.max(rt + 1 / rps - now - rcap / rps, tt + cost / tps - now - tcap / tps)
if wait > 0.000001 then return say('rate', wait) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[7]) then return say('slots', 0) end
rt = rt + 1 / rps; tt = tt + cost / tps
redis.call('HSET', KEYS[1], 'r', string.format('%.6f', rt), 't', string.format('%.6f', tt), 'd', day, 'u', used + cost)
redis.call('EXPIRE', KEYS[1], 172800)
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[10]), ARGV[1]); redis.call('EXPIRE', KEYS[2], 172800)
return say('ok', 0)
"""

# ARGV: lease id, unused tokens (may be negative), tokens per second.
SETTLE = """
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
local t = redis.call('TIME'); local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local h = redis.call('HMGET', KEYS[1], 't', 'u'); local tt = tonumber(h[1] or now)
local unused = tonumber(ARGV[2]); if unused < 0 then tt = math.max(tt, now) end
tt = tt - unused / tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 't', string.format('%.6f', tt), 'u', math.max(0, tonumber(h[2] or 0) - unused))
return 1
"""


class RedisCounters:
    """`ports.CounterStore` over Redis with a local fallback. Needs the `redis` extra; raises `ImportError` without it."""

    def __init__(self, url: str, *, replicas: int = 1, budget_s: float = 0.025) -> None:
        library: Any = importlib.import_module("redis.asyncio")
        retries: Any = importlib.import_module("redis.retry")
        backoff: Any = importlib.import_module("redis.backoff")
        self._errors: tuple[type[Exception], ...] = (importlib.import_module("redis.exceptions").RedisError, OSError, TimeoutError)
        # The library's default retries a dead server for seconds.
        self._redis: Any = library.Redis.from_url(
            url,
            socket_timeout=budget_s,
            socket_connect_timeout=budget_s,
            retry=retries.Retry(backoff.NoBackoff(), 0),
            decode_responses=True,
        )
        self._reserve = self._redis.register_script(RESERVE)
        self._settle = self._redis.register_script(SETTLE)
        self._budget_s = budget_s
        self._replicas = max(1, replicas)
        self._local = MemoryCounters()
        self._down_until_s = 0.0

    async def reserve(self, charge: Charge, now_s: float) -> Lease:
        if time.monotonic() >= self._down_until_s:
            try:
                async with asyncio.timeout(self._budget_s):
                    answer = await self._reserve(keys=_keys(charge.key), args=_arguments(charge))
                return _decided(charge, answer, now_s)
            except self._errors:
                self._down_until_s = time.monotonic() + RETRY_S
        return await self._alone(charge, now_s)

    async def settle(self, lease: Lease, tokens: int, now_s: float) -> None:
        if lease.degraded:
            await self._local.settle(lease, tokens, now_s)
            return
        if time.monotonic() < self._down_until_s:
            return  # the lease expires on its own; its reservation stays charged, which errs on the strict side
        key = (lease.keys[0], lease.keys[1], lease.keys[2])
        try:
            async with asyncio.timeout(self._budget_s * 4):
                await self._settle(keys=_keys(key), args=[lease.id, lease.reserved_tokens - tokens, lease.limit_tokens / 60])
        except self._errors:
            self._down_until_s = time.monotonic() + RETRY_S

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _alone(self, charge: Charge, now_s: float) -> Lease:
        def share(number: int) -> int:
            return max(1, number // self._replicas)

        smaller = msgspec.structs.replace(
            charge,
            requests_per_minute=share(charge.requests_per_minute),
            burst=share(charge.burst),
            tokens_per_minute=share(charge.tokens_per_minute),
            concurrent=share(charge.concurrent),
            daily_tokens=share(charge.daily_tokens) if charge.daily_tokens is not None else None,
        )
        return msgspec.structs.replace(await self._local.reserve(smaller, now_s), degraded=True)


def _keys(key: tuple[str, str, str]) -> list[str]:
    """Return both keys of an account under one hash tag. Length-framed, so that no two accounts share one; hashed, so that Redis
    holds no identity."""
    framed = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in key)
    name = hashlib.sha256(framed).hexdigest()[:40]
    return [f"gw:{{{name}}}:a", f"gw:{{{name}}}:l"]


def _arguments(charge: Charge) -> list[object]:
    daily = -1 if charge.daily_tokens is None else charge.daily_tokens
    requests, tokens = charge.requests, charge.token_rate
    rates = [requests.capacity, requests.per_s, tokens.capacity, tokens.per_s]
    return [charge.lease_id, charge.tokens, *rates, charge.concurrent, daily, charge.day, LEASE_TTL_S]


def _decided(charge: Charge, answer: list[str], now_s: float) -> Lease:
    code, wait_s, requests_in_s, tokens_in_s = answer[0], float(answer[1]), float(answer[2]), float(answer[3])
    if code == "impossible":
        raise impossible()
    lease = lease_of(charge, now_s, now_s + requests_in_s, now_s + tokens_in_s)
    if code == "ok":
        return lease
    headers = (
        ("x-ratelimit-limit-requests", str(lease.limit_requests)),
        ("x-ratelimit-remaining-requests", str(lease.remaining_requests)),
        ("x-ratelimit-reset-requests", f"{lease.reset_requests_s:.3f}"),
        ("x-ratelimit-limit-tokens", str(lease.limit_tokens)),
        ("x-ratelimit-remaining-tokens", str(lease.remaining_tokens)),
        ("x-ratelimit-reset-tokens", f"{lease.reset_tokens_s:.3f}"),
    )
    if code == "quota":
        raise Refusal(QUOTA_EXCEEDED, detail="daily tokens", headers=headers)
    detail = "rate" if code == "rate" else "concurrency"
    raise Refusal(RATE_LIMITED, retry_after_s=wait_s if code == "rate" else MIN_SLOT_WAIT_S, detail=detail, headers=headers)
