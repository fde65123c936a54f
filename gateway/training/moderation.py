"""Train the embedded moderation model: `python -m gateway.training.moderation DATA_FOLDER [--out FOLDER]`.

One process, three minutes on one core, seeded throughout. The one per cent points come from texts that are kept apart and never
learned from. Evaluation data is read for nothing but to leave its texts out (`--exclude`).
Needs the development dependencies (scipy and scikit-learn); the serving process needs neither.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from gateway.providers.local import moderation_features as features
from gateway.providers.local.moderation import HEADS, LONG, SHORT, WEIGHTS
from gateway.training import moderation_corpus as texts
from gateway.training import moderation_rows as sources
from gateway.training import word_vectors

GRAM, PAIR = 0.3, 0.7  # how much an n-gram and a pair count beside a word
STRENGTH = 12.0  # inverse of the L2 penalty
TOLERANCE = 2e-4  # of the gradient: stopping here generalised better than full convergence
RARE_AT_MOST = 6.0  # a rare positive counts at most this many times
WORDS, GRAMS, PAIRS = 1 << features.WORD_BITS, 1 << features.GRAM_BITS, 1 << features.PAIR_BITS
MEANING = 0.7  # length of a word's meaning vector beside its own weight
WIDTH = WORDS + GRAMS + PAIRS + word_vectors.DIMENSIONS
ORDINARY = {
    "prompt": {"dolly", "seed_tasks", "awesome_prompts", "glaive_tool", "slabs", "neuralchemy"},
    "answer": {"dolly_resp", "rtp_prompt", "rtp_continuation", "gptfuzz_resp", "wiki", "c4", "own_documents_safe"},
    "document": {"wiki", "c4", "bipia_clean_train", "glaive_tool", "dolly_resp", "own_documents_safe"},
}
FALSE_ALARMS = 0.01
# Group names are near each other in meaning, which is the very thing a hate head must tell apart; attacks are wording, not topic.
BY_WORDING_ALONE = {"hate", "harassment", "attack"}
# A window of a text that is judged whole must exceed its own one per cent point by this many logits: what is asked is told by all of it.
WINDOW_MARGIN, REQUEST_MARGIN, REQUEST_HEADS = 2.0, 3.5, {"illicit", "harmful"}

# Prose and contexts whose words say little by themselves: they teach the encoder, and taught this model to suspect stories and articles.
NOT_BY_WORDS = {
    "own_violence_scenes", "own_self_harm_posts", "own_hate_prose", "own_passages_safe", "own_context_harmful", "own_posts_self_harm",
    "own_posts_violence", "own_comments_hate", "own_comments_harassment", "own_literal_self_harm", "own_literal_violence",
    "own_violence_prose", "own_hate_prose_more", "own_stories_sexual",
}

Floats = NDArray[np.float64]
Matrix = Any  # scipy.sparse is not typed


class Corpus:
    """Texts as one long row of word numbers, with what each window needs to be summed."""

    def __init__(self, pieces: list[list[str]]) -> None:
        index: dict[str, int] = {}
        self.sizes = np.array([len(piece) for piece in pieces])
        flat = [index.setdefault(word, len(index)) for piece in pieces for word in piece]
        self.flat = np.array(flat, dtype=np.int64)
        vocabulary = list(index)
        ids = features.word_ids(vocabulary)
        buckets, owners = features.grams(vocabulary)
        rows = np.concatenate([np.arange(len(vocabulary)), owners])
        columns = np.concatenate([features.word_buckets(ids), WORDS + buckets])
        values = np.concatenate([np.ones(len(vocabulary)), np.full(len(buckets), GRAM)]).astype(np.float32)
        hashed = sparse.csr_matrix((values, (rows, columns)), shape=(len(vocabulary), WIDTH - word_vectors.DIMENSIONS))
        meant = sparse.csr_matrix(meanings()[features.word_buckets(ids)])
        self.by_word: Matrix = sparse.hstack([hashed, meant]).tocsr()
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        here = ids[self.flat]
        first = np.zeros(len(here), dtype=bool)
        first[self.starts[:-1]] = True
        one = _shifted(here, first)
        two = _shifted(one, first)
        self.pairs = [features.pair_buckets(one, here, 1) + WORDS + GRAMS, features.pair_buckets(two, here, 2) + WORDS + GRAMS]
        self.position = np.arange(len(here)) - np.repeat(self.starts[:-1], self.sizes) + 1

    def matrix(self) -> Matrix:
        """Return one row of features a text, scaled as at serving."""
        count, size = len(self.sizes), len(self.flat)
        chosen = sparse.csr_matrix((np.ones(size, np.float32), self.flat, self.starts), shape=(count, self.by_word.shape[0]))
        total = chosen @ self.by_word
        for buckets in self.pairs:
            total = total + sparse.csr_matrix((np.full(size, PAIR, np.float32), buckets, self.starts), shape=(count, WIDTH))
        return (sparse.diags_array((1 / features.length_scale(self.sizes)).astype(np.float32)) @ total).tocsr()

    def logits(self, weights: Floats, bias: Floats, size: int, *, every: bool) -> Floats:
        """Return each text's highest logit over windows of `size` words: every word boundary, or steps of a third and the end."""
        values = (self.by_word @ weights)[self.flat]
        for buckets in self.pairs:
            values += PAIR * weights[buckets]
        sums = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(values, axis=0)])
        ends = np.arange(1, len(self.flat) + 1)
        span = np.minimum(self.position, size)
        logits: Floats = (sums[ends] - sums[ends - span]) / features.length_scale(span)[:, None] + bias
        if not every:
            last = np.zeros(len(ends), dtype=bool)
            last[self.starts[1:] - 1] = True
            logits[~(last | ((self.position >= size) & (self.position % (size // 3) == 0)))] = -np.inf
        return np.maximum.reduceat(logits, self.starts[:-1], axis=0)


def meanings() -> NDArray[np.float32]:
    """Return [word buckets, dimensions]: the meaning of the words in each bucket, so that a bucket's weight can absorb it."""
    known = word_vectors.load()
    buckets = features.word_buckets(features.word_ids(list(known)))
    table = np.zeros((WORDS, word_vectors.DIMENSIONS), dtype=np.float32)
    np.add.at(table, buckets, np.stack(list(known.values())) * np.float32(MEANING / 254))
    return table


def _shifted(ids: NDArray[np.uint32], first: NDArray[np.bool_]) -> NDArray[np.uint32]:
    before = np.concatenate([[features.START], ids[:-1]]).astype(np.uint32)
    before[first] = features.START
    return before


def gather(folder: Path, excluded: frozenset[str]) -> tuple[list[list[str]], list[sources.Row]]:
    """Return the distinct training texts as words, windows of the harmless ones added, with their rows."""
    random = Random(13)  # noqa: S311
    pieces: list[list[str]] = []
    kept: list[sources.Row] = []
    for row in texts.texts(folder, excluded):
        if row.source in NOT_BY_WORDS:
            continue
        for piece in sources.windows(row, features.words(row.text), random, LONG):
            pieces.append(piece)
            kept.append(row)
    return pieces, kept


def labels_of(rows: list[sources.Row]) -> NDArray[np.int8]:
    """Return [rows, heads]: 1, 0, or -1 where nobody said."""
    return np.array([[row.labels.get(head, -1) for head in HEADS] for row in rows], dtype=np.int8)


def fit(matrix: Matrix, labels: NDArray[np.int8]) -> tuple[Floats, Floats]:
    """Return weights [features, heads] and bias [heads]."""
    weights = np.zeros((matrix.shape[1], len(HEADS)))
    bias = np.zeros(len(HEADS))
    for head in range(len(HEADS)):
        known = labels[:, head] >= 0
        target = labels[known, head]
        rare = float(np.clip((target == 0).sum() / max(1, (target == 1).sum()) / 3, 1.0, RARE_AT_MOST))
        model = LogisticRegression(C=STRENGTH, max_iter=300, tol=TOLERANCE)
        width = WORDS + GRAMS + PAIRS if HEADS[head] in BY_WORDING_ALONE else WIDTH
        model.fit(matrix[known][:, :width], target, sample_weight=np.where(target == 1, rare, 1.0))
        weights[:width, head], bias[head] = model.coef_[0], model.intercept_[0]
    return weights, bias


def unseen_scores(corpus: Corpus, weights: Floats, bias: Floats, held: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return the highest logits of each text kept apart, by kind of window."""
    kinds = {"whole": (LONG, False), "short": (SHORT, False), "stream": (SHORT, True)}
    return {kind: corpus.logits(weights, bias, size, every=every)[held] for kind, (size, every) in kinds.items()}


def one_per_cent_points(scores: dict[str, Floats], labels: NDArray[np.int8], rows: list[sources.Row]) -> dict[str, dict[str, list[float]]]:
    """Return, for each reading, the logit that one in a hundred ordinary texts reaches, for short and long windows."""
    points: dict[str, dict[str, list[float]]] = {}
    for reading, ordinary in ORDINARY.items():
        short, long = scores["stream" if reading == "answer" else "short"], scores["whole"]
        found: dict[str, list[float]] = {"short": [], "long": []}
        for head in range(len(HEADS)):
            plain = np.array([row.source in ordinary and not (reading == "prompt" and row.role != "user") for row in rows])
            plain &= labels[:, head] == 0
            if HEADS[head] == "attack" and reading == "answer":
                plain = np.array([row.source in ordinary for row in rows])
            for name, values in (("short", short), ("long", long)):
                margin = REQUEST_MARGIN if HEADS[head] in REQUEST_HEADS else WINDOW_MARGIN
                margin = margin if name == "short" and reading != "answer" else 0.0
                found[name].append(round(float(np.quantile(values[plain, head], 1 - FALSE_ALARMS)) + margin, 4))
        points[reading] = found
    return points


def slopes(scores: dict[str, Floats], labels: NDArray[np.int8], points: dict[str, dict[str, list[float]]]) -> list[float]:
    """Return the steepness that makes the calibrated score of a balanced set most likely, the one per cent point held at 0.5."""
    found = []
    for head in range(len(HEADS)):
        known = labels[:, head] >= 0
        distance = scores["whole"][known, head] - points["prompt"]["long"][head]
        target = labels[known, head]
        share = np.where(target == 1, 0.5 / max(1, (target == 1).sum()), 0.5 / max(1, (target == 0).sum()))
        sign = np.where(target == 1, 1.0, -1.0)
        steps = np.linspace(0.3, 3.0, 55)
        losses = [float((share * np.logaddexp(0, -sign * step * distance)).sum()) for step in steps]
        found.append(round(float(steps[int(np.argmin(losses))]), 3))
    return found


def quantise(weights: Floats) -> tuple[dict[str, NDArray[Any]], list[float]]:
    """Return int8 tables with whole-number factors to one unit a head, and those units."""
    meaning = WORDS + GRAMS + PAIRS
    parts = {
        "word": weights[:WORDS] + meanings() @ weights[meaning:],
        "gram": weights[WORDS : WORDS + GRAMS] * GRAM,
        "pair": weights[WORDS + GRAMS : meaning] * PAIR,
    }
    steps = {name: np.maximum(np.quantile(np.abs(part), 0.9998, axis=0), 1e-9) / 127 for name, part in parts.items()}
    unit = np.maximum.reduce(list(steps.values())) / 64
    arrays: dict[str, NDArray[Any]] = {}
    for name, part in parts.items():
        arrays[name] = np.clip(np.rint(part / steps[name]), -127, 127).astype(np.int8)
        arrays[name + "_by"] = np.maximum(1, np.rint(steps[name] / unit)).astype(np.int32)
    return arrays, [float(value) for value in unit]


def save(folder: Path, arrays: dict[str, NDArray[Any]], card: dict[str, Any]) -> None:
    """Write the tables and the card that names their digest."""
    folder.mkdir(parents=True, exist_ok=True)
    held = io.BytesIO()
    np.savez(held, allow_pickle=False, **arrays)
    raw = held.getvalue()
    (folder / "moderation.npz").write_bytes(raw)
    card["sha256"] = hashlib.sha256(raw).hexdigest()
    card["version"] = f"{card['layout']}-{card['sha256'][:12]}"
    (folder / "moderation.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Train, calibrate, quantise, write."""
    default = Path(os.environ.get("GATEWAY_DATA", "../shared/data")) / "moderation" / "train"
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=default)
    options.add_argument("--exclude", type=Path, action="append", default=[], help="folder of evaluation sets to keep clear of")
    options.add_argument("--out", type=Path, default=WEIGHTS)
    chosen = options.parse_args()
    pieces, rows = gather(chosen.folder, texts.evaluation_texts(chosen.exclude))
    corpus, labels = Corpus(pieces), labels_of(rows)
    matrix = corpus.matrix()
    held = np.array([texts.apart(row) for row in rows])
    weights, bias = fit(matrix[~held], labels[~held])
    scores = unseen_scores(corpus, weights, bias, held)
    kept_apart = [row for row, out in zip(rows, held, strict=True) if out]
    points = one_per_cent_points(scores, labels[held], kept_apart)
    arrays, unit = quantise(weights)
    positives = {head: int((labels[:, at] == 1).sum()) for at, head in enumerate(HEADS)}
    negatives = {head: int((labels[:, at] == 0).sum()) for at, head in enumerate(HEADS)}
    save(
        chosen.out,
        arrays,
        {
            "layout": "linear-1", "heads": list(HEADS), "unit": unit, "bias": [float(value) for value in bias], "points": points,
            "slope": slopes(scores, labels[held], points), "recommended_thresholds": dict.fromkeys(HEADS, 0.5),
            "trained_on": {"positives": positives, "negatives": negatives, "texts": int((~held).sum()), "kept_apart": int(held.sum())},
        },
    )
    print(json.dumps({"positives": positives, "negatives": negatives, "points": points}))


if __name__ == "__main__":
    main()
