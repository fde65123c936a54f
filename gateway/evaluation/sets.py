"""Which labelled texts does a folder hold? Reads the public format; judges nothing.

A folder holds `pii/` and `moderation/`, each with its sets directly or under `dev/`, as JSON lines, gzip or plain:

- `pii/*.jsonl[.gz]`: `{id, source, lang, types, text, spans: [{start, end, type}]}`; `types` are those the source annotates, offsets are
  code points. A name with `secrets` in it is a set of secrets. Instead of `text` and `spans` a row may hold `parts`: strings, and
  objects `{type, pieces}` whose pieces are joined, so that no file holds a whole credential.
- `pii/*.secrets.json[.gz]`: a list of `{text, secret}`, one candidate each.
- `moderation/*.jsonl[.gz]`: `{source, text, role, labels: {head: 0 or 1}}`; a missing label is unknown.
- `evaluation.json`, optional: `{name, ordinary_prompts, ordinary_texts, floors}`, see `Manifest`.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gateway.evidence import Role

MAX_FILE_BYTES = 256 << 20  # of one set, unpacked: a larger one is a mistake, and would not fit beside the models
ROLES = {role.value: role for role in Role}

Marks = tuple[tuple[int, int, str], ...]
_Row = TypeVar("_Row")


class SetInvalid(Exception):
    """A set cannot be read. The message names file and line, never text."""


class Document(msgspec.Struct, frozen=True):
    """A text with its entities marked, as (start, end, type). `types` are those the source looked for."""

    id: str
    source: str
    lang: str
    text: str
    types: frozenset[str]
    marks: Marks


class Labelled(msgspec.Struct, frozen=True):
    """A text with what it is, by head."""

    source: str
    text: str
    role: Role
    labels: dict[str, int]
    severity: float | None = None


class Candidate(msgspec.Struct, frozen=True):
    """A text that holds a secret, or looks as if it did."""

    text: str
    secret: bool


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder says of itself. `floors` add to the product's and replace them by measure; a null takes one away."""

    name: str = ""
    ordinary_prompts: tuple[str, ...] = ()  # sources whose harmless rows set the one per cent thresholds
    ordinary_texts: tuple[str, ...] = ()  # sources on which over-redaction and false secrets are counted
    floors: dict[str, float | None] = {}


