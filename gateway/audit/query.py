"""What does the log say? Reads records by place, by request and by filter, follows the end, and proves a record's place.

Must not write, and judges nothing but proofs: whether the log is whole is `gateway.audit.verify`'s question. Reads what is durable,
published or not. Works beside a running gateway.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from gateway.audit.record import Frame, parse, read_frames
from gateway.audit.store import MAX_SEGMENT_BYTES, list_segments, read_file
from gateway.audit.tree import (
    HASH_BYTES,
    MAX_BUNDLE_BYTES,
    MAX_NOTE_BYTES,
    TILE_BYTES,
    TILE_WIDTH,
    Checkpoint,
    TreeError,
    Verifier,
    inclusion_proof,
    leaf_hash,
    perfect_root,
    root_from_inclusion,
    split_hashes,
    tile_path,
    unpack_entries,
)

_RETRIES: Final = 20


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are asked for; None asks nothing. `since` is RFC 3339 in UTC, as records write time."""

    type: str | None = None
    tenant: str | None = None
    subject: str | None = None
    outcome: str | None = None
    refusal: str | None = None
    request_id: str | None = None
    since: str | None = None

    def needles(self) -> list[bytes]:
        """Return bytes that a matching record is certain to hold, so that most others need not be parsed."""
        asked = {name: getattr(self, name) for name in self.__struct_fields__ if name != "since"}
        return [
            f'"{name}":'.encode() + msgspec.json.encode(value) for name, value in asked.items() if value is not None and value.isascii()
        ]

    def matches(self, fields: Mapping[str, Any]) -> bool:
        asked = {name: getattr(self, name) for name in self.__struct_fields__ if name != "since"}
        if any(value is not None and fields.get(name) != value for name, value in asked.items()):
            return False
        return self.since is None or str(fields.get("time", "")) >= self.since


class Hit(NamedTuple):
    at: int  # index in the log
    record: bytes
    fields: dict[str, Any]


