"""Which sentences do we write ourselves, so that a topic's words alone do not decide: harmful texts and their harmless twins.

Each file in `phrases/` is a list of patterns: `{a|b}` offers a choice, `{act}` takes a verb phrase. The same ways of asking are
laid over harmful and over ordinary acts. Everything was written for this project (Apache-2.0, like the code).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from gateway.training.moderation_rows import HEADS, Row

_CHOICE = re.compile(r"\{([^{}]*)\}")
_LEAD = re.compile(
    r"^(?:how (?:can|do|could|would|might|should) (?:i|one|we|someone|you|people|a person)|how to|what are (?:some )?ways to|ways to)\s+",
    re.IGNORECASE,
)
_SAFE = dict.fromkeys(HEADS, 0)
# file -> labels of its lines, rows to draw
_FILES: dict[str, tuple[dict[str, int], int]] = {
    "self_harm": ({"self_harm": 1, "harmful": 1, "hate": 0, "sexual": 0, "attack": 0}, 2200),
    "violence": ({"violence": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "attack": 0}, 2000),
    "sexual": ({"sexual": 1, "harmful": 1, "hate": 0, "violence": 0, "self_harm": 0, "attack": 0}, 1500),
    "harassment": ({"harassment": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "illicit": 0, "attack": 0}, 700),
    "injections": ({"attack": 1}, 2500),
    "self_harm_safe": (_SAFE, 800),
    "violence_safe": (_SAFE, 1200),
    "sexual_safe": (_SAFE, 800),
    "harassment_safe": (_SAFE, 300),
    "hate_safe": (_SAFE, 1200),
    "injections_safe": (_SAFE, 1200),
    "documents_safe": (_SAFE, 900),
    "small_talk": (_SAFE, 2500),
    "requests_harmful": ({"illicit": 1, "harmful": 1, "attack": 0}, 9000),
    "requests_sexual": ({"sexual": 1, "harmful": 1, "attack": 0}, 500),
    "requests_hateful": ({"hate": 1, "harassment": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "attack": 0}, 1500),
    "requests_safe": (_SAFE, 9000),
    "attack_words_safe": (_SAFE, 7000),
    "languages_safe": (_SAFE, 4000),
    "technique_safe": (_SAFE, 5000),
    "attacks_more": ({"attack": 1}, 5000),
    "trigger_requests_safe": (_SAFE, 4200),
    "trigger_statements_safe": (_SAFE, 3600),
    "attack_direct": ({"attack": 1}, 3000),
    "attack_indirect": ({"attack": 1}, 1500),
    "everyday_prompts_safe": (_SAFE, 3000),
    "everyday_answers_safe": (_SAFE, 1200),
    "figures_of_speech_safe": (_SAFE, 3600),
    "literal_violence": ({"violence": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "attack": 0}, 1900),
    "literal_self_harm": ({"self_harm": 1, "harmful": 1, "hate": 0, "sexual": 0, "attack": 0}, 1500),
    "requests_harmful_more": ({"illicit": 1, "harmful": 1, "attack": 0}, 3300),
    "requests_twins_safe": (_SAFE, 3300),
    "violence_prose": ({"violence": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "attack": 0}, 2200),
    "violence_prose_safe": (_SAFE, 2200),
    "hate_prose_more": ({"hate": 1, "harassment": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "illicit": 0, "attack": 0}, 900),
    "hate_prose_safe": (_SAFE, 1000),
    "sexual_prose": ({"sexual": 1, "harmful": 1, "hate": 0, "violence": 0, "self_harm": 0, "illicit": 0, "attack": 0}, 600),
    "sexual_prose_safe": (_SAFE, 700),
    "posts_near_self_harm_safe": (_SAFE, 1600),
    "posts_self_harm": ({"self_harm": 1, "harmful": 1, "hate": 0, "sexual": 0, "harassment": 0, "illicit": 0, "attack": 0}, 1300),
    "comments_heated_safe": (_SAFE, 1600),
    "comments_hate": ({"hate": 1, "harassment": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "illicit": 0, "attack": 0}, 1400),
    "comments_harassment": ({"harassment": 1, "harmful": 1, "hate": 0, "sexual": 0, "self_harm": 0, "illicit": 0, "attack": 0}, 600),
    "posts_near_violence_safe": (_SAFE, 1300),
    "posts_violence": ({"violence": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "attack": 0}, 1200),
    "stories_sexual": ({"sexual": 1, "harmful": 1, "hate": 0, "violence": 0, "self_harm": 0, "illicit": 0, "attack": 0}, 700),
    "stories_romance_safe": (_SAFE, 500),
    "posts_everyday_safe": (_SAFE, 2000),
    "workplace_orders_safe": (_SAFE, 1900),
    "explain_your_answer_safe": (_SAFE, 800),
    "about_the_answer_safe": (_SAFE, 2200),
    "passage_questions_safe": (_SAFE, 1100),
    "formal_sentences_safe": (_SAFE, 2000),
}
MANY = 80  # patterns of a file from which on whole patterns are kept apart: its rows say what was learned beyond their wording
_LONG = 2500
# Passages of prose: ordinary sentences, and one to three of a kind among them. File -> labels.
_PASSAGES: dict[str, dict[str, int]] = {
    "violence_scenes": {"violence": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "illicit": 0, "attack": 0},
    "self_harm_posts": {"self_harm": 1, "harmful": 1, "hate": 0, "sexual": 0, "harassment": 0, "illicit": 0, "attack": 0},
    "hate_prose": {"hate": 1, "harassment": 1, "harmful": 1, "sexual": 0, "self_harm": 0, "illicit": 0, "attack": 0},
}
_EACH_PASSAGE = 1800  # and twice as many of ordinary sentences alone
_ACTS = 14000  # harmful, and as many ordinary


def lines(name: str) -> list[str]:
    """Return the patterns of one phrase file, comments left out."""
    text = (Path(__file__).parent / "phrases" / f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def expand(pattern: str, random: Random) -> str:
    """Return one sentence of a pattern."""
    return re.sub(r"\s+", " ", _CHOICE.sub(lambda found: random.choice(found.group(1).split("|")), pattern)).strip()


def generate(random: Random) -> Iterator[Row]:
    """Yield all self-written rows. The same seed gives the same rows."""
    for name, (labels, count) in _FILES.items():
        patterns = lines(name)
        for turn in range(count):
            pattern = patterns[turn % len(patterns)]
            yield Row(expand(pattern, random), "user", "own_" + name, dict(labels), family=pattern if len(patterns) >= MANY else "")
    yield from long_prompts(random, _LONG)
    yield from passages(random, _EACH_PASSAGE)
    asks = lines("asks")
    for name, labels in (
        ("harmful_acts", {"illicit": 1, "harmful": 1, "attack": 0}),
        ("benign_acts", _SAFE),
    ):
        patterns = lines(name)
        for turn in range(_ACTS):
            act = expand(patterns[turn % len(patterns)], random)
            yield Row(random.choice(asks).replace("{act}", act), "user", "own_" + name, dict(labels))


def long_prompts(random: Random, count: int) -> Iterator[Row]:
    """Yield long prompts of harmless sentences, and as many with a harmful request somewhere among them."""
    parts, harmful, ordinary, asks = lines("long_parts"), lines("harmful_acts"), lines("benign_acts"), lines("asks")
    for turn in range(2 * count):
        sentences = [expand(random.choice(parts), random) for _ in range(random.randrange(2, 16))]
        bad = turn % 2 == 1
        kept = sentences[: random.randrange(1, 6)] if bad else sentences
        act = expand(random.choice(harmful if bad else ordinary), random)
        kept.insert(random.randrange(len(kept) + 1), random.choice(asks).replace("{act}", act))
        yield Row(" ".join(kept), "user", "own_long", {"illicit": 1, "harmful": 1, "attack": 0} if bad else dict(_SAFE))


def passages(random: Random, count: int) -> Iterator[Row]:
    """Yield prose of one to twelve sentences: ordinary throughout, or with sentences of one kind of harm among them."""
    ordinary = lines("passage_parts")
    for name, labels in _PASSAGES.items():
        bad = lines(name)
        for _ in range(count):
            sentences = [expand(random.choice(ordinary), random) for _ in range(random.choice((0, 0, 1, 2, 4, 8)))]
            for _ in range(random.choice((1, 1, 2, 3))):
                sentences.insert(random.randrange(len(sentences) + 1), expand(random.choice(bad), random))
            yield Row(" ".join(sentences), "user", "own_" + name, dict(labels))
    for _ in range(2 * count):
        sentences = [expand(random.choice(ordinary), random) for _ in range(random.randrange(1, 10))]
        yield Row(" ".join(sentences), "user", "own_passages_safe", dict(_SAFE))


def reworded(row: Row, random: Random, times: int) -> Iterator[Row]:
    """Yield `row`'s request asked in other ways, where it begins as a plain how-to question."""
    lead = _LEAD.match(row.text)
    if lead is None or len(row.text) > 300:
        return
    act = row.text[lead.end() :].rstrip("?. ").lower()
    for _ in range(times):
        yield Row(random.choice(_ASKS).replace("{act}", act), row.role, row.source + "+asks", dict(row.labels))


def with_context(row: Row, words: list[str], random: Random) -> Iterator[Row]:
    """Yield questions about pieces of a harmless document, and scraps of it: what ordinary requests carry, and how texts begin."""
    questions, asks, acts = lines("context_asks"), lines("asks"), lines("harmful_acts")
    at = random.randrange(0, max(1, len(words) - 30))
    ask = random.choice(asks).replace("{act}", expand(random.choice(acts), random))
    parts = [" ".join(words[at : at + random.choice((20, 40, 60))]), ask]
    random.shuffle(parts)
    yield Row(" ".join(parts), "user", "own_context_harmful", {"illicit": 1, "harmful": 1, "attack": 0})
    for _ in range(2):
        at = random.randrange(0, max(1, len(words) - 30))
        passage = " ".join(words[at : at + random.choice((30, 80, 150))])
        yield Row(random.choice(questions) + " " + passage, "user", "own_context", dict(_SAFE))
    for size in (1, 1, 2, 3, 5):
        at = random.randrange(0, max(1, len(words) - size))
        yield Row(" ".join(words[at : at + size]), "user", "own_scraps", dict(_SAFE))


_ASKS = tuple(lines("asks"))