class Sets(msgspec.Struct, frozen=True):
    """Everything a folder holds."""

    manifest: Manifest
    fingerprint: str
    documents: tuple[Document, ...] = ()
    secrets: tuple[Document, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    labelled: tuple[Labelled, ...] = ()


class _Mark(msgspec.Struct):
    start: int
    end: int
    type: str


class _Pieces(msgspec.Struct):
    type: str
    pieces: list[str]


class _DocumentRow(msgspec.Struct):
    source: str
    types: list[str]
    id: str = ""
    lang: str = ""
    text: str | None = None
    spans: list[_Mark] = []
    parts: list[str | _Pieces] | None = None


class _LabelledRow(msgspec.Struct):
    source: str
    text: str
    labels: dict[str, int]
    role: str = "user"
    severity: float | None = None


def read(folder: Path, *, only: str | None = None, most: int | None = None) -> Sets:
    """Return the sets of a folder; `most` keeps so many rows a source and language, always the same ones. Raises `SetInvalid`."""
    content: list[tuple[str, bytes]] = []
    documents: list[Document] = []
    secrets: list[Document] = []
    candidates: list[Candidate] = []
    labelled: list[Labelled] = []
    manifest = _manifest(folder)
    for path in _files(folder, "pii"):
        raw = _unpacked(path)
        content.append((path.name, raw))
        if ".secrets.json" in path.name:
            candidates += _decoded(raw, list[Candidate], path)
        elif "secrets" in path.name:
            secrets += _limited([_document(row, path) for row in _rows(raw, _DocumentRow, path)], most)
        else:
            documents += _limited([_document(row, path) for row in _rows(raw, _DocumentRow, path)], most)
    for path in _files(folder, "moderation"):
        raw = _unpacked(path)
        content.append((path.name, raw))
        labelled += _limited([_text(row, path) for row in _rows(raw, _LabelledRow, path)], most)
    return Sets(
        manifest,
        _fingerprint(content, most),
        tuple(documents) if only in (None, "pii", "secrets") else (),
        tuple(secrets) if only in (None, "secrets") else (),
        tuple(_limited(candidates, most)) if only in (None, "secrets") else (),
        tuple(labelled) if only in (None, "moderation") else (),
    )


def _files(folder: Path, kind: str) -> list[Path]:
    under = folder / kind / "dev"
    under = under if under.is_dir() else folder / kind
    return sorted(path for pattern in ("*.jsonl", "*.jsonl.gz", "*.json", "*.json.gz") for path in under.glob(pattern))


def _unpacked(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as packed:
            raw = packed.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as fault:
        raise SetInvalid(f"`{path}` cannot be read") from fault
    if len(raw) > MAX_FILE_BYTES:
        raise SetInvalid(f"`{path}` is larger than {MAX_FILE_BYTES >> 20} MiB unpacked")
    return raw


def _decoded(raw: bytes, kind: Any, path: Path, line: int = 0) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as fault:  # its text names the path inside the row and the types, not the value
        raise SetInvalid(f"`{path}`{f' line {line}' if line else ''}: {str(fault)[:120]}") from fault


def _rows(raw: bytes, kind: type[_Row], path: Path) -> Iterator[_Row]:
    for line, one in enumerate(raw.splitlines(), 1):
        if one.strip():
            yield _decoded(one, kind, path, line)


def _document(row: _DocumentRow, path: Path) -> Document:
    text, marks = row.text, tuple((mark.start, mark.end, mark.type) for mark in row.spans)
    if row.parts is not None:
        text, marks = _joined(row.parts)
    if text is None:
        raise SetInvalid(f"`{path}`: row `{row.id}` has neither `text` nor `parts`")
    if any(not 0 <= start < end <= len(text) for start, end, _ in marks):
        raise SetInvalid(f"`{path}`: row `{row.id}` has a span outside its text")
    return Document(row.id, row.source, row.lang, text, frozenset(row.types), marks)


def _joined(parts: Sequence[str | _Pieces]) -> tuple[str, Marks]:
    text = ""
    marks = []
    for part in parts:
        if isinstance(part, str):
            text += part
        else:
            value = "".join(part.pieces)
            marks.append((len(text), len(text) + len(value), part.type))
            text += value
    return text, tuple(marks)


def _text(row: _LabelledRow, path: Path) -> Labelled:
    role = ROLES.get(row.role)
    if role is None:
        raise SetInvalid(f"`{path}`: there is no role `{row.role[:20]}`; there are {', '.join(ROLES)}")
    return Labelled(row.source, row.text, role, row.labels, row.severity)


def _limited(rows: list[_Row], most: int | None) -> list[_Row]:
    """Keep `most` rows of each source and language: those whose texts have the lowest digests, so that a choice holds for ever."""
    if most is None:
        return rows
    groups: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(rows):
        groups.setdefault((getattr(row, "source", ""), getattr(row, "lang", "")), []).append(at)
    kept = {at for group in groups.values() for at in sorted(group, key=lambda at: _digest(rows[at]))[:most]}
    return [row for at, row in enumerate(rows) if at in kept]


def _digest(row: Any) -> bytes:
    return hashlib.blake2b(row.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _manifest(folder: Path) -> Manifest:
    path = folder / "evaluation.json"
    if not path.is_file():
        return Manifest(name=folder.resolve().name)
    found: Manifest = _decoded(_unpacked(path), Manifest, path)
    return msgspec.structs.replace(found, name=found.name or folder.resolve().name)


def _fingerprint(content: Sequence[tuple[str, bytes]], most: int | None) -> str:
    """Name the rows that were measured: numbers of other rows are not compared with theirs."""
    state = hashlib.sha256(repr(most).encode())
    for name, raw in content:
        state.update(f"\n{name} {hashlib.sha256(raw).hexdigest()}".encode())
    return state.hexdigest()[:16]
