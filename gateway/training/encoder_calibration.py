"""Where do the encoder's scores and the joined scores of both models stand for ordinary texts? Writes the card beside the weights.

`python -m gateway.training.encoder_calibration TRAIN_FOLDER [--exclude FOLDER] [--weights FOLDER]` recalibrates weights that are there.
Reads the texts that neither model has learned from. The share of each model is fixed beforehand, one half: choosing it on texts of
the same sources as the training would favour the model that remembers words.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.content.second_opinion import LEAST, MOST, Blend
from gateway.evidence import Role
from gateway.providers.local.encoder import WEIGHTS, Card, Network
from gateway.providers.local.moderation import HEADS, LinearModerator
from gateway.training import moderation_corpus as corpus
from gateway.training.moderation import FALSE_ALARMS, ORDINARY
from gateway.training.moderation_rows import Row

LAYOUT = "encoder-1"
SHARE = 0.5
ASKED = 0.02  # of ordinary prompts, by head: what a second opinion costs those who ask for nothing bad
ASKED_OF_ATTACKS = 0.05  # lists of business words and orders lie among the attacks by words alone: they are worth a look
MOST_LOW = 0.5  # a head's band begins here at the latest: from here on a text is suspected
ASKED_HEADS = ("hate", "sexual", "violence", "self_harm", "illicit", "harmful", "attack")
MOST_TEXTS = 9000
STEEPEST = 1.0  # of a calibrated logit; steeper would be likelier on texts like those learned from, and would call all that is grave alike
READINGS = {"prompt": Role.USER, "answer": Role.ASSISTANT, "document": Role.DOCUMENT}

Floats = NDArray[np.float64]


def encoder_logits(network: Network, rows: list[Row]) -> Floats:
    """Return [rows, heads]: the highest logits over each text's windows; NaN where the encoder reads nothing."""
    found = np.full((len(rows), len(HEADS)), np.nan)
    for at, row in enumerate(rows):
        windows, _ = network.windows(row.text)
        if windows:
            found[at] = network.logits(windows).max(axis=0)
    return found


def linear_logits(moderator: LinearModerator, rows: list[Row], role: Role) -> Floats:
    scores = np.array([[moderator.score(row.text, role)[head] for head in HEADS] for row in rows])
    inside = np.clip(scores, 1e-9, 1 - 1e-9)
    logits: Floats = np.clip(np.log(inside / (1 - inside)), LEAST, MOST)
    return logits


def one_per_cent(values: Floats, rows: list[Row], labels: NDArray[np.int8], reading: str) -> Floats:
    """Return, by head, the value that one in a hundred ordinary texts of the reading reaches."""
    found = np.zeros(len(HEADS))
    for head, name in enumerate(HEADS):
        plain = np.array([row.source in ORDINARY[reading] and not (reading == "prompt" and row.role != "user") for row in rows])
        if not (name == "attack" and reading == "answer"):
            plain &= labels[:, head] == 0
        found[head] = np.nanquantile(values[plain, head], 1 - FALSE_ALARMS)
    return found


def steepness(distance: Floats, labels: NDArray[np.int8]) -> Floats:
    """Return, by head, the slope that makes the scores of a balanced set most likely, 0.5 held where it is."""
    steps = np.linspace(0.2, STEEPEST, 17)
    found = np.ones(len(HEADS))
    for head in range(len(HEADS)):
        known = (labels[:, head] >= 0) & ~np.isnan(distance[:, head])
        target = labels[known, head]
        share = np.where(target == 1, 0.5 / max(1, (target == 1).sum()), 0.5 / max(1, (target == 0).sum()))
        sign = np.where(target == 1, 1.0, -1.0)
        losses = [float((share * np.logaddexp(0, -sign * step * distance[known, head])).sum()) for step in steps]
        found[head] = steps[int(np.argmin(losses))]
    return found


def band(linear: Floats, rows: list[Row], labels: NDArray[np.int8]) -> dict[str, float]:
    """Return, by head, the linear score from which a text is in doubt: few ordinary prompts lie above."""
    low = {}
    for name in ASKED_HEADS:
        head = HEADS.index(name)
        plain = np.array([row.source in ORDINARY["prompt"] and row.role == "user" for row in rows]) & (labels[:, head] == 0)
        scores = 1 / (1 + np.exp(-linear[plain, head]))
        share = ASKED_OF_ATTACKS if name == "attack" else ASKED
        low[name] = round(min(MOST_LOW, float(np.quantile(scores, 1 - share))), 4)
    return low


def write(held: list[Row], folder: Path, digests: dict[str, str], trained_on: dict[str, Any], base: str) -> Card:
    """Measure on `held` and write `encoder.json`."""
    held = list(held)
    Random(3).shuffle(held)  # noqa: S311
    rows = held[:MOST_TEXTS]
    labels = np.array([[row.labels.get(head, -1) for head in HEADS] for row in rows], dtype=np.int8)
    empty = Blend(weight={}, shift={}, slope={}, low={})
    draft = Card(LAYOUT, "", HEADS, digests, {}, [], empty, trained_on, base)
    (folder / "encoder.json").write_bytes(msgspec.json.encode(draft))
    raw = encoder_logits(Network(folder), rows)
    moderator = LinearModerator()
    points = {reading: one_per_cent(raw, rows, labels, reading) for reading in READINGS}
    slope = steepness(raw - points["prompt"], labels)
    shift: dict[str, dict[str, float]] = {}
    joined: dict[str, Floats] = {}
    for reading, role in READINGS.items():
        second = np.clip((raw - points[reading]) * slope, LEAST, MOST)
        joined[reading] = (1 - SHARE) * linear_logits(moderator, rows, role) + SHARE * second
        at = one_per_cent(joined[reading], rows, labels, reading)
        shift[reading] = {head: round(float(value), 4) for head, value in zip(HEADS, at, strict=True)}
    both = steepness(joined["prompt"] - np.array([shift["prompt"][head] for head in HEADS]), labels)
    blend = Blend(
        weight=dict.fromkeys(HEADS, SHARE),
        shift=shift,
        slope={head: round(float(value), 3) for head, value in zip(HEADS, both, strict=True)},
        low=band(linear_logits(moderator, rows, Role.USER), rows, labels),
    )
    rounded = {reading: [round(float(value), 4) for value in values] for reading, values in points.items()}
    said = "".join(sorted(digests.values())).encode() + msgspec.json.encode((rounded, slope.tolist(), blend), order="deterministic")
    version = f"{LAYOUT}-{hashlib.sha256(said).hexdigest()[:12]}"  # weights or calibration: either changes what is said of a text
    card = Card(LAYOUT, version, HEADS, digests, rounded, [round(float(value), 3) for value in slope], blend, trained_on, base)
    (folder / "encoder.json").write_text(json.dumps(msgspec.to_builtins(card), indent=1) + "\n", encoding="utf-8")
    return card


def main() -> None:
    """Recalibrate the weights of a folder."""
    default = Path(os.environ.get("GATEWAY_DATA", "../shared/data")) / "moderation" / "train"
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=default)
    options.add_argument("--exclude", type=Path, action="append", default=[])
    options.add_argument("--weights", type=Path, default=WEIGHTS)
    chosen = options.parse_args()
    old = msgspec.json.decode((chosen.weights / "encoder.json").read_bytes(), type=Card)
    rows = [row for row in corpus.texts(chosen.folder, corpus.evaluation_texts(chosen.exclude)) if corpus.apart(row)]
    card = write(rows, chosen.weights, old.sha256, old.trained_on, old.base)
    print(json.dumps(msgspec.to_builtins(card.blend)))


if __name__ == "__main__":
    main()
