"""What do these records commit to, and does that commitment match? Merkle tree, tiles and signed checkpoints as pure values.

Must not do I/O, read a clock or draw randomness: bytes in, bytes out, so that an auditor can read it alone.
Follows RFC 9162 section 2.1 (hashes and proofs), C2SP tlog-tiles (height 8, 256 hashes a tile), C2SP tlog-checkpoint and
C2SP signed-note (Ed25519, signature type 0x01).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HASH_BYTES: Final = 32
TILE_WIDTH: Final = 256
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
MAX_ENTRY_BYTES: Final = 65_535  # an entry's length prefix is a uint16
MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
MAX_NOTE_BYTES: Final = 65_536  # room for far more than the 16 signatures a verifier has to accept
MAX_TREE_SIZE: Final = 1 << 62
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
_ED25519: Final = b"\x01"
_sha256 = hashlib.sha256


class TreeError(ValueError):
    """Bytes that are not what their place in the log says they are."""


def leaf_hash(record: bytes) -> bytes:
    return _sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return _sha256(b"\x01" + left + right).digest()


# --- the growing tree


class Tile(NamedTuple):
    """`width` consecutive hashes at height 8 * `level`; 256 wide is full, less is partial."""

    level: int
    number: int
    hashes: bytes

    @property
    def width(self) -> int:
        return len(self.hashes) // HASH_BYTES


class Edge:
    """The right edge of a growing tree: enough to append, to give the root, and to hand out tiles.

    INVARIANT: `_stack` holds one hash for each set bit of `size`, highest first; `_levels[k]` the hashes of the last, partial
    tile at level k. Appending costs one hash on average, the root at most log2(size).
    """

    __slots__ = ("_levels", "_stack", "full", "size")

    def __init__(self) -> None:
        self.size = 0
        self.full: list[Tile] = []  # filled up since the owner last emptied it
        self._stack: list[bytes] = []
        self._levels: list[bytearray] = [bytearray()]

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash. Tiles that fill up are left in `full`, lower levels first."""
        tile = self._levels[0]
        tile += leaf
        if len(tile) == TILE_BYTES:
            self._filled(0, tile)
        node, bits, height, stack = leaf, self.size, 0, self._stack
        while bits & 1:
            node = _sha256(b"\x01" + stack.pop() + node).digest()
            bits >>= 1
            height += 1
            if not height & 7:
                self._push(height >> 3, node)
        stack.append(node)
        self.size += 1

    def _push(self, level: int, node: bytes) -> None:
        if level == len(self._levels):
            self._levels.append(bytearray())
        tile = self._levels[level]
        tile += node
        if len(tile) == TILE_BYTES:
            self._filled(level, tile)

    def _filled(self, level: int, tile: bytearray) -> None:
        self.full.append(Tile(level, self.size >> (8 * (level + 1)), bytes(tile)))
        tile.clear()

    def root(self) -> bytes:
        if not self._stack:
            return EMPTY_ROOT
        node = self._stack[-1]
        for left in reversed(self._stack[:-1]):
            node = node_hash(left, node)
        return node

    def partial(self) -> list[Tile]:
        """Return the partial tile of every level that has one."""
        return [Tile(level, self.size >> (8 * (level + 1)), bytes(hashes)) for level, hashes in enumerate(self._levels) if hashes]

    @classmethod
    def load(cls, size: int, read: Callable[[int, int, int], bytes]) -> Edge:
        """Restore the edge of a tree of `size` from its partial tiles; `read(level, number, width)` gives their hashes.

        Raises `TreeError` when a tile has another width. What was read is proven only once `root()` meets a signed root.
        """
        edge = cls()
        edge.size = size
        edge._levels.clear()
        parts: list[list[bytes]] = []
        level = 0
        while size >> (8 * level):
            width = (size >> (8 * level)) & 0xFF
            hashes = read(level, size >> (8 * (level + 1)), width) if width else b""
            if len(hashes) != width * HASH_BYTES:
                raise TreeError(f"tile at level {level} holds {len(hashes)} bytes, {width * HASH_BYTES} expected")
            edge._levels.append(bytearray(hashes))
            parts.append(subtree_roots(hashes))
            level += 1
        edge._stack = [node for part in reversed(parts) for node in part]
        if not edge._levels:
            edge._levels.append(bytearray())
        return edge


def split_hashes(hashes: bytes) -> list[bytes]:
    return [hashes[i : i + HASH_BYTES] for i in range(0, len(hashes), HASH_BYTES)]


def perfect_root(nodes: list[bytes]) -> bytes:
    """Return the root over 2**k nodes."""
    while len(nodes) > 1:
        nodes = [node_hash(nodes[i], nodes[i + 1]) for i in range(0, len(nodes), 2)]
    return nodes[0]


