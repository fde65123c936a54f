"""What the client sent: the body bounded while it is read, the headers single."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.http.intake import Inbound
from gateway.ports import ClientGone
from gateway.refusals import MALFORMED, TOO_LARGE, UNSUPPORTED_MEDIA, Kind, Refusal

JSON = (b"content-type", b"application/json")


def inbound(*messages: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...] = (JSON,)) -> Inbound:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers), "client": ("192.0.2.1", 1)}
    return Inbound(scope, receive)


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


async def test_a_body_in_parts() -> None:
    assert await inbound(part(b"a", True), part(b"b", True), part(b"c")).body(3) == b"abc"


@pytest.mark.parametrize("parts", [[part(b"abcd")], [part(b"ab", True), part(b"cd")], [part(b"", True)] * 3 + [part(b"abcd", True)]])
async def test_a_body_over_its_bound(parts: list[dict[str, Any]]) -> None:
    with pytest.raises(Refusal) as no:
        await inbound(*parts).body(3)
    assert no.value.kind is TOO_LARGE


async def test_an_endless_body_is_not_read_to_its_end() -> None:
    with pytest.raises(Refusal):  # a third part would be asked of nobody
        await inbound(*[part(b"ab", True)] * 2).body(3)


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ((), UNSUPPORTED_MEDIA),
        (((b"content-type", b"text/plain"),), UNSUPPORTED_MEDIA),
        (((b"content-type", b"application/json; charset=utf-16"),), UNSUPPORTED_MEDIA),
        ((JSON, (b"content-encoding", b"gzip")), UNSUPPORTED_MEDIA),
        ((JSON, (b"content-encoding", b"identity")), UNSUPPORTED_MEDIA),
        ((JSON, JSON), MALFORMED),
        ((JSON, (b"content-length", b"4")), TOO_LARGE),
        ((JSON, (b"content-length", b"-1")), TOO_LARGE),
        ((JSON, (b"content-length", b"9" * 5_000)), TOO_LARGE),
    ],
)
async def test_headers_are_judged_before_a_byte_is_read(headers: tuple[tuple[bytes, bytes], ...], kind: Kind) -> None:
    with pytest.raises(Refusal) as no:
        await inbound(headers=headers).body(3)
    assert no.value.kind is kind


@pytest.mark.parametrize("messages", [[GONE], [part(b"a", True), GONE]])
async def test_a_client_that_leaves_while_sending(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ClientGone):
        await inbound(*messages).body(3)


async def test_leaving_is_told_once_and_only_while_watched() -> None:
    told: list[int] = []
    given = inbound(part(b"late"), GONE)
    given.on_gone(lambda: told.append(1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == [1] and given.left
    other = inbound(GONE)
    other.on_gone(lambda: told.append(2))
    other.stop_watching()
    await asyncio.sleep(0)
    assert told == [1] and not other.left
