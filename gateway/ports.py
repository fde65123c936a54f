"""What the gateway asks of the world, as small protocols with written contracts. Adapters live in `providers/`.

Every method says whether it may be repeated, what holds when it returns, and what it may raise.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NoReturn, Protocol

import msgspec

from gateway.evidence import Lease, Role, Span, Subject


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


class Shipment(msgspec.Struct, frozen=True):
    """Consecutive records of one log and a signed checkpoint they are proven to lie under."""

    origin: str
    first: int  # index of the first record
    records: tuple[bytes, ...]  # canonical JSON, one line each; never empty
    checkpoint: bytes  # a C2SP signed note, of a size >= `end`

    @property
    def end(self) -> int:
        return self.first + len(self.records)


class Held(msgspec.Struct, frozen=True):
    """What a sink holds of one log."""

    end: int  # it holds every record below, as far as it is concerned
    leaf: bytes | None = None  # SHA-256(0x00 || record) of record `end - 1`, where the sink can still read it


class EvidenceSink(Protocol):
    """A second place for the log's records and checkpoints, out of reach of whoever holds this host.

    Delivery is at least once, in order of index, and idempotent by (origin, index).
    """

    async def held(self, origin: str) -> Held | None:
        """Return what the sink holds of this log, None when it cannot be asked (it only takes). Idempotent.

        Raises `SinkUnavailable`, `SinkRefused`.
        """
        ...

    async def ship(self, shipment: Shipment) -> None:
        """Take records and their checkpoint; durable at the sink on return. Records it holds are skipped, not doubled.

        May be repeated after any error: what was taken before it stays taken. Raises `SinkUnavailable` when asking again later may
        help, `SinkRefused` when a person has to look: other records under the same index, a gap, no permission.
        """
        ...

    async def aclose(self) -> None:
        """End what is under way. Idempotent; never raises."""
        ...


class SinkUnavailable(Exception):
    """The sink cannot take anything now. `why` holds no record; `retry_after_s` is what the sink asked for, 0 where it did not."""

    def __init__(self, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after_s = retry_after_s


class SinkRefused(Exception):
    """The sink will not take this until a person has looked. `why` holds no record."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class CounterStore(Protocol):
    """Atomic counters for limits. One call decides every limit of a request: all are taken or none is."""

    async def reserve(self, charge: Any, now_s: float) -> Lease:
        """Take requests, tokens, a concurrency slot and quota together. Not idempotent (a new lease each time).

        Raises `Refusal(RATE_LIMITED | QUOTA_EXCEEDED)` with nothing taken.
        """
        ...

    async def standing(self, charge: Any, now_s: float) -> tuple[tuple[str, str], ...]:
        """Return the rate-limit headers of a subject as it stands, for an answer that reserved nothing. Takes nothing, never raises."""
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


class Unjudgeable(InspectorUnavailable):
    """An inspector does not know this aspect, category or language."""


class TooMuch(InspectorUnavailable):
    """The texts are more than an inspector ever reads at once: for the caller to shorten, not an outage."""


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


class SecondOpinion(Protocol):
    """Scores texts with a slower and better model, off the event loop. Asked only where the first leaves doubt."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...

    async def judge(self, texts: Sequence[str], roles: Sequence[Role], deadline_s: float) -> list[tuple[dict[str, float], bool]]:
        """Return, for each text, head -> calibrated score in 0..1 as `Moderator.score` does, and whether all of it was read.

        A text that it cannot read has no scores. `deadline_s` is monotonic. Idempotent. Raises `InspectorUnavailable` past it, when the
        queue is full, or after `close`.
        """
        ...

    def close(self) -> None:
        """Let go of everything. Idempotent; what is being judged fails."""
        ...


class Aspect(StrEnum):
    """What a remote moderator can be asked about a text."""

    CATEGORIES = "categories"  # severities of the heads named, and blocklists
    ATTACK = "attack"  # a prompt attack, by the user or in a document
    PROTECTED = "protected"  # known protected text, in answers
    GROUNDED = "grounded"  # whether an answer keeps to its sources


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One text for a remote moderator. `heads` are ours; `language` is a code or `und`; `sources` and `query` serve `GROUNDED` alone."""

    text: str
    role: Role
    aspects: frozenset[Aspect]
    heads: tuple[str, ...] = ()
    blocklists: tuple[str, ...] = ()
    language: str = "und"
    eight_levels: bool = False  # severities 0 to 7, else 0, 2, 4, 6
    query: str = ""
    sources: tuple[str, ...] = ()


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of what was asked. `severities` holds every head asked for, 0 to 7; `blocklists` the names of those hit."""

    severities: Mapping[str, int] = {}
    attack: bool = False
    protected: bool = False
    ungrounded: bool = False
    blocklists: tuple[str, ...] = ()


class RemoteModerator(Protocol):
    """An inspector judging whole texts somewhere else (Content Safety and its like)."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...

    async def judge(self, questions: Sequence[Question], deadline_s: float) -> list[Judgement]:
        """Return a judgement for each question, in order. `deadline_s` is monotonic and holds for all of them. Idempotent.

        Raises `InspectorUnavailable` when any question stays unanswered, and `Unjudgeable` for one that cannot be answered at all:
        an aspect, head or language it does not know is never reported as harmless. No text is in either.
        """
        ...

    async def aclose(self) -> None:
        """End what is under way. Idempotent; never raises."""
        ...


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


