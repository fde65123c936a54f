"""Which records lie between here and the signed checkpoint? Reads the published log of a running gateway in bounded, proven batches.

Only what the published checkpoint covers is read, and the writer publishes only what is durable. Every batch is proven to lie under
that checkpoint before it is handed out, so what was changed on disk is found here and not shipped as evidence. Blocking: for a thread.
Must not write.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Final, NamedTuple

from gateway.audit.shipping import Bounds, LogDiffers
from gateway.audit.store import read_file
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
    consistency_proof,
    leaf_hash,
    perfect_root,
    roots_from_consistency,
    split_hashes,
    tile_path,
    unpack_entries,
)
from gateway.ports import Shipment

_LOOKS: Final = 3  # at a checkpoint whose partial tiles were pruned while we read


class Batch(NamedTuple):
    shipment: Shipment
    edge: Edge  # of the tree that ends with the batch
    more: bool  # the checkpoint covers records after it


class LogTail:
    """One published log directory. Used by one thread at a time."""

    def __init__(self, directory: Path, verifier_key: str) -> None:
        self._directory = directory
        self._verifier = Verifier(verifier_key)

    @property
    def origin(self) -> str:
        return self._verifier.name

    def published(self) -> tuple[Checkpoint, bytes]:
        """Return the published checkpoint and its note. Raises `LogDiffers` where it is not signed by the key, `OSError`."""
        note = read_file(self._directory / "checkpoint", MAX_NOTE_BYTES)
        try:
            return self._verifier.open(note), note
        except TreeError as error:
            raise LogDiffers(f"`checkpoint`: {error}") from error

    def edge(self, size: int) -> Edge:
        """Return the edge of the tree at `size`, read from tiles and proven under the published checkpoint.

        Raises `LogDiffers`, `OSError`.
        """
        for left in reversed(range(_LOOKS)):
            checkpoint, _ = self.published()
            try:
                edge = self._load(checkpoint, size)
            except FileNotFoundError:
                if not left:
                    raise
            except TreeError as error:
                raise LogDiffers(f"the log's tiles do not give its tree at {size}: {error}") from error
            else:
                return edge
        raise LogDiffers("the log's tiles are missing")

    def record(self, index: int) -> bytes:
        """Return one published record, not proven. Raises `LogDiffers`, `OSError`."""
        checkpoint, _ = self.published()
        entries = self._bundle(checkpoint, index // TILE_WIDTH)
        if index % TILE_WIDTH >= len(entries):
            raise LogDiffers(f"record {index} is missing from its bundle")
        return entries[index % TILE_WIDTH]

    def batch(self, edge: Edge, bounds: Bounds) -> Batch | None:
        """Return the next records after `edge`, None when there are none. `edge` stays as it is. Raises `LogDiffers`, `OSError`."""
        for left in reversed(range(_LOOKS)):
            checkpoint, note = self.published()
            if checkpoint.size < edge.size:
                raise LogDiffers(f"{edge.size} records were shipped, the log's checkpoint covers {checkpoint.size}: it was rolled back")
            if checkpoint.size == edge.size:
                return None
            try:
                return self._batch(edge, bounds, checkpoint, note)
            except FileNotFoundError:
                if not left:
                    raise
            except TreeError as error:
                raise LogDiffers(f"the records after {edge.size} are not those the checkpoint was signed over: {error}") from error
        return None

    def _batch(self, edge: Edge, bounds: Bounds, checkpoint: Checkpoint, note: bytes) -> Batch:
        taken: list[bytes] = []
        total = 0
        after = copy.deepcopy(edge)
        while after.size < checkpoint.size and len(taken) < bounds.records and (not taken or total < bounds.bytes):
            for record in self._bundle(checkpoint, after.size // TILE_WIDTH)[after.size % TILE_WIDTH :]:
                if len(taken) >= bounds.records or (taken and total + len(record) > bounds.bytes):
                    total = bounds.bytes
                    break
                if b"\n" in record:
                    raise TreeError(f"record {after.size} holds a line break")
                after.append(leaf_hash(record))
                taken.append(record)
                total += len(record)
        after.full.clear()
        self._prove(after, checkpoint)
        return Batch(Shipment(checkpoint.origin, edge.size, tuple(taken), note), after, after.size < checkpoint.size)

    def _load(self, checkpoint: Checkpoint, size: int) -> Edge:
        edge = Edge.load(size, lambda level, number, width: self._hashes(checkpoint, level, number)[: width * HASH_BYTES])
        self._prove(edge, checkpoint)
        return edge

    def _prove(self, edge: Edge, checkpoint: Checkpoint) -> None:
        """Raise `TreeError` unless the tree at `edge` is a prefix of the checkpoint's."""
        if not edge.size:
            return
        path = consistency_proof(lambda height, index: self._node(checkpoint, height, index), edge.size, checkpoint.size)
        old, new = roots_from_consistency(edge.size, checkpoint.size, edge.root(), path)
        if old != edge.root() or new != checkpoint.root:
            raise TreeError(f"the tree at {edge.size} is not under the checkpoint of {checkpoint.size}")

    def _bundle(self, checkpoint: Checkpoint, number: int) -> list[bytes]:
        width = min(TILE_WIDTH, checkpoint.size - number * TILE_WIDTH)
        entries = unpack_entries(self._read(None, number, width, MAX_BUNDLE_BYTES))[:width]
        if len(entries) < width:
            raise TreeError(f"bundle {number} holds {len(entries)} records, not {width}")
        return entries

    def _hashes(self, checkpoint: Checkpoint, level: int, number: int) -> bytes:
        return self._read(level, number, min(TILE_WIDTH, (checkpoint.size >> (8 * level)) - number * TILE_WIDTH), TILE_BYTES)

    def _node(self, checkpoint: Checkpoint, height: int, index: int) -> bytes:
        level, low = divmod(height, 8)
        first = index << low
        hashes = self._hashes(checkpoint, level, first // TILE_WIDTH)
        at = (first % TILE_WIDTH) * HASH_BYTES
        nodes = split_hashes(hashes[at : at + (HASH_BYTES << low)])
        if len(nodes) != 1 << low or len(nodes[-1]) != HASH_BYTES:
            raise TreeError("a tile is too short")
        return perfect_root(nodes)

    def _read(self, level: int | None, number: int, width: int, limit: int) -> bytes:
        """Read a tile in the width the checkpoint needs, or full: then the partial one may be gone."""
        try:
            return read_file(self._directory / tile_path(level, number, width), limit)
        except FileNotFoundError:
            return read_file(self._directory / tile_path(level, number), limit)
