"""How is what happened written down? Canonical JSON records, the pseudonyms in them, and the frames they are committed in.

Must not do I/O or read a clock, and never holds prompts, answers, tokens, keys or raw identities: the caller passes
pseudonyms, names and numbers. RFC 8259; times are RFC 3339 with milliseconds in UTC.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

MAX_RECORD_BYTES: Final = 65_535

FIELDS: Final[Mapping[str, str]] = {
    "type": "start, stop, opened, closed, refused, summary, policy_change, or a name of the caller's own",
    "time": "RFC 3339, milliseconds, UTC",
    "instance": "the process that wrote the record",
    "request_id": "the exchange; joins `opened` with `closed`",
    "trace_id": "W3C trace id, 32 hex digits",
    "tenant": "id of the tenant",
    "subject": "HMAC of the subject id under the tenant's key",
    "subject_kind": "user, application, service_account, key",
    "application": "calling application",
    "token": "HMAC of the token id under the tenant's key",
    "peer": "peer network: who exactly is nobody's business",
    "zone": "the settings' name of the network the peer is in",
    "unknown": "HMAC and length of each name the caller made up: a model, keys of the body",
    "action": "what was asked for, in the policy's words",
    "resource": "on what",
    "route": "client-facing model name",
    "backend": "resolved backend",
    "decision": "permit or forbid",
    "policy_ids": "policies that decided",
    "policy_digest": "the policy set",
    "obligations": "what the permit demanded",
    "schema": "the schema the body was held against",
    "detectors": "name, version and verdict of each",
    "entities": "counts of redacted entities by type",
    "usage": "tokens reserved and actual",
    "cost_microusd": "price of the exchange",
    "cache": "whether the answer or verdict came from a cache",
    "timings_ms": "by stage",
    "outcome": "finished, blocked, cut, client_gone, failed, unknown",
    "refusal": "code of the refusal",
    "request_hmac": "HMAC of the canonical request",
    "answer_hmac": "HMAC of the released answer",
    "client_trace": "trace id the client sent: a link, never our parent",
    "stream": "whether the answer was streamed",
    "status": "HTTP status",
    "attempts": "backends tried",
    "inbound": "verdict on the request: detectors, entities, scores, action",
    "outbound": "verdict on the answer",
    "uninspected": "JSON paths released unread under a named grant",
    "reserved_tokens": "tokens the lease holds",
    "limits_degraded": "limits were decided without the shared store",
    "detail": "private half of a refusal; no content",
    "opened": "in `closed`: index of the exchange's `opened` record",
    "cut": "fields that were shortened to fit the size of a record",
}


# --- canonical JSON

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode

# SECURITY: log injection. JSON escapes below U+0020; these would still move a terminal's cursor, break a line or reorder it.
_UNSAFE = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_STEPS: Final = ((64, 2048), (16, 512), (4, 128), (1, 32))  # (entries of a list or object, characters of a text), tried in turn
_CORE: Final = ("type", "time", "instance", "request_id", "tenant", "subject", "action", "decision", "outcome", "refusal", "opened")
_MAX_DEPTH: Final = 32


def encode(fields: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of a record: sorted keys, no NaN, control and bidirectional characters escaped.

    Deterministic. Never more than 65,535 bytes: long lists, objects and texts are cut alike everywhere and `cut` names the
    fields they were in. A value JSON cannot hold becomes text, so that what happened is recorded whatever it was.
    """
    try:
        data = _encode(fields)
    except (TypeError, ValueError, RecursionError):  # a lone surrogate, a key that is no text, an object, a loop
        data = _encode({_text(key): _plain(value, 0) for key, value in fields.items()})
    data = escape(data)
    return data if len(data) <= MAX_RECORD_BYTES else _shrink(_decode(data))


def parse(record: bytes) -> dict[str, Any]:
    """Return a record's fields. Raises `ValueError` for anything but one JSON object that names its type."""
    if len(record) > MAX_RECORD_BYTES:
        raise ValueError("the record is too long")
    try:
        fields = _decode(record)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError("the record is not a JSON object") from error
    if not isinstance(fields.get("type"), str):
        raise ValueError("the record has no type")
    return fields


