"""A customer's own entities: found as whole words, exact over streams, beside the listed phrases."""

from __future__ import annotations

import random
import time

import pytest

from gateway.content.blocklist import Blocklist
from gateway.content.custom import CustomPattern, Together
from gateway.content.rules import Action, DirectionRules
from gateway.evidence import Span


def pattern(text: str, longest: int, **options: bool) -> CustomPattern:
    return CustomPattern("own", "OWN", text, longest, **options)


@pytest.mark.parametrize(
    ("detector", "text", "found"),
    [
        (pattern("EMP-[0-9]{6}", 10), "see EMP-123456, EMP-1234567 and XEMP-123456", ["EMP-123456"]),
        (pattern("emp-[0-9]{6}", 10, ignore_case=True), "Emp-123456", ["Emp-123456"]),
        (pattern("[0-9]{3}", 3, whole_words=False), "1234567", ["123", "456"]),
        (pattern("[a-z]{2,4}", 4), "abcde fgh", ["fgh"]),
        (pattern("#[0-9]{2}", 3), "x#12 #345", ["#12"]),
        (pattern("ab cd|cd ef", 5, blanks=True), "xab cd ef", ["cd ef"]),
        (pattern("\u00fcb[0-9]", 3), "\U0001f600 \u00fcb1", ["\u00fcb1"]),
    ],
)
def test_whole_words(detector: CustomPattern, text: str, found: list[str]) -> None:
    assert [text[span.start : span.end] for span in detector.scan(text)] == found


DETECTORS = [
    pattern("EMP-[0-9]{2,6}", 10, blanks=False),
    pattern("ab? ?c{1,3}", 6),
    Together([pattern("[0-9]{2} [0-9]{2}", 5), Blocklist(["a b", "b ab"]), Blocklist(["ab 12"], kind="SITE")], "1"),
]


@pytest.mark.parametrize("detector", DETECTORS)
def test_any_chunking_gives_the_spans_of_the_whole(detector: CustomPattern | Together) -> None:
    choice = random.Random(5)
    pieces = ["a", "b", "ab", "c", "cc", " ", " ", "12", "3", "EMP-", "EMP-12", "-", "\u00e9", ". "]
    for _ in range(3_000):
        text = "".join(choice.choice(pieces) for _ in range(choice.randint(1, 24)))
        spans: list[Span] = []
        start = 0
        for cut in sorted(choice.randrange(len(text) + 1) for _ in range(choice.randint(0, 6))):
            held = text[:cut]
            upto = max(start, detector.viable_from(held, start))
            found = detector.scan(held, start)
            moved = True
            while moved:
                inside = [span.start for span in found if span.start < upto < span.end]
                moved, upto = bool(inside), min([upto, *inside])
            spans += [span for span in found if span.start < upto]
            start = max(start, upto)
        spans += detector.scan(text, start)
        assert sorted(spans) == detector.scan(text), text


def test_hostile_text_costs_linear_time() -> None:
    detector = pattern("(?:[a-z]{1,8}[0-9]{1,8}){1,4}", 64)
    text = "a1" * 50_000
    since = time.process_time()
    assert detector.scan(text) == []
    assert time.process_time() - since < 5


def test_ordinary_words_are_not_held_up() -> None:
    detector = pattern("EMP-[0-9]{6}", 10, blanks=False)
    assert detector.viable_from("all is well ") == 12
    assert detector.viable_from("all is well EMP-1") == 12


def test_allowed_values_pass_but_never_secrets_or_listed_phrases() -> None:
    rules = DirectionRules(
        entities={}, entity_default=Action.REDACT, secrets=Action.REDACT, block_at={}, record_at={}, allowed=frozenset({"help@example.com"})
    )
    text = "mail Help@example.com"
    assert rules.passes(Span(5, 21, "EMAIL_ADDRESS"), text)
    assert not rules.passes(Span(5, 20, "EMAIL_ADDRESS"), text)
    assert not rules.passes(Span(5, 21, "SECRET"), text)
    assert not rules.passes(Span(5, 21, "BLOCKLIST"), text)
