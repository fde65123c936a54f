"""Whatever the bytes and however they are cut: the same events, the same fault, bounded memory, no other exception."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.sse import Event, SseError, SseParser, write_event

MAX = 64
PIECES = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"data",
        b"event: e",
        b": c",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"x",
        b'{"a":1}',
        b"\xef\xbb\xbf",
        b"\xef",
        b"\xc3\xa9",
        b"\xff",
        b"\0",
    ]
)
STREAMS = st.one_of(st.lists(PIECES, max_size=40).map(b"".join), st.binary(max_size=120))


def outcome(parts: list[bytes]) -> tuple[list[Event], str]:
    parser = SseParser(MAX)
    events: list[Event] = []
    try:
        for part in parts:
            events += parser.feed(part)
            assert len(parser._held) <= MAX + 1
        return events, f"clean={parser.finish()}"
    except SseError as fault:
        return events, str(fault)


def cut(raw: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({min(mark, len(raw)) for mark in at})
    return [raw[start:end] for start, end in zip([0, *marks], [*marks, len(raw)], strict=True)]


@settings(max_examples=1500, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 160), max_size=12))
def test_any_split_gives_the_same_events_and_the_same_fault(raw, at):
    assert outcome(cut(raw, at)) == outcome([raw])


@settings(max_examples=300, deadline=None)
@given(STREAMS)
def test_byte_by_byte_is_no_different(raw):
    assert outcome([raw[at : at + 1] for at in range(len(raw))]) == outcome([raw])


DATA = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=40).map(str.encode)
NAMES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=10).map(str.encode)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(DATA, NAMES), max_size=8), st.lists(st.integers(0, 600), max_size=8))
def test_what_is_written_is_read_again(events, at):
    raw = b"".join(write_event(data, name) for data, name in events)
    parser = SseParser(4096)
    read = [event for part in cut(raw, at) for event in parser.feed(part)]
    assert read == [Event(data, name) for data, name in events]
    assert parser.finish()
