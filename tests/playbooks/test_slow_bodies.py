"""Bodies that come slowly take places others need, before any limit was asked: one subject gets a share of them and no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from play import FakeInbound, Script, play, someone

from gateway.house import Gate, House
from gateway.pipeline import UPLOAD_SHARE, receive
from gateway.refusals import OVERLOADED, Refusal


class Slow(FakeInbound):
    """A body that comes when it is told to."""

    def __init__(self, come: asyncio.Event) -> None:
        super().__init__(Script(None), "POST", "/v1/chat/completions", b"{}", ())
        self.come = come

    async def body(self, max_bytes: int) -> bytes:
        await self.come.wait()
        return b"{}"


async def some_house(max_exchanges: int) -> House:
    return (await play(max_exchanges=max_exchanges)).house


async def test_one_subject_cannot_hold_every_place_with_bodies_that_never_come() -> None:
    house, come = await some_house(64), asyncio.Event()
    ann, bob = someone("", subject_id="ann"), someone("", subject_id="bob")
    held: list[asyncio.Task[bytes]] = []
    for _ in range(64 // UPLOAD_SHARE):
        held.append(asyncio.ensure_future(receive(Slow(come), ann, house)))
        await asyncio.sleep(0)
    with pytest.raises(Refusal) as no:
        await receive(Slow(come), ann, house)
    assert no.value.kind is OVERLOADED and no.value.retry_after_s
    other = asyncio.ensure_future(receive(Slow(come), bob, house))
    await asyncio.sleep(0)
    held[0].cancel()
    await asyncio.gather(held[0], return_exceptions=True)
    held[0] = asyncio.ensure_future(receive(Slow(come), ann, house))
    come.set()
    assert await asyncio.gather(other, *held) == [b"{}"] * (1 + len(held))
    assert house.active.uploads == {}


@pytest.mark.parametrize("max_exchanges", [1, 2, 8])
async def test_a_small_house_serves_everyone_all_the_same(max_exchanges: int) -> None:
    assert (await play(max_exchanges=max_exchanges)).sink.status == 200


async def test_who_holds_too_many_is_on_the_record() -> None:
    who = someone()
    played: Any = await play(who=who, breaks={"max_exchanges": 4, "active": full(who)})
    assert (played.sink.status, played.types) == (503, ["refused"])
    assert played.record("refused")["detail"] == "bodies of one subject"


def full(who: Any) -> Any:
    gate = Gate()
    gate.uploads[(who.tenant, who.issuer, who.subject_id)] = 4
    return gate
