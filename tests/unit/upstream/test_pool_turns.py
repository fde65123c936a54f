"""A turn that comes in the same moment as its caller leaves is handed on, never lost."""

from __future__ import annotations

import asyncio
import time

import pytest
from faults.scripted_backend import OK, OK_BODY, ScriptedBackend

from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.client import BackendClient


@pytest.mark.parametrize("turn", ["connection", "leave to open"])
@pytest.mark.parametrize("others", [0, 1])
async def test_a_turn_and_a_cancellation_in_the_same_moment(turn, others):
    async with ScriptedBackend(OK) as backend:
        client = BackendClient(backend.url, limits=Limits(max_connections=1))
        pool, bounds, total_s = client.pool, Timeouts(pool_s=0.5), time.monotonic() + 5
        held = await pool.acquire(bounds, total_s)
        leaving = asyncio.create_task(pool.acquire(bounds, total_s))
        staying = [asyncio.create_task(pool.acquire(bounds, total_s)) for _ in range(others)]
        await asyncio.sleep(0)
        assert f"{1 + others} waiting" in repr(pool)
        if turn == "connection":
            pool.freed(held)
        else:
            held.abandon()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        for task in staying:
            pool.freed(await task)
        assert "0 opening, 0 waiting" in repr(pool)
        response = await client.post("/x", [], b"")
        assert await response.read(100) == OK_BODY
        await client.aclose()


async def test_closing_the_pool_tells_those_who_wait():
    async with ScriptedBackend(OK) as backend:
        client = BackendClient(backend.url, limits=Limits(max_connections=1))
        total_s = time.monotonic() + 5
        await client.pool.acquire(Timeouts(), total_s)
        waiting = asyncio.create_task(client.pool.acquire(Timeouts(), total_s))
        await asyncio.sleep(0)
        await client.aclose()
        results = await asyncio.gather(waiting, client.pool.acquire(Timeouts(), total_s), return_exceptions=True)
        assert [result.phase for result in results] == ["pool", "pool"]
