"""Train the names head: `python -m gateway.training.names DATA_FOLDER [--out FOLDER]`.

Reads the development sets of personal data in `DATA_FOLDER` whose licence allows it (`SETS`), one half of each by a hash of the text
around its names, so that one template never stands on both sides, and the practice text of `names_text`. Every other text stays unseen and
is what `gateway.training.pii_spans` is measured on. Seeded, a few minutes on one core. Needs scikit-learn; the serving process does not.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier

from gateway.content.language import language
from gateway.content.views import canonical
from gateway.providers.local.ner_features import WORD_BITS
from gateway.providers.local.ner_model import CARD, HEAD, LABELS, LAYOUT, Reader, Sketch, columns
from gateway.training.names_text import Practice, Writer
from gateway.training.pii_spans import KINDS, SETS, documents, seen_in_training, template

MEMBERS, HIDDEN, EPOCHS, PENALTY = 3, 64, 8, 3e-3
PRACTICE = 5_000
REPEAT = 2  # real text counts as often
FORGET = 0.25  # of the words' places on the lists are forgotten while training: most names are on no list
FOLDS = (-1, 0, 1)  # practice text, then two halves of the real text
GRID = (0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55)
ORGANIZATION_AT = 0.5
_LISTED = sum(1 << WORD_BITS.index(name) for name in ("given", "surname", "city", "country", "place_begin")) | 1 << len(WORD_BITS)


def _labels(sketch: Sketch, spans: list[tuple[int, int, str]]) -> NDArray[np.int64]:
    labels = np.zeros(len(sketch.bounds), np.int64)
    for start, end, kind in spans:
        if kind in LABELS:
            for at, (begin, stop) in enumerate(sketch.bounds):
                if begin < end and start < stop:
                    labels[at] = LABELS.index(kind) + 1
    return labels


def _forgetful(sketch: Sketch, random: np.random.Generator) -> Sketch:
    forms = sketch.forms.copy()
    forms[random.random(len(forms)) < FORGET] &= ~_LISTED
    return sketch._replace(forms=forms)


def _examples(folder: Path) -> Iterator[tuple[int, Practice]]:
    for document in documents(folder):
        if seen_in_training(document):
            view = canonical(document.text)
            places = {original: at for at, original in reversed(list(enumerate(view.offsets)))} if view.offsets is not None else {}
            spans = [(places.get(s, s), places.get(e, e), KINDS.get(kind, kind)) for s, e, kind in document.spans]
            fold = FOLDS[1 + (template(document)[1] & 1)]
            yield from [(fold, Practice(view.text, language(document.text), spans))] * REPEAT


class Rows(NamedTuple):
    """Words as the head reads them: features, labels, the fold of their text (-1: practice) and whether it is English."""

    data: NDArray[np.float32]
    target: NDArray[np.int64]
    fold: NDArray[np.int64]
    english: NDArray[np.bool_]


def rows(folder: Path) -> Rows:
    """Return every word to learn from."""
    reader = Reader()
    random = np.random.default_rng(7)
    data: list[NDArray[np.float16]] = []
    labels: list[NDArray[np.int64]] = []
    folds: list[NDArray[np.int64]] = []
    english: list[NDArray[np.bool_]] = []
    examples = [(FOLDS[0], example) for example in Writer(7).write(PRACTICE)] + list(_examples(folder))
    for at in range(0, len(examples), 64):
        batch = examples[at : at + 64]
        for (fold, example), sketch in zip(batch, reader.sketch([item.text for _, item in batch]), strict=True):
            if sketch.bounds:
                code = "und" if random.random() < 0.1 else example.code
                data += [block.astype(np.float16) for block in columns(_forgetful(sketch, random), code)]
                labels.append(_labels(sketch, example.spans))
                folds.append(np.full(len(sketch.bounds), fold))
                english.append(np.full(len(sketch.bounds), example.code in {"en", "und"}))
    return Rows(np.concatenate(data).astype(np.float32), np.concatenate(labels), np.concatenate(folds), np.concatenate(english))


def _fitted(data: NDArray[np.float32], target: NDArray[np.int64], seed: int) -> MLPClassifier:
    model = MLPClassifier((HIDDEN,), alpha=PENALTY, batch_size=256, max_iter=EPOCHS, random_state=seed).fit(data, target)
    print(f"seed {seed}: loss {model.loss_:.4f} on {len(data)} words")
    return model


def thresholds(learned: Rows) -> dict[str, dict[str, float]]:
    """Choose where a word counts as a name, from words that a model of the other fold judges: the best F2, or near F1.

    A leak costs more than a blackened word, but English has room for that and languages of many capitals have none.
    """
    shares = np.zeros((len(learned.target), len(LABELS) + 1))
    for fold in FOLDS[1:]:
        others, judged = learned.fold != fold, learned.fold == fold
        shares[judged] = _fitted(learned.data[others], learned.target[others], 100 + fold).predict_proba(learned.data[judged])
    real = learned.fold != FOLDS[0]
    chosen: dict[str, dict[str, float]] = {}
    for code, group, weight in (("en", real & learned.english, 4.0), ("other", real & ~learned.english, 2.0)):
        chosen[code] = {"ORGANIZATION": ORGANIZATION_AT}
        for kind in (1, 2):
            gold, score = learned.target[group] == kind, shares[group, kind]
            scored = []
            for at in GRID:
                hits = float(np.sum(gold & (score >= at)))
                scored.append(((1 + weight) * hits / (weight * gold.sum() + np.sum(score >= at)), at))
            chosen[code][LABELS[kind - 1]] = max(scored)[1]
            print(code, LABELS[kind - 1], " ".join(f"{at}:{value:.3f}" for value, at in scored))
    return chosen


def train(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the weights and their card."""
    learned = rows(folder)
    chosen = thresholds(learned)
    arrays: dict[str, Any] = {"members": np.array(MEMBERS)}
    for seed in range(MEMBERS):
        model = _fitted(learned.data, learned.target, seed)
        for name, values in (("w", model.coefs_[0]), ("b", model.intercepts_[0]), ("v", model.coefs_[1]), ("c", model.intercepts_[1])):
            arrays[f"{name}{seed}"] = values.astype(np.float16)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    by_code = {**dict.fromkeys(("en", "und"), chosen["en"]), **dict.fromkeys(("de", "fr", "es", "it", "nl", "pt"), chosen["other"])}
    card = {"version": digest[:12], "sha256": digest, "layout": LAYOUT, "thresholds": by_code, "sets": SETS, "words": len(learned.target)}
    return content, card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=HEAD.parent)
    arguments = parser.parse_args()
    content, card = train(arguments.data)
    (arguments.out / HEAD.name).write_bytes(content)
    (arguments.out / CARD.name).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
