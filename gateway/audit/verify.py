"""Is this log what was written, all of it, in order? Reads a directory and a public key; needs no running gateway.

Must not trust a byte it has not held against a signed checkpoint, must not raise on any file content, and imports only the tree and
the record besides the standard library, so that an auditor can read the three alone.

What it proves: every record up to the published checkpoint, and beyond it every whole frame of the write-ahead segments, is
what was signed, in that order. What one directory alone cannot prove: that no later signed state ever existed. That takes a
checkpoint kept elsewhere (`against`); without one the report says `tail not proven`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from gateway.audit.record import BASE, Frame, OpenExchanges, parse, read_frames
from gateway.audit.tree import (
    HASH_BYTES,
    MAX_BUNDLE_BYTES,
    MAX_NOTE_BYTES,
    TILE_BYTES,
    TILE_WIDTH,
    Checkpoint,
    Edge,
    TreeError,
    Verifier,
    leaf_hash,
    pack_entry,
    parse_tile_path,
    tile_path,
    unpack_entries,
)

_MAX_SEGMENT_BYTES: Final = 256 << 20
_MAX_FINDINGS: Final = 100  # of one kind; the rest is counted
_SEGMENT: Final = re.compile(r"([0-9]{20})\.wal")
_OURS: Final = {"checkpoint", "key.pub", "lock", "wal", "tile", "shipping", ".fresh", ".fresh-wal", ".spare-wal", ".zeros-wal"}
_RETRIES: Final = 5  # a running gateway may move on while we read


class Finding(msgspec.Struct, frozen=True):
    code: str  # edited, cut, inserted, unsigned, unreadable, unclosed, orphan, rolled_back, forked, stray
    detail: str
    index: int | None = None


class Report(msgspec.Struct):
    """`ok` is True exactly when there are no findings; notes are for the reader and change nothing."""

    origin: str = ""
    size: int = 0  # records checked, the write-ahead segments' included
    published: int = 0  # of those, under the published checkpoint
    root: str = ""
    runs: int = 0
    in_flight: int = 0  # open exchanges of a run that has no `stop` record: running, or killed and not yet restarted
    tail_proven: bool = False
    findings: list[Finding] = []
    notes: list[str] = []
    left_out: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings

    def found(self, code: str, detail: str, index: int | None = None) -> None:
        if sum(finding.code == code for finding in self.findings) < _MAX_FINDINGS:
            self.findings.append(Finding(code, detail, index))
        else:
            self.left_out += 1


def verify(directory: Path, key: str, against: Sequence[bytes] = (), *, patience_s: float = 0.05) -> Report:
    """Check a log. `key` is a C2SP verifier key; `against` are signed checkpoints kept elsewhere.

    What looks wrong where a running gateway writes is read again after `patience_s`.

    Raises `TreeError` for a `key` that is none. Everything about the directory itself is a finding.
    """
    verifier = Verifier(key)
    report = Report(origin=verifier.name, findings=[], notes=[])
    anchors = _anchors(report, verifier, against)
    try:
        snapshot = _snapshot(directory, verifier, report, patience_s)
    except OSError as error:
        report.found("unreadable", f"{error.filename or directory}: {error.strerror or error}")
        return report
    if snapshot is not None:
        _Walk(directory, verifier, report, snapshot, anchors).run()
    report.tail_proven = bool(anchors) and report.ok
    return report


def _anchors(report: Report, verifier: Verifier, against: Sequence[bytes]) -> list[Checkpoint]:
    anchors = []
    for note in against:
        try:
            anchors.append(verifier.open(note))
        except TreeError as error:
            report.found("unsigned", f"a checkpoint to hold the log against: {error}")
    return anchors


# --- what lies on the disk, taken in an order that a running writer cannot upset


class _Snapshot(msgspec.Struct):
    tiles: dict[tuple[int | None, int], list[int]]  # (level or None for entries, number) -> widths that are there
    checkpoint: Checkpoint
    frames: list[Frame]
    base: int  # first index the segments cover
    end: int  # index after the last record there is
    torn: str


def _snapshot(directory: Path, verifier: Verifier, report: Report, patience_s: float) -> _Snapshot | None:
    before: object = None
    for _ in range(_RETRIES):
        draft = Report(findings=[], notes=[])
        # The order matters: tiles are listed first and segments read last, so that whatever was seen is covered by what is read after.
        tiles = _list_tiles(directory, draft)
        checkpoint = _checkpoint(directory, verifier, draft)
        frames, torn = _segments(directory, draft)
        if not torn and not draft.findings and (not frames or checkpoint is None or frames[0].first <= checkpoint.size):
            break
        seen = (draft.findings, checkpoint, torn, len(frames))
        if seen == before:
            break
        before = seen
        time.sleep(patience_s)
    report.findings += draft.findings
    report.notes += draft.notes
    if checkpoint is None:
        return None
    base = frames[0].first if frames else checkpoint.size
    end = frames[-1].first + len(frames[-1].records) if frames else checkpoint.size
    if base > checkpoint.size:
        report.found("rolled_back", f"the checkpoint of {checkpoint.size} is older than the write-ahead log, which begins at {base}")
        frames, end = [], checkpoint.size
    if frames and end < checkpoint.size:
        report.found("cut", f"the write-ahead log ends at {end}, before the checkpoint of {checkpoint.size}", end)
    if not frames:
        report.notes.append("no write-ahead log: only what is published was checked")
    if torn:
        report.notes.append(f"{torn}: an incomplete last write, which the next start cuts")
    return _Snapshot(tiles, checkpoint, frames, base, max(end, checkpoint.size), torn)


def _list_tiles(directory: Path, report: Report) -> dict[tuple[int | None, int], list[int]]:
    for name in sorted({path.name for path in directory.iterdir()} - _OURS):
        report.found("stray", f"`{name!a}` does not belong in a log")
    tiles: dict[tuple[int | None, int], list[int]] = {}
    for folder, folders, names in os.walk(directory / "tile"):
        for name in sorted(names) + [name for name in folders if (Path(folder) / name).is_symlink()]:
            path = (Path(folder) / name).relative_to(directory).as_posix()
            parsed = parse_tile_path(path)
            if parsed is None:
                report.found("stray", f"{path!a} is no tile")
            else:
                tiles.setdefault(parsed[:2], []).append(parsed[2])
    return tiles


def _checkpoint(directory: Path, verifier: Verifier, report: Report) -> Checkpoint | None:
    try:
        return verifier.open(_read(directory / "checkpoint", MAX_NOTE_BYTES))
    except (OSError, TreeError) as error:
        report.found("unsigned", f"`checkpoint`: {_why(error)}")
        return None


def _segments(directory: Path, report: Report) -> tuple[list[Frame], str]:
    """Return all frames in order, and where a last write broke off. Continuity of segments is judged here, content later."""
    try:
        names = sorted(path.name for path in (directory / "wal").iterdir())
    except FileNotFoundError:
        return [], ""
    frames: list[Frame] = []
    torn = ""
    for name in names:
        match = _SEGMENT.fullmatch(name)
        if match is None:
            report.found("stray", f"`wal/{name!a}` is no segment")
            continue
        try:
            read = read_frames(_read(directory / "wal" / name, _MAX_SEGMENT_BYTES))
        except OSError as error:
            report.found("unreadable", f"`wal/{name}`: {_why(error)}")
            continue
        if torn:
            report.found("edited", f"{torn}: broken off, yet another segment follows")
        torn = f"`wal/{name}` at byte {read.end}" if read.tail == "torn" else ""
        if read.tail == "damaged":
            report.found("edited", f"`wal/{name}` is damaged at byte {read.end}")
        if not read.frames or read.frames[0].kind != BASE or read.frames[0].first != int(match[1]):
            report.found("edited", f"`wal/{name}` does not begin with its base")
            continue
        for frame in read.frames:
            due = frames[-1].first + len(frames[-1].records) if frames else frame.first
            if frame.first != due:
                report.found("cut" if frame.first > due else "inserted", f"`wal/{name}` goes on at {frame.first}, {due} is due", due)
            frames.append(frame)
    return frames, torn


def _read(path: Path, limit: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"larger than {limit} bytes")
    return data


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# --- one pass over every record


class _Walk:
    """Rebuilds the tree from the entries and holds everything else against it."""

    def __init__(self, directory: Path, verifier: Verifier, report: Report, snapshot: _Snapshot, anchors: list[Checkpoint]) -> None:
        self.directory = directory
        self.verifier = verifier
        self.report = report
        self.snapshot = snapshot
        self.edge = Edge()
        self.open = OpenExchanges()
        self.stopped = True
        self.tail = {at: record for frame in snapshot.frames for at, record in enumerate(frame.records, frame.first)}
        # What has to hold once the tree has a size: (root, what says so, code when it does not)
        self.due: dict[int, list[tuple[bytes, str, str]]] = {}
        self.scans: dict[int, int] = {}
        self._expect(snapshot.checkpoint, "the published checkpoint", "edited")
        for anchor in anchors:
            self._expect_anchor(anchor)
        for frame in snapshot.frames:
            self._expect_frame(frame)

    def _expect(self, checkpoint: Checkpoint, says: str, code: str) -> None:
        self.due.setdefault(checkpoint.size, []).append((checkpoint.root, says, code))

    def _expect_anchor(self, anchor: Checkpoint) -> None:
        if anchor.size > self.snapshot.end:
            detail = f"the log ends at {self.snapshot.end}; a checkpoint of {anchor.size} was signed"
            self.report.found("rolled_back", detail, self.snapshot.end)
        else:
            self._expect(anchor, "a checkpoint kept elsewhere", "forked")

    def _expect_frame(self, frame: Frame) -> None:
        after = frame.first + len(frame.records)
        try:
            checkpoint = self.verifier.open(frame.note)
        except TreeError as error:
            self.report.found("unsigned", f"the write-ahead frame at {frame.first}: {error}", frame.first)
            return
        if checkpoint.size != after:
            self.report.found("edited", f"the write-ahead frame at {frame.first} is signed for another size", frame.first)
        else:
            self._expect(checkpoint, "the write-ahead log", "edited")
        if frame.kind == BASE:
            self.scans[frame.first] = frame.scan_from

    def run(self) -> None:
        snapshot, report = self.snapshot, self.report
        self._check_size()
        for number in range(-(-snapshot.end // TILE_WIDTH)):
            if not self._bundle(number):
                break
        for tile in self.edge.partial():
            self._check_tile(tile.level, tile.number, tile.hashes)
        self._leftovers()
        self._end_runs()
        report.size, report.root = self.edge.size, self.edge.root().hex()
        report.published = min(snapshot.checkpoint.size, self.edge.size)

    def _bundle(self, number: int) -> bool:
        """Take one bundle of records into the tree. Returns False when nothing after it can be placed."""
        start = number * TILE_WIDTH
        entries = self._entries(number, start)
        hashes = b"".join(map(leaf_hash, entries))
        self._compare_leaves(number, start, hashes)
        self._check_bundles(number, entries)
        for at, record in enumerate(entries, start):
            self._record(at, record, hashes[(at - start) * HASH_BYTES : (at - start + 1) * HASH_BYTES])
        for tile in self.edge.full:
            self._check_tile(tile.level, tile.number, tile.hashes)
        self.edge.full.clear()
        wanted = min(TILE_WIDTH, self.snapshot.end - start)
        if len(entries) < wanted:
            self.report.found("cut", f"records from {start + len(entries)} on are missing", start + len(entries))
        return len(entries) == TILE_WIDTH

    def _entries(self, number: int, start: int) -> list[bytes]:
        """Return the records of a bundle: as published, and past the checkpoint from the write-ahead log."""
        published = max(0, min(TILE_WIDTH, self.snapshot.checkpoint.size - start))
        entries: list[bytes] = []
        if published:
            width = self._width(None, number, published)
            if width:
                entries = self._unpack(tile_path(None, number, width))[:published]
            else:
                self.report.found("cut", f"`{tile_path(None, number, published)}` is missing", start)
        while len(entries) < min(TILE_WIDTH, self.snapshot.end - start) and (record := self.tail.get(start + len(entries))) is not None:
            entries.append(record)
        return entries

    def _unpack(self, name: str) -> list[bytes]:
        try:
            return unpack_entries(_read(self.directory / name, MAX_BUNDLE_BYTES))
        except (OSError, TreeError) as error:
            self.report.found("edited", f"`{name}`: {_why(error)}")
            return []

    def _record(self, index: int, record: bytes, leaf: bytes) -> None:
        for held in self.due.pop(self.edge.size, ()):
            self._hold(held)
        self._scan(index)
        if (ahead := self.tail.get(index)) is not None and ahead != record:
            self.report.found("edited", "the published record is not the one in the write-ahead log", index)
        self.edge.append(leaf)
        try:
            kind = parse(record)["type"]
        except ValueError as error:
            self.report.found("edited", str(error), index)
            return
        if not self.open.see(index, record):
            self.report.found("orphan", "closes an exchange that was not open", index)
        if kind in ("start", "stop"):
            self._unclosed(f"open at the {kind} of a run at {index}")
            self.report.runs += kind == "start"
            self.stopped = kind == "stop"

    def _hold(self, held: tuple[bytes, str, str]) -> None:
        root, says, code = held
        if root != self.edge.root():
            self.report.found(code, f"the records up to {self.edge.size} are not those {says} was signed over", None)

    def _scan(self, size: int) -> None:
        scan_from = self.scans.pop(size, None)
        if scan_from is not None and scan_from != self.open.low_water(size):
            self.report.found("edited", f"the write-ahead base at {size} misstates which exchanges are open", size)

    def _unclosed(self, when: str) -> None:
        for index, _ in self.open:
            self.report.found("unclosed", when, index)
        self.open = OpenExchanges()

    def _end_runs(self) -> None:
        for held in self.due.pop(self.edge.size, ()):
            self._hold(held)
        self._scan(self.edge.size)
        for size, expected in sorted(self.due.items()):
            self.report.found("edited", f"{expected[0][1]} of {size} cannot be held against the records", None)
        if self.stopped:
            self._unclosed("open after the last stop")
        self.report.in_flight = len(self.open)
        if self.report.in_flight:
            self.report.notes.append(f"{self.report.in_flight} exchanges in flight, or not proven closed until the next start")

    # --- files that repeat what the entries say

    def _compare_leaves(self, number: int, start: int, hashes: bytes) -> None:
        """Name the records whose published hash differs, so that a finding points at them."""
        published = max(0, min(TILE_WIDTH, self.snapshot.checkpoint.size - start))
        width = self._width(0, number, published) if published else 0
        if not width:
            return
        try:
            tile = _read(self.directory / tile_path(0, number, width), TILE_BYTES)
        except OSError:
            return  # found where tiles are checked
        for at in range(0, min(len(tile), len(hashes), published * HASH_BYTES), HASH_BYTES):
            if tile[at : at + HASH_BYTES] != hashes[at : at + HASH_BYTES]:
                self.report.found("edited", "the record does not match its hash", start + at // HASH_BYTES)

    def _check_bundles(self, number: int, entries: list[bytes]) -> None:
        packed = [pack_entry(entry) for entry in entries]
        for width in self.snapshot.tiles.pop((None, number), ()):
            name = tile_path(None, number, width)
            if width > len(entries):
                self.report.found("cut", f"`{name}` holds more records than the log", number * TILE_WIDTH + len(entries))
            else:
                self._check_file(name, b"".join(packed[:width]), MAX_BUNDLE_BYTES)

    def _check_tile(self, level: int, number: int, hashes: bytes) -> None:
        widths = self.snapshot.tiles.pop((level, number), [])
        for width in widths:
            name = tile_path(level, number, width)
            if width * HASH_BYTES > len(hashes):
                self.report.found("cut", f"`{name}` holds more hashes than the log")
            else:
                self._check_file(name, hashes[: width * HASH_BYTES], TILE_BYTES)

    def _check_file(self, name: str, expected: bytes, limit: int) -> None:
        try:
            if _read(self.directory / name, limit) != expected:
                self.report.found("edited", f"`{name}` is not what the records give")
        except FileNotFoundError:
            pass  # a partial tile a running writer removed since; `_check_size` has seen what must be there
        except OSError as error:
            self.report.found("unreadable", f"`{name}`: {_why(error)}")

    def _check_size(self) -> None:
        """Every tile the checkpoint needs must be there, whole or as the partial one of its size."""
        for level, number, width in _required(self.snapshot.checkpoint.size):
            if not self._width(level, number, width):
                self.report.found("cut", f"`{tile_path(level, number, width)}` is missing")

    def _width(self, level: int | None, number: int, width: int) -> int:
        """Return in which width a tile that must be there is there: `width`, or full (the partial one may then be gone), or 0."""
        for have in dict.fromkeys((width, TILE_WIDTH)):
            listed = have in self.snapshot.tiles.get((level, number), ())
            if listed or (self.directory / tile_path(level, number, have)).is_file():  # put since the listing was taken
                return have
        return 0

    def _leftovers(self) -> None:
        for (level, number), widths in sorted(self.snapshot.tiles.items(), key=str)[:_MAX_FINDINGS]:
            name = tile_path(level, number, max(widths))
            self.report.found("rolled_back", f"`{name}` lies beyond the end of the log, which was cut or rolled back")


def _required(size: int) -> Iterator[tuple[int, int, int]]:
    level = 0
    while size >> (8 * level):
        full, width = divmod(size >> (8 * level), TILE_WIDTH)
        yield from ((level, number, TILE_WIDTH) for number in range(full))
        if width:
            yield level, full, width
        level += 1
