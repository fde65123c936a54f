"""Which labelled texts does the moderation model learn from, and what does a missing label mean for each source.

Reads the training folder only. `None` for a head means that nobody said, and the row is then not shown to that head.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

HEADS = ("hate", "sexual", "violence", "self_harm", "harassment", "illicit", "harmful", "attack")

_REQUESTS = {"catqa", "dangerousqa", "harmfulqa", "dna_information_hazard", "dna_malicious_uses"}
_EXAMPLES_OF_ORDINARY_PROMPTS = {"slabs", "neuralchemy"}  # their benign half: prompts of every kind that ask for nothing bad
_REPEAT_KEY_CHARS = 4000


@dataclass(frozen=True)
class Row:
    """One text, who says it, and what is known of it."""

    text: str
    role: str
    source: str
    labels: dict[str, int] = field(default_factory=dict)
    weight: float = 1.0
    family: str = ""  # rows of one are kept apart together; empty: a family of its own


def read(folder: Path) -> Iterator[Row]:
    """Yield the rows of every `*.jsonl.gz` in `folder`, in name order, with derived labels filled in."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        source = path.name.removesuffix(".jsonl.gz")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                yield Row(entry["text"], entry["role"], source, derive(source, entry["role"], dict(entry["labels"])))


def derive(source: str, role: str, given: dict[str, int]) -> dict[str, int]:
    """Return `given` with the heads that follow from it."""
    labels = dict(given)
    harms = [labels.get(head) for head in ("hate", "sexual", "violence", "self_harm")]
    if "harmful" not in labels:
        if any(harms) and source != "profanity_lex":
            labels["harmful"] = 1
        elif source in _EXAMPLES_OF_ORDINARY_PROMPTS and labels.get("attack") == 0:
            labels.update(dict.fromkeys(HEADS, 0))
        elif source in {"rtp_prompt", "rtp_continuation"} and harms[:3] == [0, 0, 0]:
            labels.update({"harmful": 0, "self_harm": 0})
    if labels.get("harmful") == 0:
        for head in ("hate", "sexual", "violence", "self_harm", "illicit", "harassment"):
            labels.setdefault(head, 0)
    if source in _REQUESTS:
        labels["illicit"] = 1
        # A request for help with a crime is not by itself sexual or suicidal text; the few that are carry the label.
        for head in ("hate", "sexual", "self_harm"):
            labels.setdefault(head, 0)
    if source == "gptfuzz_resp" and labels.get("harmful") == 1:
        labels["illicit"] = 1
    if source == "convabuse" and "hate" not in given:
        labels["harassment"] = 1
    if labels.get("hate") == 1 and source in {"davidson", "hatemoji", "toxigen"}:
        labels["harassment"] = 1
        labels.setdefault("sexual", 0)
        labels.setdefault("self_harm", 0)
    if role == "assistant" and source == "gptfuzz_resp":
        labels.pop("attack", None)
    return labels


def windows(row: Row, words: list[str], random: Random, most: int) -> list[list[str]]:
    """Return the pieces of a text that its labels still hold for: all of it, and random windows of it where it is harmless."""
    pieces = [words[:most]]
    if len(words) > 48 and not any(row.labels.values()):
        for _ in range(min(3, len(words) // 48)):
            size = random.choice((16, 32, 48))
            at = random.randrange(0, len(words) - size)
            pieces.append(words[at : at + size])
    return pieces