def _text(key: object) -> str:
    return str(key).encode("utf-8", "replace").decode()


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int):
        return value if not isinstance(value, int) or abs(value) < 1 << 63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _text(value)
    if depth >= _MAX_DEPTH:
        return "<deep>"
    if isinstance(value, Mapping):
        return {_text(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_text(inner) for inner in value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(inner, depth + 1) for inner in value]
    return f"<{type(value).__name__}>"  # never its repr: that may hold content


def _shrink(fields: Mapping[str, Any]) -> bytes:
    ranked = sorted(fields, key=lambda key: (key not in FIELDS, key))  # what the log lives by stays, whatever came with it
    for entries, characters in _STEPS:
        short = {key: _cut(fields[key], entries, characters) for key in ranked[: len(FIELDS) + entries]}
        cut = sorted(key[:64] for key, value in fields.items() if short.get(key) != value)[:64]
        data = escape(_encode({**short, "cut": cut}))
        if len(data) <= MAX_RECORD_BYTES:
            return data
    core = {key: _cut(fields[key], 1, 64) for key in _CORE if key in fields and not isinstance(fields[key], dict | list)}
    return escape(_encode({**core, "cut": ["*"]}))


def escape(data: bytes) -> bytes:
    """Escape what JSON leaves raw and a terminal or a log reader would obey."""
    if data.isascii() and b"\x7f" not in data:
        return data
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", data.decode()).encode()


def _cut(value: Any, entries: int, characters: int) -> Any:
    if isinstance(value, str):
        return value[:characters]
    if isinstance(value, list):
        return [_cut(inner, entries, characters) for inner in value[:entries]]
    if isinstance(value, dict):
        return {key[:64]: _cut(value[key], entries, characters) for key in sorted(value)[:entries]}
    return value


def rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


# --- pseudonyms

_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


@lru_cache(maxsize=4096)
def peer_network(address: str) -> str:
    """Return the network an address lies in, /24 or /48: where a request came from, not from whom. "" for what is no address."""
    try:
        ip = ipaddress.ip_address(address)
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))
    except ValueError:
        return ""


class Pseudonymiser:
    """Turns identities and content into keyed digests that tell tenants nothing about one another.

    32 hex digits of HMAC-SHA256 under a key derived for one tenant and one purpose, so that equal inputs of two tenants,
    or a subject and a token of equal text, never show as equal.
    """

    _TENANTS: Final = 4096  # tenants come from settings; the bound only keeps a mistake from growing without end

    def __init__(self, pepper: bytes) -> None:
        if len(pepper) < 16:
            raise ValueError("a pepper has at least 16 bytes")
        self._pepper = pepper
        self._keys: dict[tuple[str, bytes], tuple[Any, Any]] = {}  # SHA-256 over the inner and over the outer pad

    def _digest(self, tenant: str, purpose: bytes, value: bytes) -> str:
        keyed = self._keys.get((tenant, purpose))
        if keyed is None:
            if len(self._keys) >= self._TENANTS:
                self._keys.clear()
            key = hmac.digest(self._pepper, purpose + b"\x00" + tenant.encode("utf-8", "surrogatepass"), hashlib.sha256)
            padded = key.ljust(64, b"\x00")
            inner, outer = hashlib.sha256(padded.translate(_INNER)), hashlib.sha256(padded.translate(_OUTER))
            keyed = self._keys[tenant, purpose] = inner, outer
        # RFC 2104 by its definition: copies of two states cost half of what the library's object does, and keep the
        # interpreter's lock for short values, which the one-shot function lets go of every time.
        state, last = keyed[0].copy(), keyed[1].copy()
        state.update(value)
        last.update(state.digest())
        digest: str = last.hexdigest()
        return digest[:32]

    def subject(self, tenant: str, subject_id: str) -> str:
        return self._digest(tenant, b"subject", subject_id.encode("utf-8", "surrogatepass"))

    def token(self, tenant: str, token_id: str) -> str:
        return self._digest(tenant, b"token", token_id.encode("utf-8", "surrogatepass"))

    def name(self, tenant: str, name: str) -> str:
        """Stand for a name that is none of ours: what an attacker wrote is told apart, and never read."""
        return self._digest(tenant, b"name", name.encode("utf-8", "surrogatepass"))

    def content(self, tenant: str, content: bytes) -> str:
        return self._digest(tenant, b"content", content)


