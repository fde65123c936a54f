"""How do shipped records lie in a segment, and where does the next one go? Lines, names and rotation, as pure values.

A segment is a file of JSON lines, of one origin and one period, named so that names sort by time:
`<origin>/yyyy/mm/dd/<period>-<first index>.jsonl`. Its lines are `{"index":N,"record":{...}}`, the record's exact bytes
inside, and after each batch `{"size":N,"checkpoint":"..."}`, a signed note that covers the records before it. Beside the segments lie
`<origin>/checkpoints/<size>.note`, single signed notes for `gateway audit verify --against`. Nothing written is ever written over.

Must not do I/O or read a clock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from gateway.audit.record import MAX_RECORD_BYTES
from gateway.audit.tree import leaf_hash
from gateway.ports import Held, Shipment

TAIL_BYTES: Final = 2 * (MAX_RECORD_BYTES + 4096)  # holds the last record line whole, whatever note follows it
MAX_SEGMENT_BLOCKS: Final = 40_000  # an append blob takes 50,000 blocks: the batch under way at a rotation still fits
_RECORD: Final = re.compile(rb'\{"index":(0|[1-9][0-9]{0,18}),"record":(\{.*\})\}')
_NAME: Final = re.compile(r"(?P<day>[0-9]{4}/[0-9]{2}/[0-9]{2})/(?P<period>day|h[0-9]{2})-(?P<first>[0-9]{20})\.jsonl")


class NotASegment(ValueError):
    """Bytes or a name that we did not write."""


class Segment(NamedTuple):
    """One segment by its name."""

    name: str  # with the origin's folder
    period: str  # `yyyy/mm/dd/day` or `yyyy/mm/dd/hHH`; sorts by time
    first: int


class Note(msgspec.Struct):
    size: int
    checkpoint: str


def folder(origin: str) -> str:
    """Return the folder of an origin: one path segment, whatever the origin holds, and never `.` or `..`."""
    return quote(origin, safe="").replace(".", "%2E") if set(origin) <= {"."} else quote(origin, safe="")


def period(now_s: float, *, hourly: bool) -> str:
    """Return the period that `now_s` (seconds since 1970) lies in, in UTC."""
    return time.strftime("%Y/%m/%d/h%H" if hourly else "%Y/%m/%d/day", time.gmtime(now_s))


def segment(origin: str, of: str, first: int) -> Segment:
    return Segment(f"{folder(origin)}/{of}-{first:020d}.jsonl", of, first)


def parse_name(origin: str, name: str) -> Segment:
    """Return the segment a name means. Raises `NotASegment`."""
    prefix = f"{folder(origin)}/"
    match = _NAME.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
    if match is None:
        raise NotASegment(f"`{name}` is not the name of a segment")
    return Segment(name, f"{match['day']}/{match['period']}", int(match["first"]))


def note_name(origin: str, size: int) -> str:
    return f"{folder(origin)}/checkpoints/{size:020d}.note"


def due(last: Segment, *, bytes_held: int, blocks: int, now: str, max_bytes: int) -> bool:
    """Return whether the next records open a new segment. A clock that went back opens none: names go on sorting by index."""
    return bytes_held > 0 and (now > last.period or blocks >= MAX_SEGMENT_BLOCKS or bytes_held >= max_bytes)


def lines(shipment: Shipment, start: int) -> bytes:
    """Return the lines of the records from index `start` on, then the checkpoint's."""
    parts = []
    for index, record in enumerate(shipment.records[start - shipment.first :], start):
        parts.append(b'{"index":%d,"record":%b}\n' % (index, record))
    size = int(shipment.checkpoint.split(b"\n", 2)[1])
    parts.append(msgspec.json.encode(Note(size, shipment.checkpoint.decode())) + b"\n")
    return b"".join(parts)


def records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (index, record) of each whole record line. Raises `NotASegment` for a line that is neither record nor checkpoint."""
    for line in data.splitlines():
        match = _RECORD.fullmatch(line)
        if match is not None:
            yield int(match[1]), match[2]
        elif not line.startswith(b'{"size":'):
            raise NotASegment("a line is neither a record nor a checkpoint")


def checkpoints(data: bytes) -> list[bytes]:
    """Return the signed notes in a segment, oldest first; nothing is judged. Lines that are something else are passed over."""
    found = []
    for line in data.splitlines():
        if line.startswith(b'{"size":'):
            try:
                found.append(msgspec.json.decode(line, type=Note).checkpoint.encode())
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
    return found


def held(last: Segment, tail: bytes, *, whole: bool) -> Held:
    """Return what a segment's last bytes say. `whole`: they are all of it. Raises `NotASegment`.

    An unfinished last line must have been cut off before: a sink that can leave one knows how to repair it.
    """
    if not tail:
        return Held(last.first)
    if not tail.endswith(b"\n"):
        raise NotASegment("the last line is not finished")
    if not whole:
        tail = tail[tail.index(b"\n") + 1 :]
    found: tuple[int, bytes] | None = None
    for found in records(tail):  # noqa: B007 - the last one is wanted
        pass
    if found is None:
        raise NotASegment("its end holds no record")
    return Held(found[0] + 1, leaf_hash(found[1]))


def rest(shipment: Shipment, has: Held) -> int:
    """Return the index to go on at; `shipment.end` when there is nothing left to do.

    Raises `NotASegment` for a gap, and where the sink's last record is another than ours of that index.
    """
    if has.end < shipment.first:
        raise NotASegment(f"it ends at {has.end}, and the next records begin at {shipment.first}")
    at = has.end - 1 - shipment.first
    if has.leaf is not None and 0 <= at < len(shipment.records) and leaf_hash(shipment.records[at]) != has.leaf:
        raise NotASegment(f"it holds another record {has.end - 1}: two logs share the origin, or one of them was changed")
    return min(shipment.end, has.end)
