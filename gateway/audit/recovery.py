"""In what state did the last run leave the log, and may it be written on? Opens a directory, or refuses and says why.

Must not repair what a crash cannot have done: a torn last frame is cut, anything else that does not fit is a refusal, so that
tampering is looked at by a person and never written over.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from gateway.audit.record import BASE, Frames, OpenExchanges, read_frames
from gateway.audit.store import MAX_SEGMENT_BYTES, Store
from gateway.audit.tree import (
    HASH_BYTES,
    MAX_BUNDLE_BYTES,
    MAX_NOTE_BYTES,
    TILE_BYTES,
    TILE_WIDTH,
    Checkpoint,
    Edge,
    Signer,
    TreeError,
    Verifier,
    leaf_hash,
    pack_entry,
    tile_path,
    unpack_entries,
)
from gateway.audit.writer import Writer

_LOST: Final = -1


class LogRefused(Exception):
    """The directory cannot be written on as it is."""


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What a start found. Numbers only: it goes into the `start` record."""

    created: bool
    size: int  # records in the log before this start
    replayed: int  # of those, taken from the write-ahead segments
    torn_bytes: int  # cut from an incomplete last write
    unclosed: int  # exchanges whose end nobody saw


def open_writer(store: Store, signer: Signer, *, segment_bytes: int, create: bool, now_s: float) -> tuple[Writer, Recovery]:
    """Return a writer at the end of the log, published and sealed. The store must be held. Raises `LogRefused`, `OSError`."""
    segments = store.segments()
    if not segments:
        return _create(store, signer, segment_bytes=segment_bytes, create=create, now_s=now_s)
    _check_key(store, signer)
    verifier = Verifier(signer.verifier_key())
    first, path = segments[0]
    frames = read_frames(_segment(store, path))
    base = frames.frames[0] if frames.frames else None
    if base is None or base.kind != BASE or base.first != first:
        raise LogRefused(f"`{path}` does not begin with its base; restore it from a copy")
    writer = _load(store, signer, verifier, base.first, base.note, segment_bytes)
    _scan_open(store, writer.open, base.scan_from, base.first)
    published = _Published(_published(store, verifier), writer)
    torn = 0
    for number, (_, path) in enumerate(segments):
        frames = frames if number == 0 else read_frames(_segment(store, path))
        torn = _replay(writer, verifier, frames, path, published.see, last=number == len(segments) - 1)
    published.judge()
    replayed = writer.edge.size - base.first
    writer.catch_up()
    writer.requeue(now_s)
    writer.settle(now_s)
    return writer, Recovery(created=False, size=writer.edge.size, replayed=replayed, torn_bytes=torn, unclosed=len(writer.open))


def _create(store: Store, signer: Signer, *, segment_bytes: int, create: bool, now_s: float) -> tuple[Writer, Recovery]:
    remains = [name for name in ("checkpoint", "tile") if (store.directory / name).exists()]
    if remains:
        raise LogRefused(f"`{store.directory}` holds `{remains[0]}` but no write-ahead segment; restore `wal/` from a copy")
    if not create:
        raise LogRefused(f"`{store.directory}` holds no log; create it once on purpose, or check that its volume is mounted")
    store.put("key.pub", (signer.verifier_key() + "\n").encode())
    writer = Writer(store, signer, edge=Edge(), bundle=b"", segment_bytes=segment_bytes)
    # CRASH: until the first segment is there the next start creates anew; from then on an empty log may lack its checkpoint.
    writer.begin()
    writer.settle(now_s)
    store.sync(["key.pub"])
    return writer, Recovery(created=True, size=0, replayed=0, torn_bytes=0, unclosed=0)


def _check_key(store: Store, signer: Signer) -> None:
    try:
        held = store.read("key.pub", MAX_NOTE_BYTES).decode("utf-8", "replace").strip()
    except FileNotFoundError as error:
        raise LogRefused(f"`{store.directory}/key.pub` is missing; restore it from a copy") from error
    if held != signer.verifier_key():
        raise LogRefused(f"`{store.directory}` belongs to another origin or key (see its key.pub); use a directory of its own")


def _segment(store: Store, path: Path) -> bytes:
    return store.read(str(path.relative_to(store.directory)), MAX_SEGMENT_BYTES)