# --- the records that are not an exchange's own


def start(*, now_s: float, instance: str, recovery: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
    """A process begins to write. Nothing is open at a start: the exchanges of the run before were closed as unknown."""
    return encode({**extra, "type": "start", "time": rfc3339(now_s), "instance": instance, "recovery": recovery})


def stop(*, now_s: float, instance: str) -> bytes:
    return encode({"type": "stop", "time": rfc3339(now_s), "instance": instance})


_KEPT: Final = ("request_id", "trace_id", "tenant", "subject", "subject_kind", "application", "action", "resource", "route")


def unknown(opened: bytes, index: int, *, now_s: float, instance: str, reason: str) -> bytes:
    """Close an exchange whose end nobody saw."""
    try:
        fields = parse(opened)
    except ValueError:
        fields = {}
    kept: dict[str, Any] = {key: fields[key] for key in _KEPT if key in fields}
    ours = {"type": "closed", "time": rfc3339(now_s), "instance": instance, "opened": index, "outcome": "unknown", "reason": reason}
    return encode({**kept, **ours})


def summary(*, now_s: float, instance: str, period_s: float, counts: Mapping[str, int]) -> bytes:
    """What was refused before anyone was known, by refusal code: one record a period, however many there were."""
    return encode({"type": "summary", "time": rfc3339(now_s), "instance": instance, "period_s": period_s, "counts": counts})


def policy_change(*, now_s: float, instance: str, old: str, new: str, outcome: str, reasons: Sequence[str] = ()) -> bytes:
    """A policy set was swapped in, or refused. `old` and `new` are digests."""
    names = {"policy_digest": new, "policy_digest_before": old, "outcome": outcome, "reasons": reasons}
    return encode({"type": "policy_change", "time": rfc3339(now_s), "instance": instance, **names})


# --- which exchanges are open

# A quote inside a JSON text is escaped, so this sequence of bytes can only be a key with its value, never the caller's text.
_TYPE: Final = b'"type":"'
_OPENED: Final = b'"type":"opened"'
_CLOSED: Final = b'"type":"closed"'
_REQUEST_ID: Final = re.compile(rb'"request_id":"([^"\\]{1,256})"')


class OpenExchanges:
    """The `opened` records whose `closed` has not come yet, joined by request id."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[bytes, list[tuple[int, bytes]]] = {}

    def see(self, index: int, record: bytes) -> bool:
        """Take the next record. Returns False for a `closed` that nothing had opened."""
        at = record.rfind(_TYPE) + len(_TYPE)  # near the end, since keys are sorted: sooner found than from the front
        kind = record[at : at + 7]
        if kind == b'opened"' or (kind != b'closed"' and _OPENED in record):
            match = _REQUEST_ID.search(record)
            self._open.setdefault(match[1] if match else b"", []).append((index, record))
        elif kind == b'closed"' or _CLOSED in record:
            match = _REQUEST_ID.search(record)
            key = match[1] if match else b""
            same = self._open.get(key)
            if same is None:
                return False
            same.pop(0)
            if not same:
                del self._open[key]
        return True

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return iter(sorted(pair for same in self._open.values() for pair in same))

    def low_water(self, default: int) -> int:
        """Return the least index still open, or `default`."""
        return min((same[0][0] for same in self._open.values()), default=default)


# --- frames of the write-ahead log

# A segment is a base frame, then one batch frame a group commit, then zeros to the end of its preallocated space.
# Frame: magic, kind, first index, payload length, CRC-32 of the payload, CRC-32 of the header so far; payload.
# Payload of a base: index from which open exchanges have to be looked for (8 bytes), signed checkpoint at the first index.
# Payload of a batch: count (4 bytes), length-prefixed records, signed checkpoint after them. A payload ends in a newline.
_HEAD: Final = struct.Struct(">4sB3xQIII")
_MAGIC: Final = b"\xffGW\x01"  # 0xff and 0x01 occur neither in JSON nor in a note
_SECTOR: Final = 512  # what a disk writes whole or not at all
BASE: Final = 0
BATCH: Final = 1
MAX_FRAME_BYTES: Final = 64 << 20


class Frame(NamedTuple):
    kind: int
    first: int
    scan_from: int  # of a base
    records: list[bytes]  # of a batch
    note: bytes
    offset: int


class Frames(NamedTuple):
    """What a segment holds. `tail` is "" when it ends cleanly at `end`, "torn" after a write cut short, else "damaged"."""

    frames: list[Frame]
    end: int
    tail: str


def _frame(kind: int, first: int, payload: bytes) -> bytes:
    head = _HEAD.pack(_MAGIC, kind, first, len(payload), zlib.crc32(payload), 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "big") + payload


def base_frame(first: int, scan_from: int, note: bytes) -> bytes:
    return _frame(BASE, first, scan_from.to_bytes(8, "big") + note)


def batch_frame(first: int, records: Sequence[bytes], note: bytes) -> bytes:
    entries = b"".join([len(record).to_bytes(2, "big") + record for record in records])
    return _frame(BATCH, first, len(records).to_bytes(4, "big") + entries + note)


def read_frames(data: bytes) -> Frames:
    """Return the whole frames of a segment and how it ends. Never raises: bytes that make no sense are damage."""
    frames: list[Frame] = []
    at = 0
    while (found := _read_frame(data, at)) is not None:
        frame, at = found
        frames.append(frame)
    return Frames(frames, at, _judge_tail(data, at))


def _read_frame(data: bytes, at: int) -> tuple[Frame, int] | None:
    start = at + _HEAD.size
    if start > len(data) or data[at : at + 4] != _MAGIC:
        return None
    _, kind, first, length, crc, head_crc = _HEAD.unpack_from(data, at)
    end = start + length
    if zlib.crc32(data[at : start - 4]) != head_crc or end > len(data) or length > MAX_FRAME_BYTES:
        return None
    payload = data[start:end]
    if zlib.crc32(payload) != crc or not payload.endswith(b"\n"):
        return None
    if kind == BASE and length > 8:
        return Frame(BASE, first, int.from_bytes(payload[:8], "big"), [], payload[8:], at), end
    if kind != BATCH or length < 4:
        return None
    records: list[bytes] = []
    spot = 4
    for _ in range(min(int.from_bytes(payload[:4], "big"), length)):
        stop = spot + 2 + int.from_bytes(payload[spot : spot + 2], "big")
        if stop > length:
            return None
        records.append(payload[spot + 2 : stop])
        spot = stop
    return Frame(BATCH, first, 0, records, payload[spot:], at), end


def _judge_tail(data: bytes, at: int) -> str:
    """Tell a write that a crash cut short from bytes that somebody changed.

    CRASH: a commit is one write, and the next starts only after its sync, so at most the last frame is incomplete: it stops
    early (end of file, or the zeros of the preallocated space), or lacks whole sectors. Anything else is damage: a whole
    frame that fails its checksum, or a whole frame after a broken one.
    """
    rest = data[at:].rstrip(b"\x00")
    if not rest:
        return ""
    spot = data.find(_MAGIC, at + 1)
    while spot >= 0:
        if _read_frame(data, spot) is not None:
            return "damaged"
        spot = data.find(_MAGIC, spot + 1)
    head, end = data[at : at + _HEAD.size], at + _HEAD.size
    if head[:4] != _MAGIC or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "big"):
        cut = len(rest) < _HEAD.size and _MAGIC.startswith(rest[:4])
        return "torn" if cut or _lacks_sector(data, at, end) else "damaged"
    end += int(_HEAD.unpack(head)[3])
    if at + len(rest) < end:
        return "torn"
    return "torn" if at + len(rest) == end and _lacks_sector(data, at, end) else "damaged"


def _lacks_sector(data: bytes, start: int, end: int) -> bool:
    """True where a whole sector of [start, end), or the part of one that lies in it, was never written."""
    at = start
    while at < end:
        stop = min((at // _SECTOR + 1) * _SECTOR, end)
        if not data[at:stop].strip(b"\x00"):
            return True
        at = stop
    return False
