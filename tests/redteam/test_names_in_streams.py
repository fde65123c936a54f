"""A name that a stream cuts: what the model finds in the whole text is not shown in pieces, wherever they end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from poured_streams import DONE, ending, event, in_pieces, pour, starter_rules

from gateway.content.rules import Action, DirectionRules
from gateway.content.stream import Findings, StreamGuard
from gateway.evidence import Span, StreamMode
from gateway.providers.local.ner import NerPool

pytestmark = pytest.mark.slow
TEXTS = [
    ("Yesterday I met John F. Kennedy at the station and we talked. ", "Kennedy"),
    ("Please call Dr. Margaret Thompson tomorrow about the results. ", "Thompson"),
    ("The letter was signed by J. R. R. Tolkien and sent at once. ", "Tolkien"),
    ("My neighbour Maria Gonzalez moved to Chicago last summer. ", "Gonzalez"),
    ("It was written for Mr. Peter Smith by his secretary. ", "Smith"),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[NerPool]:
    made = NerPool(1)
    made.wait_ready()
    yield made
    made.close()


@pytest.mark.parametrize("mode", [StreamMode.WINDOW, StreamMode.STRICT], ids=str)
@pytest.mark.parametrize(("text", "name"), TEXTS, ids=[name for _, name in TEXTS])
async def test_cut_at_every_offset(pool: NerPool, text: str, name: str, mode: StreamMode) -> None:
    rules = starter_rules("echo", ner=True)
    (spans,) = await pool.detect([text], time.monotonic() + 30)
    assert any(name in text[s.start : s.end] for s in spans), "the whole text shows what must be hidden"
    begin = text.index(name)
    for at in range(begin - 12, begin + len(name)):
        poured = await pour([event("content", text[:at]), event("content", text[at:]), ending(), DONE], mode=mode, rules=rules, ner=pool)
        assert poured.fault is None and poured.text() and name not in poured.text(), at
    letters = [event("content", piece) for piece in in_pieces(text, range(len(text)))]
    assert name not in (await pour([*letters, ending(), DONE], mode=mode, rules=rules, ner=pool)).text()


class Surnames:
    """Knows a name by its first part alone, and by both once the second is there."""

    name, version = "surnames", "1"

    async def detect(self, texts: Sequence[str], deadline_s: float) -> list[list[Span]]:
        return [self.find(text) for text in texts]

    def find(self, text: str) -> list[Span]:
        at = text.find("ann. lee")
        whole = [Span(at, at + 8, "PERSON", 0.9, "x")] if at >= 0 else []
        first = text.find("ann.")
        return whole or ([Span(first, first + 4, "PERSON", 0.9, "x")] if first >= 0 else [])


async def test_what_a_later_analysis_finds_to_go_on_is_replaced_from_there_on() -> None:
    text = "it was ann. lee who came in the end. "
    for at in range(1, len(text)):
        pieces: list[bytes] = [event("content", text[:at]), event("content", text[at:]), ending(), DONE]
        poured = await pour(pieces, rules=starter_rules("echo", ner=True), ner=Surnames())
        assert "lee" not in poured.text() and "ann" not in poured.text() and "who came" in poured.text(), at


@pytest.mark.parametrize(
    ("text", "named"), [("I met John F. ", False), ("I saw Dr. ", False), ("It was so. ", True), ("Is it? ", True), ("a line\n", True)]
)
def test_where_a_sentence_ends(text: str, named: bool) -> None:
    given: dict[str, Any] = {"entities": {}, "entity_default": Action.REDACT, "secrets": Action.REDACT, "block_at": {}, "record_at": {}}
    guard = StreamGuard(DirectionRules(**given, ner=True), [], None, None, Findings(), mode=StreamMode.WINDOW)
    guard.feed(text)
    assert (guard.ner_request() is not None) is named
