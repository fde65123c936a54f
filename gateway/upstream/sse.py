"""What events are in these bytes, and how is an event written? Server-sent events, sans-I/O.

Reads any split of a stream the same way, holds a bounded amount, and raises nothing but `SseError`. It must not know what the
data means. Specification: WHATWG HTML, section 9.2.6 (interpreting an event stream); `id` and `retry` are read and dropped,
for the gateway never reconnects.
"""

from __future__ import annotations

import msgspec

MAX_EVENT_BYTES = 1_048_576  # a whole Responses answer may come as one event
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_BOM = b"\xef\xbb\xbf"


class SseError(Exception):
    """The stream is not one of server-sent events, or an event is too large."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event. `name` is b"" for the default (`message`)."""

    data: bytes
    name: bytes = b""


class SseParser:
    """Bytes in, events out.

    A fault found after some events of one `feed` is raised by the next call, so that what is returned does not depend on how
    the bytes were split. Once raised, every later call raises.
    """

    __slots__ = ("_fault", "_held", "_max", "_skip_lf", "_started")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._held = bytearray()  # an unfinished event, line ends already LF
        self._skip_lf = False  # the last byte seen was a CR: a LF that follows belongs to it
        self._started = False
        self._fault: SseError | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete. Raises `SseError`."""
        if self._fault is not None:
            raise self._fault
        if (
            not self._held
            and data.isascii()
            and data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and data.find(b"\n") == len(data) - 2 < self._max
            and data.find(b"\r") < 0
            and not self._skip_lf
        ):
            # One whole plain event, as nearly every read is. It begins with neither a mark nor a line end, so no state matters.
            self._started = True
            return [Event(data[6:-2])]
        if not self._started or self._skip_lf or data.find(b"\r") >= 0:
            data = self._normalise(data)
        held = self._held
        if held:
            # A boundary may straddle the old end; only the new bytes and that one are searched, so that an event that comes
            # byte by byte costs no more than its length.
            joint = held.endswith(b"\n") and data.startswith(b"\n")
            if not joint and b"\n\n" not in data:
                held += data
                if len(held) > self._max + 1:
                    self._fail("event is too large", [])
                return []
            held += data
            data = bytes(held)
            held.clear()
        blocks = data.split(b"\n\n")
        tail = blocks.pop()
        largest = self._max
        ascii_only = data.isascii()
        events: list[Event] = []
        for block in blocks:
            if len(block) > largest:
                return self._fail("event is too large", events)
            if not ascii_only and not _is_utf8(block):
                return self._fail("event is not utf-8", events)
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(Event(block[6:]))
            else:
                event = _interpret(block)
                if event is not None:
                    events.append(event)
        if tail:
            held += tail
            if len(tail) > largest + 1:
                return self._fail("event is too large", events)
        return events

    def finish(self) -> bool:
        """Say that the bytes have ended. Returns False when an event was left unfinished (it is dropped). Raises `SseError`."""
        if self._fault is not None:
            raise self._fault
        return not self._held.strip(b"\n")

    def _fail(self, detail: str, events: list[Event]) -> list[Event]:
        self._fault = SseError(detail)
        self._held.clear()
        if not events:
            raise self._fault
        return events

    def _normalise(self, data: bytes) -> bytes:
        """Make every line end LF and drop one leading byte order mark."""
        if not self._started:
            data = bytes(self._held) + data
            self._held.clear()
            if len(data) < 3 and _BOM.startswith(data):
                self._held += data
                return b""
            self._started = True
            data = data.removeprefix(_BOM)
        if self._skip_lf and data:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _interpret(block: bytes) -> Event | None:
    """Read the lines of one block. None when it holds no data: comments and names alone dispatch nothing."""
    lines: list[bytes] = []
    name = b""
    for line in block.split(b"\n"):
        field, colon, value = line.partition(b":")
        if colon and not field:
            continue
        value = value.removeprefix(b" ")
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
    return Event(b"\n".join(lines), name) if lines else None


def data_event(data: bytes) -> bytes:
    """Return the wire form of one default event whose data has no line end (JSON never has). The hot path."""
    return b"data: %b\n\n" % data


def write_event(data: bytes, name: bytes = b"") -> bytes:
    """Return the wire form of any event. Raises `SseError` for what the format cannot carry."""
    if b"\r" in data or b"\n" in name or b"\r" in name:
        raise SseError("a carriage return, or a line end in a name, cannot be carried")
    head = b"event: %b\n" % name if name else b""
    return head + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"