def _load(store: Store, signer: Signer, verifier: Verifier, size: int, note: bytes, segment_bytes: int) -> Writer:
    """Restore tree and bundle at `size` from tiles, and hold them against the checkpoint signed there."""

    def tile(level: int, number: int, width: int) -> bytes:
        return _widest(store, level, number, width, TILE_BYTES)[: width * HASH_BYTES]

    try:
        base = verifier.open(note)
        edge = Edge.load(size, tile)
        width = size % TILE_WIDTH
        entries = unpack_entries(_widest(store, None, size // TILE_WIDTH, width, MAX_BUNDLE_BYTES))[:width] if width else []
    except (TreeError, FileNotFoundError) as error:
        raise LogRefused(f"the log cannot be restored at size {size}: {error}") from error
    hashes = {part.level: part.hashes for part in edge.partial()}.get(0, b"")
    if (base.size, base.root) != (size, edge.root()) or b"".join(map(leaf_hash, entries)) != hashes:
        raise LogRefused(f"the tiles do not match the checkpoint signed at size {size}: the log was changed; run `gateway audit verify`")
    return Writer(store, signer, edge=edge, bundle=b"".join(map(pack_entry, entries)), segment_bytes=segment_bytes)


def _widest(store: Store, level: int | None, number: int, width: int, limit: int) -> bytes:
    try:
        return store.read(tile_path(level, number, width), limit)
    except FileNotFoundError:  # removed since its full tile is there
        return store.read(tile_path(level, number), limit)


def _scan_open(store: Store, opened: OpenExchanges, start: int, end: int) -> None:
    """Find what was open at `end`, reading no further back than `start`."""
    if start > end:
        raise LogRefused("the write-ahead segment names a place behind its end")
    for number in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
        width = min(TILE_WIDTH, end - number * TILE_WIDTH)
        try:
            entries = unpack_entries(_widest(store, None, number, width, MAX_BUNDLE_BYTES))[:width]
        except (TreeError, FileNotFoundError) as error:
            raise LogRefused(f"entry bundle {number} cannot be read: {error}") from error
        for at, record in enumerate(entries, number * TILE_WIDTH):
            if at >= start:
                opened.see(at, record)


def _replay(writer: Writer, verifier: Verifier, frames: Frames, path: Path, see: Callable[[], None], *, last: bool) -> int:
    """Apply a segment. Returns how many bytes of a torn write were cut."""
    if not frames.frames or frames.frames[0].kind != BASE:
        raise LogRefused(f"`{path}` does not begin with its base; restore it from a copy")
    for frame in frames.frames:
        if frame.first != writer.edge.size:
            raise LogRefused(f"`{path}` goes on at {frame.first} where {writer.edge.size} is due: the log was changed")
        writer.apply(frame.records)
        # The root is held against every frame's checkpoint; the last one's signature then covers all before it.
        expected = Checkpoint(writer.signer.origin, writer.edge.size, writer.edge.root()).text().encode() + b"\n"
        if not frame.note.startswith(expected):
            raise LogRefused(f"`{path}` does not match its checkpoint at size {writer.edge.size}: the log was changed")
        see()
    try:
        verifier.open(frames.frames[-1].note)
    except TreeError as error:
        raise LogRefused(f"`{path}`: {error}") from error
    if frames.tail and (frames.tail != "torn" or not last):
        raise LogRefused(f"`{path}` is damaged at byte {frames.end}: no crash does that; run `gateway audit verify`")
    if not frames.tail:
        return 0
    data = _segment(writer.store, path)
    return len(data[frames.end :].rstrip(b"\x00"))


def _published(store: Store, verifier: Verifier) -> Checkpoint | None:
    try:
        note = store.read("checkpoint", MAX_NOTE_BYTES)
    except FileNotFoundError:
        return None
    if not note:  # a power cut may leave a renamed file empty
        return Checkpoint(verifier.name, _LOST, b"")
    try:
        return verifier.open(note)
    except TreeError as error:
        raise LogRefused(f"`checkpoint`: {error}") from error


class _Published:
    """Holds the published checkpoint against the tree as it is rebuilt."""

    def __init__(self, checkpoint: Checkpoint | None, writer: Writer) -> None:
        self._checkpoint = checkpoint
        self._writer = writer
        self._base = writer.edge.size
        self._root: bytes | None = None

    def see(self) -> None:
        if self._checkpoint is not None and self._writer.edge.size == self._checkpoint.size:
            self._root = self._writer.edge.root()

    def judge(self) -> None:
        """Raises `LogRefused` unless what was published is a prefix of what was rebuilt."""
        published, size = self._checkpoint, self._writer.edge.size
        if published is None:
            if size:
                raise LogRefused("`checkpoint` is missing; restore it from a copy kept elsewhere")
            return
        if published.size == _LOST:
            return
        if published.size > size:
            raise LogRefused(f"the log ends at {size}, before its checkpoint of {published.size}: it was cut; restore it from a copy")
        if published.size < self._base:
            raise LogRefused(f"the checkpoint of {published.size} is older than the write-ahead log: it was rolled back")
        if self._root != published.root:
            raise LogRefused(f"the log does not match its checkpoint at size {published.size}: it was changed")
