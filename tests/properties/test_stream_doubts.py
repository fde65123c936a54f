"""A second opinion on streams: what is asked and decided depends on the text alone, and nothing in doubt leaves before its answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_detectors import ToyEmails

from gateway.content.rules import Action, DirectionRules
from gateway.content.second_opinion import Blend
from gateway.content.stream import Blocked, Findings, Readings, StreamGuard
from gateway.content.stretches import ASKED, CONTEXT, LEAST, MANY, MOST, READ, end_of
from gateway.evidence import StreamMode
from gateway.ports import InspectorUnavailable

HEADS = ("violence", "harassment")
SCORES = {"murky": ("violence", 0.4), "grim": ("violence", 0.97), "rude": ("harassment", 0.97), "curt": ("harassment", 0.6)}
NONE = dict.fromkeys(HEADS, 0.0)
BLEND = Blend(
    weight=dict.fromkeys(HEADS, 0.5),
    shift={"prompt": NONE, "answer": NONE, "document": NONE},
    slope=dict.fromkeys(HEADS, 1.0),
    low={"violence": 0.3},
)
RULES = DirectionRules(
    entities={"EMAIL_ADDRESS": Action.REDACT},
    entity_default=Action.ALLOW,
    secrets=Action.REDACT,
    block_at={"violence": 0.8, "harassment": 0.9},
    record_at={},
    second_opinion=True,
)
WORDS = st.sampled_from(
    ["murky", "grim", "rude", "curt", "vile", "unread", "joe@ex.org"] + ["plain"] * 6 + ["river", "stone"] * 3 + ["x" * 400]
)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" "] * 8 + [". ", "! ", "\n", ", "])), max_size=120).map(
    lambda ws: "".join(a + b for a, b in ws)
)


class Session:
    """Scores single words, as maxima."""

    def __init__(self) -> None:
        self._scores: dict[str, float] = {}

    def feed(self, words: str) -> dict[str, float]:
        if not self._scores and words.split():
            self._scores = dict.fromkeys(HEADS, 0.02)
        for word in words.lower().replace(".", " ").replace("!", " ").replace(",", " ").split():
            head, score = SCORES.get(word, ("violence", 0.0))
            if score > self._scores[head]:
                self._scores = {**self._scores, head: score}
        return self._scores


def said(text: str) -> tuple[dict[str, float], bool]:
    if "unread" in text:
        return {}, False
    return {"violence": 0.99 if "vile" in text else 0.9 if "sour" in text else 0.01, "harassment": 0.2}, True


class Driven:
    """A guard with its slower model, which answers after `lag` deltas, and all that was asked."""

    def __init__(self, *, rules: DirectionRules = RULES, lag: int = 0, unseen: bool = False, readings: bool = False) -> None:
        self.findings = Findings()
        self.guard = StreamGuard(rules, [ToyEmails()], Session, None, self.findings, mode=StreamMode.WINDOW, blend=BLEND,
            unseen=unseen, readings=READINGS if readings else None,
        )
        self.asked: list[str] = []
        self.out: list[str] = []
        self.blocked: tuple[str, ...] = ()
        self._lag = lag
        self._late: list[list[str]] = []

    def _ask(self, *, final: bool = False) -> None:
        wanted = self.guard.opinion_request(final=final)
        if wanted:
            self.asked += wanted
            self._late.append(wanted)
        while self._late and (final or len(self._late) > self._lag):
            self._take(self.guard.opinion_result([said(text) for text in self._late.pop(0)], final=final))

    def _take(self, pieces: list[Any]) -> None:
        self.out += [piece.text for piece in pieces]

    def run(self, text: str, cuts: list[int]) -> Driven:
        edges = [0, *sorted({min(c, len(text)) for c in cuts}), len(text)]
        try:
            for begin, end in zip(edges, edges[1:], strict=False):
                self._take(self.guard.feed(text[begin:end]))
                self._ask()
            self._ask(final=True)
            self._take(self.guard.finish())
        except Blocked as blocked:
            self.blocked = blocked.flagged
        return self

    @property
    def text(self) -> str:
        return "".join(self.out)


@settings(max_examples=1500, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 2500), max_size=60), st.integers(0, 3))
def test_any_chunking_asks_and_decides_the_same(text: str, cuts: list[int], lag: int) -> None:
    whole = Driven().run(text, [])
    cut = Driven(lag=lag).run(text, cuts)
    assert bool(cut.blocked) == bool(whole.blocked)
    if not whole.blocked:
        assert cut.text == whole.text
        assert cut.asked == whole.asked
        assert cut.findings.scores == whole.findings.scores


@settings(max_examples=800, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 2500), max_size=60))
def test_nothing_of_a_condemned_stretch_leaves_from_its_doubtful_word_on(text: str, cuts: list[int]) -> None:
    text = text.replace("unread", "plain") + " murky waters and a vile deed. " + "plain words follow. " * 30
    driven = Driven().run(text, cuts)
    assert driven.blocked
    assert "vile" not in driven.text.partition("murky")[2]


def test_a_condemned_phrase_split_at_every_offset_is_never_delivered() -> None:
    text = "Plain talk about a river that runs past a stone, and more of it. Then a murky turn of things and a vile deed. The end comes."
    for at in range(len(text)):
        driven = Driven().run(text, [at])
        assert driven.blocked == ("violence",), at
        assert "murky" not in driven.text, at


def test_what_the_first_model_would_block_leaves_when_the_second_clears_it() -> None:
    text = "A grim face looked out. " * 20
    driven = Driven().run(text, list(range(0, 500, 7)))
    assert not driven.blocked and driven.text == text
    assert driven.findings.scores["violence"] < 0.8


def test_text_without_doubt_is_never_asked_about_and_leaves_word_by_word() -> None:
    driven = Driven().run("plain river stone. " * 30, list(range(0, 600, 5)))
    assert driven.asked == [] and len(driven.out) > 60


def test_what_is_near_what_blocks_holds_its_own_stretch_and_no_more() -> None:
    text = "a curt answer it was and nobody minded that at all, said the river to the stone. " + "plain river stone. " * 200
    driven = Driven().run(text, list(range(0, len(text), 5)))
    assert driven.text == text and driven.asked == []
    assert len(driven.out) > 500, "what follows comes word by word again"
    rude = Driven().run(text + "a rude word and so on. plain words.", list(range(0, 5_000, 5)))
    assert rude.blocked == ("harassment",) and "rude" not in rude.text


def test_a_head_the_second_model_is_not_asked_about_blocks_by_the_first_alone() -> None:
    text = "plain " * 30 + "a rude word and so on. plain words."
    driven = Driven().run(text, list(range(len(text))))
    assert driven.blocked == ("harassment",) and "rude" not in driven.text and driven.asked == []


def test_a_stretch_that_could_not_be_read_is_not_cleared_by_an_earlier_one() -> None:
    first = "a murky day it was and nobody minded that at all, said the river to the stone now. "
    assert not Driven().run(first * 2, []).blocked
    text = first * 2 + "river " * 80 + "grim unread things were said in a tongue of stones, and so on it went for long. "
    assert Driven().run(text, []).blocked == ("violence",)


def test_an_opinion_on_one_passage_says_nothing_of_another() -> None:
    sour = "a murky and sour day it was and nobody minded that at all, said the river to the stone. "
    grim = "river " * 80 + "a grim face looked out at them, and so on it went for a while, plain as stones are. "
    assert not Driven().run(sour, []).blocked and not Driven().run(grim, []).blocked
    assert not Driven().run(sour + grim, []).blocked


def test_doubt_ends_with_what_gave_rise_to_it() -> None:
    text = "a murky day it was and nobody minded that at all, said the river to the stone. " + "plain river stone. " * 200
    driven = Driven().run(text, list(range(0, len(text), 5)))
    assert driven.text == text and 1 <= len(driven.asked) <= 4
    assert len(driven.out) > 500, "what follows comes word by word again"


def test_a_long_text_full_of_doubt_is_asked_about_so_often_and_no_more() -> None:
    text = "the murky river ran on past a murky stone and under a murky bridge, as it always had done. " * 1200
    driven = Driven().run(text, list(range(0, len(text), 4000)))
    assert driven.text == text and len(driven.asked) == ASKED
    grim = Driven().run(text + "a grim face. " * 20, list(range(0, len(text), 4000)))
    assert grim.blocked == ("violence",) and "grim" not in grim.text, "then the first model decides alone"


def test_a_giant_word_is_read_from_its_beginning() -> None:
    word = "murky," + "vile," + "river," * 400
    for cuts in ([], [100], list(range(0, 2000, 50))):
        driven = Driven().run("plain words. " + word + " and more plain words. ", cuts)
        assert driven.blocked and "vile" not in driven.text


def hidden(text: str) -> list[str]:
    """Another reading of words spelled backwards after a star."""
    words = [word[:0:-1] if word.startswith("*") else word for word in text.split(" ")]
    return list(dict.fromkeys([text, " ".join(words)]))


READINGS = Readings(hidden, lambda _: frozenset(), lambda _: "en", lambda text: Session().feed(text))


@settings(max_examples=500, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 2500), max_size=60), st.integers(0, 2))
def test_other_readings_are_asked_about_and_decided_alike_however_cut(text: str, cuts: list[int], lag: int) -> None:
    text = text.replace("murky", "*ykrum").replace("grim", "*mirg")
    whole, cut = Driven(readings=True).run(text, []), Driven(readings=True, lag=lag).run(text, cuts)
    assert bool(cut.blocked) == bool(whole.blocked)
    if not whole.blocked:
        assert (cut.text, cut.asked) == (whole.text, whole.asked)


def test_a_hidden_word_waits_for_its_verdict_and_may_be_cleared() -> None:
    text = "plain words come first. then a *mirg thing was said here and went on for a while among the stones. " + "plain river. " * 20
    cleared = Driven(readings=True).run(text, list(range(len(text))))
    assert not cleared.blocked and cleared.text == text and any("grim" in one for one in cleared.asked)
    condemned = Driven(readings=True).run(text.replace("thing", "*eliv"), list(range(len(text))))
    assert condemned.blocked and "*mirg" not in condemned.text


def test_a_text_of_unknown_words_is_asked_about() -> None:
    class Mute(Session):
        def feed(self, words: str) -> dict[str, float]:
            return {}

    guard = StreamGuard(RULES, [], Mute, None, Findings(), mode=StreamMode.WINDOW, blend=BLEND)
    assert guard.feed("zzz vile zzz ") == []
    with pytest.raises(Blocked):
        guard.opinion_result([said(text) for text in guard.opinion_request(final=True)], final=True)


def test_the_end_of_a_text_without_an_answer_never_leaves() -> None:
    guard = StreamGuard(RULES, [], Session, None, Findings(), mode=StreamMode.WINDOW, blend=BLEND)
    assert guard.feed("a murky river ") == []
    with pytest.raises(InspectorUnavailable):
        guard.finish()
    assert guard.held == 0


def test_one_large_delta_asks_about_each_of_its_stretches_at_once() -> None:
    guard = StreamGuard(RULES, [], Session, None, Findings(), mode=StreamMode.WINDOW, blend=BLEND)
    text = "A murky river ran past the old stone bridge, where nobody had fished for many years now. " * 60
    assert guard.feed(text) == []
    wanted = guard.opinion_request()
    assert len(wanted) == MANY + (60 - MANY) // 3 and all(len(one) <= max(READ, CONTEXT + MOST) for one in wanted)
    assert guard.opinion_request() == []
    released = guard.opinion_result([({"violence": 0.01, "harassment": 0.01}, True)] * len(wanted))
    last = guard.opinion_request(final=True)
    released += guard.opinion_result([({"violence": 0.01, "harassment": 0.01}, True)] * len(last), final=True) + guard.finish()
    assert sum(piece.length for piece in released) == len(text)


@given(TEXTS, st.integers(1, 2500))
def test_where_a_stretch_ends_is_known_once_and_for_all(text: str, upto: int) -> None:
    upto = min(upto, len(text))
    early, late = end_of(text, 0, upto), end_of(text, 0, len(text))
    assert early in (-1, late)
    if late > MOST:
        assert not any(letter.isspace() for letter in text[: late - 1])
    elif late >= 0:
        assert text[late - 1].isspace() and (late >= LEAST or any(len(word) > MOST - LEAST for word in text.split()))
