"""What the gateway asks of the world, as small protocols with written contracts. Adapters live in `providers/`.

Every method says whether it may be repeated, what holds when it returns, and what it may raise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from gateway.evidence import Lease, Role, Segment, Span


class DocumentSource(Protocol):
    """Fetches a small public document (OIDC discovery, JWKS)."""

    async def fetch(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
        """Return the body of a GET on `url`. Idempotent. Never follows a redirect.

        Raises `OSError` (with `TimeoutError` among its kinds) for anything but a 200 of at most `max_bytes`.
        """
        ...


class RecordLog(Protocol):
    """The tamper-evident log, as the pipeline sees it."""

    @property
    def healthy(self) -> bool:
        """False for good after a failed write or sync: no log, no service."""
        ...

    def append(self, record: bytes, *, soon: bool = True) -> Ticket:
        """Take one canonical JSON record (at most 65,535 bytes) in order. Returns at once; durable when the ticket is awaited.

        `soon` False lets it ride with the next commit (10 ms later at most): for records that nothing waits for.
        Raises `LogUnavailable` when the log has failed or its bounded queue is full.
        """
        ...


class Ticket(Protocol):
    """A place in the log. `index` is known at once, durability only after `wait`."""

    @property
    def index(self) -> int: ...

    async def wait(self) -> int:
        """Return the index once the record and all before it are durable. Raises `LogUnavailable` if they never will be."""
        ...


class LogUnavailable(Exception):
    """The log cannot promise durability."""


class CounterStore(Protocol):
    """Atomic counters for limits. One call decides every limit of a request: all are taken or none is."""

    async def reserve(self, charge: Any, now_s: float) -> Lease:
        """Take requests, tokens, a concurrency slot and quota together. Not idempotent (a new lease each time).

        Raises `Refusal(RATE_LIMITED | QUOTA_EXCEEDED)` with nothing taken.
        """
        ...

    def standing(self, charge: Any, now_s: float) -> tuple[tuple[str, str], ...]:
        """Return the rate-limit headers of a subject as it stands, empty where that would cost a round trip. Takes nothing."""
        ...

    async def settle(self, lease: Lease, tokens: int, now_s: float) -> None:
        """Give back what was reserved and not used, or take what was used beyond it; free the slot. Idempotent by lease id."""
        ...


class SpanDetector(Protocol):
    """Finds entities in text. Pure and synchronous; deterministic for a given version."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def left_context(self) -> int:
        """Code points before a match that may influence it."""
        ...

    def scan(self, text: str, start: int = 0) -> list[Span]:
        """Return resolved, ordered, non-overlapping spans that begin at or after `start`; `text[:start]` is context only."""
        ...

    def viable_from(self, text: str, start: int = 0) -> int:
        """Return the least index >= `start` from which more text could still begin, extend or change a span; `len(text)` if none.

        The contract that makes streams exact: for c <= viable_from(a, s) with c not inside a span of scan(a, s), the spans
        of scan(a + b, s) before c are those of scan(a, s) before c, and the rest equals scan of the remainder with at
        least `left_context` code points of context, for every b.
        """
        ...


class NerDetector(Protocol):
    """Finds names by a statistical model, off the event loop. Best effort: no exactness is claimed over chunkings."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...

    async def detect(self, texts: Sequence[str], deadline_s: float) -> list[list[Span]]:
        """Return spans for each text. `deadline_s` is monotonic. Raises `InspectorUnavailable` past it or when the pool is full."""
        ...


class ClientGone(Exception):
    """The client left before its request was complete; there is nobody to answer."""


class InspectorUnavailable(Exception):
    """An inspector could not answer; the profile says whether that refuses the request (default) or not."""


class Moderator(Protocol):
    """Scores text for harm and prompt attacks. Pure and synchronous."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...

    def score(self, text: str, role: Role) -> dict[str, float]:
        """Return head -> calibrated score in 0..1 for hate sexual violence self_harm harassment illicit harmful attack."""
        ...

    def open(self, role: Role) -> ModerationSession:
        """Start incremental scoring of one channel."""
        ...


class ModerationSession(Protocol):
    def feed(self, words: str) -> dict[str, float]:
        """Add text that ends at a word boundary; return the running maximum of each head over every window seen so far.

        Chunk-invariant: the maxima depend on the concatenation alone, for any split at word boundaries.
        """
        ...


class Inspection(Protocol):
    """A remote inspector judging whole segments (Content Safety and its like)."""

    async def inspect(self, segments: Sequence[Segment], deadline_s: float) -> list[dict[str, float]]: ...


class UpstreamResponse(Protocol):
    """One backend answer. Its body belongs to whoever closes it."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> dict[str, str]:
        """Lower-case names; a repeated name keeps its first value."""
        ...

    def body(self) -> AsyncIterator[bytes]:
        """Yield body bytes as they come; back-pressure reaches the backend. Raises `UpstreamError` on a broken body."""
        ...

    async def aclose(self) -> None:
        """Close the connection unless the body was read whole (then it returns to the pool). Idempotent; never raises."""
        ...


class UpstreamError(Exception):
    """The backend or the way to it failed. `phase`: connect, send, head, body, protocol, timeout."""

    def __init__(self, phase: str, detail: str = "") -> None:
        super().__init__(f"{phase}: {detail}" if detail else phase)
        self.phase = phase
        self.detail = detail