class CallerHeaders(Protocol):
    """The headers of the request being served, for the one credential that has to pass them on in another form."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header by its lower-case name."""
        ...


class BackendCredential(Protocol):
    """What the gateway shows to one backend: a key, its own identity, or the caller's by the caller's leave."""

    @property
    def personal(self) -> bool:
        """Whether the backend sees the caller, so that its 401 and 403 speak of the caller and not of us."""
        ...

    async def headers(self, subject: Subject, caller: CallerHeaders | None, now_s: float) -> tuple[tuple[bytes, bytes], ...]:
        """Return our credential headers, good at `now_s` (seconds since 1970). Idempotent; from memory but for the first time.

        A credential made for one subject is never returned for another. Nothing of `caller` is kept. Raises
        `UpstreamError("credential", ...)` where there is none to be had, and `Refusal` where it is the caller that must do
        something: 401 with a claims challenge, or 403. Neither holds a secret, a token or a word of whoever refused it.
        """
        ...

    def rejected(self, subject: Subject, now_s: float) -> None:
        """Take note that the backend did not accept the credential (401): the next one is got anew. Idempotent, never raises."""
        ...

    async def ready(self, now_s: float) -> bool:
        """Return whether a credential can be had, asking for it where none is held. Never raises."""
        ...

    async def aclose(self) -> None:
        """End what is under way. Idempotent; never raises."""
        ...


class GroupSource(Protocol):
    """Knows the groups of a subject whose token could not hold them all."""

    async def groups_of(self, directory_id: str, object_id: str, *, application: bool, now_s: float) -> frozenset[str]:
        """Return the object ids of every group the subject is in, nested ones included. Idempotent; may be a few minutes old.

        Never an incomplete set. Raises `GroupsUnavailable`.
        """
        ...

    async def aclose(self) -> None:
        """End what is under way. Idempotent; never raises."""
        ...


class GroupsUnavailable(Exception):
    """The groups of a subject cannot be known now. `why` names nobody."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Secret:
    """Bytes that do not print. `version` is the source's own name for the value, "" where it has none; it may be logged."""

    __slots__ = ("_value", "expires_at_s", "version")

    def __init__(self, value: bytes, version: str = "", expires_at_s: float | None = None) -> None:
        self._value = value
        self.version = version
        self.expires_at_s = expires_at_s  # as its source declares, seconds since 1970

    def reveal(self) -> bytes:
        return self._value

    def same(self, other: Secret) -> bool:
        """Return whether both hold the same bytes, in constant time."""
        return hmac.compare_digest(self._value, other._value)

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not leave its process")


class SecretMissing(Exception):
    """A reference leads nowhere, and asking again does not help. The message names the reference, never a value."""


class SecretUnavailable(Exception):
    """A source cannot answer now. The message names the reference, never a value; `retry_after_s` is what the source asked for."""

    def __init__(self, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class SecretSource(Protocol):
    """Where the references of one scheme lead. Keeps no value: whoever asks holds the last good one through an outage."""

    @property
    def refresh_s(self) -> float:
        """Seconds after which a value is worth asking for again, 0 where it cannot change while the process runs."""
        ...

    async def fetch(self, reference: str) -> Secret:
        """Return what the whole reference (`scheme:...`) leads to now. Idempotent; bounded in time by the caller as well.

        Another value has another `version`, where versions are not empty. Raises `SecretMissing` for what a person has to mend
        and `SecretUnavailable` for what may pass; neither holds a value or anything a source said beyond its error codes.
        """
        ...

    async def aclose(self) -> None:
        """End what is under way. Idempotent; never raises."""
        ...


class UpstreamError(Exception):
    """The backend or the way to it failed. `phase`: credential, connect, send, head, body, protocol, timeout."""

    def __init__(self, phase: str, detail: str = "") -> None:
        super().__init__(f"{phase}: {detail}" if detail else phase)
        self.phase = phase
        self.detail = detail