def subtree_roots(hashes: bytes) -> list[bytes]:
    """Return the roots of the largest perfect subtrees over a run of hashes, left to right."""
    nodes, roots, start = split_hashes(hashes), [], 0
    while start < len(nodes):
        size = 1 << ((len(nodes) - start).bit_length() - 1)
        roots.append(perfect_root(nodes[start : start + size]))
        start += size
    return roots


# --- proofs (RFC 9162 section 2.1.3 and 2.1.4)

Node = Callable[[int, int], bytes]
"""`node(height, index)`: the root of the perfect subtree over leaves [index << height, (index + 1) << height)."""


def range_root(node: Node, start: int, end: int) -> bytes:
    """Return MTH(D[start:end]) where [start, end) is a subtree the recursion of RFC 9162 visits."""
    if start == end:
        return EMPTY_ROOT
    parts: list[bytes] = []
    while start < end:
        height = (end - start).bit_length() - 1
        parts.append(node(height, start >> height))
        start += 1 << height
    root = parts.pop()
    for left in reversed(parts):
        root = node_hash(left, root)
    return root


def inclusion_proof(node: Node, index: int, size: int) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size`, leaf end first."""
    if not 0 <= index < size:
        raise TreeError(f"index {index} is not in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(node, middle, end))
            end = middle
        else:
            path.append(range_root(node, start, middle))
            start = middle
    path.reverse()
    return path


def consistency_proof(node: Node, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `old` leaves is a prefix of the tree of `new`."""
    if not 0 < old <= new:
        raise TreeError(f"no consistency proof from {old} to {new}")
    path: list[bytes] = []
    start, end, whole = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_root(node, middle, end))
            end = middle
        else:
            path.append(range_root(node, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(range_root(node, start, end))
    path.reverse()
    return path


def _split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root that `path` leads to (RFC 9162 section 2.1.3.2); the caller compares it. Raises `TreeError` on a bad length."""
    if not 0 <= index < size:
        raise TreeError(f"index {index} is not in a tree of {size}")
    fn, sn, node = index, size - 1, leaf
    for step in path:
        if sn == 0:
            raise TreeError("the proof is too long")
        if fn & 1 or fn == sn:
            node = node_hash(step, node)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            node = node_hash(node, step)
        fn >>= 1
        sn >>= 1
    if sn:
        raise TreeError("the proof is too short")
    return node


def roots_from_consistency(old: int, new: int, old_root: bytes, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the (old, new) roots that `path` leads to (RFC 9162 section 2.1.4.2); the caller compares both."""
    if not 0 < old <= new:
        raise TreeError(f"no consistency proof from {old} to {new}")
    steps = list(path)
    if old == new:
        if steps:
            raise TreeError("the proof is too long")
        return old_root, old_root
    if not old & (old - 1):
        steps.insert(0, old_root)
    if not steps:
        raise TreeError("the proof is too short")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    first = second = steps[0]
    for step in steps[1:]:
        if sn == 0:
            raise TreeError("the proof is too long")
        if fn & 1 or fn == sn:
            first, second = node_hash(step, first), node_hash(step, second)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            second = node_hash(second, step)
        fn >>= 1
        sn >>= 1
    if sn:
        raise TreeError("the proof is too short")
    return first, second


# --- the layout of a directory (C2SP tlog-tiles)

_TILE_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


def tile_path(level: int | None, number: int, width: int = TILE_WIDTH) -> str:
    """Return a tile's path under the log's prefix; level None is the bundle of entries."""
    groups = [f"{number % 1000:03d}"]
    while number >= 1000:
        number //= 1000
        groups.insert(0, f"x{number % 1000:03d}")
    name = "entries" if level is None else str(level)
    partial = f".p/{width}" if width != TILE_WIDTH else ""
    return f"tile/{name}/{'/'.join(groups)}{partial}"


def parse_tile_path(path: str) -> tuple[int | None, int, int] | None:
    """Return (level, number, width), or None when `path` is no tile's canonical name."""
    match = _TILE_PATH.fullmatch(path)
    if match is None or len(match[2]) > 40:
        return None
    level = None if match[1] == "entries" else int(match[1])
    number = int(match[2].replace("/", "").replace("x", ""))
    width = int(match[3]) if match[3] else TILE_WIDTH
    return (level, number, width) if tile_path(level, number, width) == path else None


def pack_entry(record: bytes) -> bytes:
    return len(record).to_bytes(2, "big") + record


def unpack_entries(data: bytes) -> list[bytes]:
    """Return the records of a bundle. Raises `TreeError` when a length runs past the end or there are more than 256."""
    entries: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > end or stop > end or len(entries) == TILE_WIDTH:
            raise TreeError(f"entry bundle breaks at byte {at}")
        entries.append(data[at + 2 : stop])
        at = stop
    return entries


# --- checkpoints (C2SP tlog-checkpoint inside a C2SP signed note)


class Checkpoint(NamedTuple):
    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def valid_origin(origin: str) -> bool:
    """True for what may be both a checkpoint's origin line and a note's key name."""
    return 0 < len(origin) <= 256 and origin.isprintable() and "+" not in origin and not any(c.isspace() for c in origin)


def _key_id(name: str, public: bytes) -> bytes:
    return _sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


class Signer:
    """Signs checkpoints of one origin with one key."""

    def __init__(self, origin: str, key: Ed25519PrivateKey) -> None:
        if not valid_origin(origin):
            raise TreeError("an origin is printable, has no space and no `+`, and is at most 256 characters")
        self.origin = origin
        self._key = key
        self._public = key.public_key().public_bytes_raw()
        self._id = _key_id(origin, self._public)

    def verifier_key(self) -> str:
        """Return the C2SP verifier key: name, key id in hex and typed public key in base64, joined by `+`."""
        return f"{self.origin}+{self._id.hex()}+{base64.b64encode(_ED25519 + self._public).decode()}"

    def sign(self, size: int, root: bytes) -> bytes:
        text = Checkpoint(self.origin, size, root).text().encode()
        signature = base64.b64encode(self._id + self._key.sign(text))
        return text + b"\n\xe2\x80\x94 " + self.origin.encode() + b" " + signature + b"\n"


class Verifier:
    """Opens checkpoints signed by one key under one name."""

    def __init__(self, verifier_key: str) -> None:
        """Raises `TreeError` for anything but an Ed25519 verifier key whose id matches its name and key."""
        parts = verifier_key.strip().split("+", 2)
        if len(parts) != 3 or not valid_origin(parts[0]):
            raise TreeError("not a verifier key: expected `name+id+base64`")
        typed = _base64(parts[2])
        if len(typed) != 33 or typed[:1] != _ED25519:
            raise TreeError("not an Ed25519 verifier key")
        if _key_id(parts[0], typed[1:]).hex() != parts[1]:
            raise TreeError("the verifier key's id does not match its name and key")
        self.name = parts[0]
        self._id = _key_id(parts[0], typed[1:])
        try:
            self._public = Ed25519PublicKey.from_public_bytes(typed[1:])
        except ValueError as error:
            raise TreeError("not an Ed25519 public key") from error

    def open(self, note: bytes) -> Checkpoint:
        """Return the checkpoint of a signed note. Raises `TreeError` unless our key signed it and its origin is our name."""
        text, signatures = _split_note(note)
        ours = [signature for name, signature in signatures if name == self.name and signature[:4] == self._id]
        if not ours:
            raise TreeError("the note is not signed by this key")
        for signature in ours:
            try:
                self._public.verify(signature[4:], text.encode())
            except InvalidSignature as error:
                raise TreeError("the note's signature is wrong") from error
        checkpoint = _parse_checkpoint(text)
        if checkpoint.origin != self.name:
            raise TreeError("the checkpoint belongs to another origin")
        return checkpoint


def _split_note(note: bytes) -> tuple[str, Iterable[tuple[str, bytes]]]:
    if len(note) > MAX_NOTE_BYTES:
        raise TreeError("the note is too long")
    try:
        whole = note.decode()
    except UnicodeDecodeError as error:
        raise TreeError("the note is not UTF-8") from error
    if any(c < " " and c != "\n" for c in whole):
        raise TreeError("the note holds a control character")
    text, gap, tail = whole.rpartition("\n\n")
    if not gap or not tail.endswith("\n"):
        raise TreeError("the note has no signature block")
    signatures: list[tuple[str, bytes]] = []
    for line in tail[:-1].split("\n"):
        dash, name, signature = [*line.split(" ", 2), "", ""][:3]
        raw = _base64(signature)
        if dash != "\u2014" or not valid_origin(name) or len(raw) < 5:
            raise TreeError("the note has a malformed signature line")
        signatures.append((name, raw))
    return text + "\n", signatures


def _parse_checkpoint(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0] or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
        raise TreeError("the note is not a checkpoint")
    root = _base64(lines[2])
    if len(root) != HASH_BYTES or int(lines[1]) > MAX_TREE_SIZE:
        raise TreeError("the checkpoint's size or root is malformed")
    return Checkpoint(lines[0], int(lines[1]), root)


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise TreeError("malformed base64") from error
    if base64.b64encode(raw).decode() != text:  # one text for one value: no second spelling passes as unedited
        raise TreeError("base64 is not canonical")
    return raw
