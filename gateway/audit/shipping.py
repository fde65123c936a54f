"""How far has each sink come, when is it asked again, and how far is it behind? The decisions of evidence shipping, without I/O.

The local log is the source of truth: nothing is held in memory but the batch under way, so a sink that is away for long costs disk that
is there anyway. Time and randomness are arguments.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from gateway.ports import Held

_BASE_S: Final = 1.0
_CAP_S: Final = 60.0
_RETRY_AFTER_CAP_S: Final = 300.0  # what a sink may ask for: more would be a way to silence it


class LogDiffers(Exception):
    """The local log is not the one that was shipped: cut, rolled back or changed. A finding, never repaired by shipping on."""


class Cursor(msgspec.Struct, frozen=True):
    """How far one sink has come, kept beside the log. `root` is the tree's root at `end`, in hex."""

    origin: str
    end: int
    root: str


class Bounds(msgspec.Struct, frozen=True):
    """What one batch holds at most. At least one record goes, whatever its size."""

    records: int = 1000
    bytes: int = 900_000


def encode(cursor: Cursor) -> bytes:
    return msgspec.json.encode(cursor) + b"\n"


def decode(data: bytes) -> Cursor | None:
    """Return the cursor, None for bytes that are none: the log and the sink know the rest."""
    try:
        cursor = msgspec.json.decode(data, type=Cursor)
        bytes.fromhex(cursor.root)
    except (msgspec.DecodeError, ValueError):
        return None
    return cursor if cursor.end >= 0 else None


def start(cursor: Cursor | None, held: Held | None, published: int) -> int:
    """Return the index to ship from. Raises `LogDiffers` when sink or cursor know of more than the log has.

    What the sink says goes before the cursor: a crash between the two writes leaves the cursor behind, and a sink that lost its
    end is filled up again.
    """
    if held is not None and held.end > published:
        raise LogDiffers(f"the sink holds {held.end} records, the log's checkpoint covers {published}: the log was cut or rolled back")
    if cursor is not None and cursor.end > published:
        raise LogDiffers(f"{cursor.end} records were shipped, the log's checkpoint covers {published}: the log was cut or rolled back")
    if held is not None:
        return held.end
    return cursor.end if cursor is not None else 0


def backoff_s(failures: int, retry_after_s: float, draw: float) -> float:
    """Return how long to leave the sink alone after `failures` in a row. `draw` is uniform in [0, 1).

    Doubles from a second to a minute with half of it drawn, so that replicas do not come back in step; never sooner than asked.
    """
    step_s: float = min(_CAP_S, _BASE_S * 2.0 ** min(max(0, failures - 1), 10))
    return max(step_s * (0.5 + draw / 2), min(max(0.0, retry_after_s), _RETRY_AFTER_CAP_S))


class _Timed(msgspec.Struct):
    time: str


def recorded_at_s(record: bytes) -> float | None:
    """Return a record's time in seconds since 1970, None where it has none."""
    try:
        return datetime.fromisoformat(msgspec.json.decode(record, type=_Timed).time).timestamp()
    except (msgspec.DecodeError, ValueError, OverflowError):
        return None


class Standing:
    """How one sink stands, for metrics and readiness. Written by its shipper, read by anybody on the loop."""

    __slots__ = ("differs", "end", "failures", "in_a_row", "oldest_s", "shipped", "why")

    def __init__(self) -> None:
        self.end = 0  # records the sink holds
        self.shipped = 0  # records sent by this process
        self.failures = 0  # attempts that failed, ever
        self.in_a_row = 0
        self.differs = False  # the local log and the sink contradict each other
        self.oldest_s: float | None = None  # when the oldest record known to wait was made, seconds since 1970
        self.why = ""  # of the last failure

    def sent(self, end: int, count: int) -> None:
        self.end = end
        self.shipped += count
        self.in_a_row = 0
        self.differs = False
        self.oldest_s = None
        self.why = ""

    def failed(self, why: str, *, differs: bool = False) -> None:
        self.failures += 1
        self.in_a_row += 1
        self.differs = self.differs or differs
        self.why = why

    def backlog(self, size: int) -> int:
        """Return how many of the log's `size` durable records the sink does not hold."""
        return max(0, size - self.end)

    def age_s(self, size: int, now_s: float) -> float:
        """Return how long the oldest record that waits has waited; 0 when none does or none was looked at yet."""
        if self.oldest_s is None or not self.backlog(size):
            return 0.0
        return max(0.0, now_s - self.oldest_s)
