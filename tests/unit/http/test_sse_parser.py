from __future__ import annotations

import pytest

from gateway.upstream.sse import DONE, KEEP_ALIVE, Event, SseError, SseParser, data_event, write_event


def parse(*parts: bytes, max_event_bytes: int = 1 << 20) -> list[Event]:
    parser = SseParser(max_event_bytes)
    return [event for part in parts for event in parser.feed(part)]


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (b'data: {"a":1}\n\n', [Event(b'{"a":1}')]),
        (b"data: a\n\ndata: b\n\n", [Event(b"a"), Event(b"b")]),
        (b"data:a\n\n", [Event(b"a")]),
        (b"data:  a\n\n", [Event(b" a")]),
        (b"data\n\n", [Event(b"")]),
        (b"data:\n\n", [Event(b"")]),
        (b"data: a\ndata: b\n\n", [Event(b"a\nb")]),
        (b"data: a\r\ndata: b\r\n\r\n", [Event(b"a\nb")]),
        (b"data: a\rdata: b\r\r", [Event(b"a\nb")]),
        (b"data: a\r\n\n", [Event(b"a")]),
        (b"data: a\n\r\n", [Event(b"a")]),
        (b"event: error\ndata: x\n\n", [Event(b"x", b"error")]),
        (b"event: lost\n\ndata: x\n\n", [Event(b"x")]),
        (b"event: a\nevent: b\ndata: x\n\n", [Event(b"x", b"b")]),
        (b": keep-alive\n\ndata: x\n\n", [Event(b"x")]),
        (b": comment\ndata: x\n: more\n\n", [Event(b"x")]),
        (b"\n\n\n\ndata: x\n\n\n", [Event(b"x")]),
        (b"id: 7\nretry: 10\nnonsense\ndata: x\n\n", [Event(b"x")]),
        (b"Data: x\n\n", []),
        (b" data: x\n\n", []),
        (b"\xef\xbb\xbfdata: x\n\n", [Event(b"x")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
        (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [Event(b"x")]),
        ("data: é€😀\n\n".encode(), [Event("é€😀".encode())]),
        (b"data: unfinished\n", []),
        (b"data: [DONE]\n\n", [Event(b"[DONE]")]),
        (b"", []),
    ],
)
def test_events_are_read_as_the_specification_says(raw, events):
    assert parse(raw) == events
    assert parse(*(raw[at : at + 1] for at in range(len(raw)))) == events


def test_a_line_end_split_between_reads_is_one_line_end():
    assert parse(b"data: a\r", b"\ndata: b\r\n\r", b"\n", b"data: c\n\n") == [Event(b"a\nb"), Event(b"c")]


@pytest.mark.parametrize("bad", [b"data: \xff\n\n", b"data: \xc3\n\n", b"data: \xed\xa0\x80\n\n", b"\xffdata: x\n\n"])
def test_invalid_utf8_is_an_error_and_stays_one(bad):
    parser = SseParser()
    assert parser.feed(b"data: ok\n\n" + bad) == [Event(b"ok")]
    for _ in range(2):
        with pytest.raises(SseError, match="utf-8"):
            parser.feed(b"data: later\n\n")
    with pytest.raises(SseError):
        parser.finish()


@pytest.mark.parametrize("raw", [b"data: " + b"x" * 100 + b"\n\n", b"data: " + b"x" * 100, b": " + b"c" * 100 + b"\n", b"data: x\n" * 20])
def test_an_event_larger_than_the_bound_is_an_error_before_it_is_complete(raw):
    with pytest.raises(SseError, match="too large"):
        parse(raw, max_event_bytes=64)
    with pytest.raises(SseError, match="too large"):
        parse(*(raw[at : at + 1] for at in range(len(raw))), max_event_bytes=64)


def test_an_event_of_just_the_bound_passes():
    block = b"data: " + b"x" * 58
    assert parse(block + b"\n\n", max_event_bytes=64) == [Event(b"x" * 58)]
    assert parse(block, b"\n", b"\n", max_event_bytes=64) == [Event(b"x" * 58)]


def test_finish_tells_whether_something_was_cut_off():
    for raw, clean in ((b"data: x\n\n", True), (b"data: x\n\n\n", True), (b"", True), (b"data: x\n", False), (b"data", False)):
        parser = SseParser()
        parser.feed(raw)
        assert parser.finish() is clean


def test_a_large_event_that_comes_byte_by_byte_costs_no_more_than_its_length():
    parser = SseParser(1 << 20)
    for _ in range(300_000):
        assert parser.feed(b"x") == []
    assert parser.feed(b"\n\n") == []


def test_the_constants_are_events():
    assert parse(DONE) == [Event(b"[DONE]")]
    assert parse(KEEP_ALIVE) == []
    assert parse(data_event(b"{}")) == [Event(b"{}")]


@pytest.mark.parametrize(("data", "name"), [(b"a\rb", b""), (b"a", b"b\nc"), (b"a", b"b\rc")])
def test_what_the_format_cannot_carry_is_not_written(data, name):
    with pytest.raises(SseError):
        write_event(data, name)