class LogReader:
    """One directory as it was when last refreshed."""

    def __init__(self, directory: Path, verifier: Verifier) -> None:
        """Raises `OSError`, `TreeError` as `refresh` does."""
        self._directory = directory
        self._verifier = verifier
        self.refresh()

    def refresh(self) -> None:
        """Look again. Raises `OSError`, and `TreeError` when the checkpoint is not signed by the key."""
        for attempt in range(_RETRIES):
            try:
                self.note = read_file(self._directory / "checkpoint", MAX_NOTE_BYTES)
                frames = self._frames()
            except FileNotFoundError:  # a segment sealed while we looked
                if attempt == _RETRIES - 1:
                    raise
                frames = []
            else:
                self.checkpoint: Checkpoint = self._verifier.open(self.note)
                if not frames or frames[0].first <= self.checkpoint.size:
                    break
            time.sleep(0.01)
        self._tail = {at: entry for frame in frames for at, entry in enumerate(frame.records, frame.first)}
        self.size = max([self.checkpoint.size, *(frame.first + len(frame.records) for frame in frames[-1:])])

    def _frames(self) -> list[Frame]:
        try:
            segments = list_segments(self._directory)
        except FileNotFoundError:
            return []
        return [frame for _, path in segments for frame in read_frames(read_file(path, MAX_SEGMENT_BYTES)).frames]

    def _tile(self, level: int | None, number: int, width: int, limit: int) -> bytes:
        try:
            return read_file(self._directory / tile_path(level, number, width), limit)
        except FileNotFoundError:
            return read_file(self._directory / tile_path(level, number), limit)

    def _bundle(self, number: int) -> list[bytes]:
        start = number * TILE_WIDTH
        published = max(0, min(TILE_WIDTH, self.checkpoint.size - start))
        entries = unpack_entries(self._tile(None, number, published, MAX_BUNDLE_BYTES))[:published] if published else []
        while len(entries) < TILE_WIDTH and (record := self._tail.get(start + len(entries))) is not None:
            entries.append(record)
        return entries

    def get(self, index: int) -> bytes:
        """Return one record. Raises `IndexError`, `OSError`, `TreeError`."""
        if not 0 <= index < self.size:
            raise IndexError(f"there is no record {index}: the log has {self.size}")
        entries = self._bundle(index // TILE_WIDTH)
        if index % TILE_WIDTH >= len(entries):
            raise TreeError(f"record {index} is missing from its bundle")
        return entries[index % TILE_WIDTH]

    def records(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (index, record) from `start` to the end. Raises `OSError`, `TreeError`."""
        for number in range(max(0, start) // TILE_WIDTH, -(-self.size // TILE_WIDTH)):
            for index, record in enumerate(self._bundle(number), number * TILE_WIDTH):
                if index >= start:
                    yield index, record

    def select(self, asked: Filter, start: int = 0) -> Iterator[Hit]:
        """Yield the records from `start` on that match. Records that do not parse match nothing."""
        needles = asked.needles()
        for index, record in self.records(start):
            if all(needle in record for needle in needles):
                try:
                    fields = parse(record)
                except ValueError:
                    continue
                if asked.matches(fields):
                    yield Hit(index, record, fields)

    def follow(self, asked: Filter, start: int, *, pause: Callable[[], bool]) -> Iterator[Hit]:
        """Yield matching records from `start` as they become durable, until `pause`, called between looks, returns False."""
        while True:
            yield from self.select(asked, start)
            start = max(start, self.size)
            if not pause():
                return
            self.refresh()

    # --- proofs

    def _node(self, height: int, index: int) -> bytes:
        level, rest = divmod(height, 8)
        first = index << rest
        number = first // TILE_WIDTH
        width = min(TILE_WIDTH, (self.checkpoint.size >> (8 * level)) - number * TILE_WIDTH)
        hashes = self._tile(level, number, width, TILE_BYTES)
        at = (first % TILE_WIDTH) * HASH_BYTES
        nodes = split_hashes(hashes[at : at + (HASH_BYTES << rest)])
        if len(nodes) != 1 << rest or len(nodes[-1]) != HASH_BYTES:
            raise TreeError(f"tile {tile_path(level, number, width)} is too short")
        return perfect_root(nodes)

    def prove(self, index: int) -> dict[str, Any]:
        """Return a proof that a record lies at `index` under the published checkpoint, checked before it is handed out.

        Raises `IndexError` for a record that is not published (yet), `TreeError`, `OSError`.
        """
        if not 0 <= index < self.checkpoint.size:
            raise IndexError(f"record {index} is not under the checkpoint of {self.checkpoint.size}")
        record = self.get(index)
        path = inclusion_proof(self._node, index, self.checkpoint.size)
        proof = {
            "origin": self.checkpoint.origin,
            "index": index,
            "tree_size": self.checkpoint.size,
            "leaf_hash": base64.b64encode(leaf_hash(record)).decode(),
            "proof": [base64.b64encode(step).decode() for step in path],
            "checkpoint": self.note.decode(),
            "record": record.decode(),
        }
        wrong = check_proof(proof, self._verifier)
        if wrong:
            raise TreeError(f"the log does not prove record {index}: {wrong}")
        return proof


def check_proof(proof: object, verifier: Verifier) -> str:
    """Return "" when the proof holds under `verifier`, else why it does not. Needs nothing but the proof and the key; never raises."""
    try:
        held = msgspec.convert(proof, _Proof)
        checkpoint = verifier.open(held.checkpoint.encode())
        leaf = leaf_hash(held.record.encode())
        if (held.origin, held.tree_size) != (checkpoint.origin, checkpoint.size):
            return "it names another tree than its checkpoint"
        if base64.b64decode(held.leaf_hash, validate=True) != leaf:
            return "the record does not match the leaf hash"
        path = [base64.b64decode(step, validate=True) for step in held.proof]
        if any(len(step) != HASH_BYTES for step in path):
            return "a step is no hash"
        if root_from_inclusion(leaf, held.index, held.tree_size, path) != checkpoint.root:
            return "it leads to another root than the checkpoint's"
    except (msgspec.ValidationError, TreeError, binascii.Error, UnicodeEncodeError) as error:
        return str(error)
    return ""


class _Proof(msgspec.Struct, frozen=True):
    origin: str
    index: int
    tree_size: int
    leaf_hash: str
    proof: list[str]
    checkpoint: str
    record: str


def count(reader: LogReader, since: str | None) -> dict[str, dict[str, int]]:
    """Return how many records there are by type, exchanges by outcome and tenant, and refusals by code."""
    by: dict[str, Counter[str]] = {name: Counter() for name in ("type", "outcome", "refusal", "tenant")}
    for _, _, fields in reader.select(Filter(since=since)):
        kind = str(fields["type"])
        by["type"][kind] += 1
        if kind in ("closed", "refused"):
            by["outcome"][str(fields.get("outcome") or kind)] += 1
            by["tenant"][str(fields.get("tenant") or "")] += 1
        if fields.get("refusal"):
            by["refusal"][str(fields["refusal"])] += 1
        counts = fields.get("counts")
        if kind == "summary" and isinstance(counts, dict):  # refused before anyone was known
            by["refusal"].update({str(code): number for code, number in counts.items() if isinstance(number, int)})
    return {name: dict(sorted(counter.items())) for name, counter in by.items()}
