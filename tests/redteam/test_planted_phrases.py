"""A planted value, cut at every offset, reaches no client: each type, operation, stream mode and channel; and through the whole gateway."""

from __future__ import annotations

import json
from functools import cache

import msgspec
import pytest
from poured_streams import DONE, Poured, ending, event, pour, starter_rules

from gateway.content.rules import Rules
from gateway.evidence import Operation, StreamMode

PLANTED = {
    "EMAIL_ADDRESS": "jane.roe@example.com",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "IBAN_CODE": "DE89 3704 0044 0532 0130 00",
    "US_SSN": "536-90-4399",
    "PHONE_NUMBER": "+49 30 901820 17",
    "IP_ADDRESS": "203.0.113.57",
    "SECRET": "AKIA" + "Q3EXAMPLE7XK2MPL",
    "SECRET with blanks": "pass" + "word = Tr0ub4dor&3xkcd",
    "BLOCKLIST": "project bluebird prototype",
}
LEADS = {"US_SSN": "her social security number is ", "PHONE_NUMBER": "call her on ", "IBAN_CODE": "the IBAN is "}
SEVERAL_WORDS = {"CREDIT_CARD", "IBAN_CODE", "PHONE_NUMBER", "BLOCKLIST"}  # of which a word leaves before the next has come
CHANNELS = ["content", "reasoning", "refusal", "arguments", "name"]
MODES = list(StreamMode)


@cache
def rules() -> Rules:
    given = starter_rules()
    return msgspec.structs.replace(given, outbound=msgspec.structs.replace(given.outbound, blocklist=given.inbound.blocklist))


def said(type_: str, channel: str) -> tuple[str, int, int]:
    """Return a text with the planted value, and where the value stands in it."""
    value = PLANTED[type_]
    if channel == "name":
        return value, 0, len(value)
    before = f"As you asked, {LEADS.get(type_, 'it is ')}"
    text = f"{before}{value} and that was all of it."
    if channel == "arguments":
        before, text = '{"note": "' + before, json.dumps({"note": text})
    return text, len(before), len(before) + len(value)


def secret_part(type_: str) -> str:
    """What of it must not be seen: of a named password the password."""
    return "Tr0ub4dor" if type_ == "SECRET with blanks" else PLANTED[type_]


def kept_back(poured: Poured, type_: str) -> bool:
    return not poured.holds(secret_part(type_)) and secret_part(type_).encode() not in poured.raw


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("type_", PLANTED)
@pytest.mark.parametrize("channel", CHANNELS)
async def test_cut_at_every_offset_over_events(channel: str, type_: str, mode: StreamMode) -> None:
    text, begin, end = said(type_, channel)
    for at in range(max(1, begin), end):
        chunks = [event(channel, text[:at]), event(channel, text[at:]), ending(), DONE]
        poured = await pour(chunks, mode=mode, rules=rules())
        assert kept_back(poured, type_), at
        assert poured.fault is not None or poured.blocked or poured.texts, "nothing was poured: the test says nothing"


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("type_", PLANTED)
async def test_cut_at_every_offset_of_a_completion(type_: str, mode: StreamMode) -> None:
    text, begin, end = said(type_, "content")
    o = Operation.COMPLETIONS
    for at in range(begin, end):
        chunks = [event("", text[:at], operation=o), event("", text[at:], operation=o), ending(operation=o), DONE]
        assert kept_back(await pour(chunks, mode=mode, rules=rules(), operation=o), type_), at


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("type_", PLANTED)
async def test_one_character_an_event(type_: str, mode: StreamMode) -> None:
    for channel in CHANNELS:
        text, _, _ = said(type_, channel)
        poured = await pour([*(event(channel, sign) for sign in text), ending(), DONE], mode=mode, rules=rules())
        if mode is StreamMode.ASYNC and type_ in SEVERAL_WORDS and channel in ("content", "reasoning", "refusal"):
            assert poured.blocked, "what was shown word by word must at least end the stream"
        else:
            assert kept_back(poured, type_), channel


@pytest.mark.parametrize("type_", PLANTED)
async def test_the_bytes_cut_at_every_offset(type_: str) -> None:
    """Where the network cuts the backend's bytes, inside a JSON escape or between the two line ends, changes nothing at all."""
    text, begin, _ = said(type_, "content")
    data = b"".join([event("content", text[: begin + 3]), event("content", text[begin + 3 :]), ending(), DONE])
    expected = await pour([data], rules=rules())
    for at in range(1, len(data)):
        poured = await pour([data[:at], data[at:]], rules=rules())
        assert kept_back(poured, type_), at
        assert poured.blocked == expected.blocked and (poured.blocked or poured.texts == expected.texts), at


@pytest.mark.parametrize("stream_mode", [StreamMode.WINDOW, StreamMode.STRICT], ids=str)
async def test_prose_around_a_value_is_delivered(stream_mode: StreamMode) -> None:
    """The counter-test: what is not planted passes, so the tests above do not pass because nothing does."""
    for channel in ("content", "reasoning", "refusal", "arguments"):
        text, begin, _ = said("EMAIL_ADDRESS", channel)
        poured = await pour([event(channel, text[:begin]), event(channel, text[begin:]), ending(), DONE], mode=stream_mode, rules=rules())
        assert "As you asked, it is <EMAIL_ADDRESS> and that was all of it." in poured.text(channel)
