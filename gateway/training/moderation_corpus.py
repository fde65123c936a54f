"""Which texts does a moderation model learn from, and is any of them one that it will be measured on?

The rows of the training folder, their rewordings and our own sentences, each text once. Texts that equal an evaluation text after
normalisation are left out where we made them or where they are a word or two that anybody would say; a longer one in a set stops
the training: such a set was not kept apart.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from gateway.providers.local import moderation_features as features
from gateway.training import moderation_phrases as phrases
from gateway.training import moderation_rows as sources

KEY_CHARS = 4000
ANYBODYS_WORDS = 3  # `no`, `thanks`, `how are you`: equal by chance
PROMPTS = {"dolly", "seed_tasks", "awesome_prompts", "glaive_tool", "slabs", "neuralchemy"}


KEEP_APART = 10  # one text in so many sets the one per cent points and is never learned from
KEEP_APART_ORDINARY = 3  # of sets that are few and ordinary
_ORDINARY = {"dolly", "seed_tasks", "awesome_prompts", "wiki", "c4", "dolly_resp", "bipia_clean_train"}


class Contaminated(Exception):
    """A training set holds evaluation texts. The message names sources and counts, never texts."""


def normalised(text: str) -> str:
    """Return the words of a text, which is what two texts are compared by."""
    return " ".join(features.words(text))[:KEY_CHARS]


def evaluation_texts(folders: Iterable[Path]) -> frozenset[str]:
    """Return the normalised texts of every `*.jsonl.gz` below `folders`."""
    found: set[str] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                found.update(normalised(json.loads(line)["text"]) for line in lines)
    return frozenset(found - {""})


def without(rows: Iterable[sources.Row], excluded: frozenset[str], made: frozenset[str]) -> list[sources.Row]:
    """Return the distinct rows that equal no excluded text. Raises `Contaminated` where a source not in `made` held one."""
    seen: set[str] = set()
    kept: list[sources.Row] = []
    foreign: dict[str, int] = {}
    for row in rows:
        key = normalised(row.text)
        if not key or key in seen:
            continue
        seen.add(key)
        if key not in excluded:
            kept.append(row)
        elif row.source not in made and "+" not in row.source and key.count(" ") >= ANYBODYS_WORDS:
            foreign[row.source] = foreign.get(row.source, 0) + 1
    if foreign:
        named = ", ".join(f"`{source}` ({count})" for source, count in sorted(foreign.items()))
        raise Contaminated(f"training sets hold evaluation texts: {named}; remove these rows")
    return kept


def apart(row: sources.Row) -> bool:
    """Tell whether a text is kept out of learning, with all of its family."""
    share = KEEP_APART_ORDINARY if row.source in _ORDINARY else KEEP_APART
    return int(hashlib.sha256((row.family or row.text).encode()).hexdigest()[:8], 16) % share == 0


def texts(folder: Path, excluded: frozenset[str] = frozenset()) -> list[sources.Row]:
    """Return the distinct training texts, in a fixed order. Raises `Contaminated`."""
    rows = list(sources.read(folder))
    random = Random(7)  # noqa: S311
    for row in list(rows):
        if row.labels.get("illicit") == 1 or (row.source in PROMPTS and row.labels.get("harmful") == 0):
            rows.extend(phrases.reworded(row, random, 3))
        if row.source in {"wiki", "c4", "bipia_clean_train"}:
            rows.extend(phrases.with_context(row, features.words(row.text), random))
    own = list(phrases.generate(Random(11)))  # noqa: S311
    made = frozenset(row.source for row in own) | {"own_context", "own_context_harmful", "own_scraps"}
    return without([*rows, *own], excluded, made)
