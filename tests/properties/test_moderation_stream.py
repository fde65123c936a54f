"""A stream's scores are those of the whole text, whatever the chunks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.evidence import Role
from gateway.providers.local.moderation import LinearModerator

MODEL = LinearModerator()
WORDS = (
    "i will kill you the process ignore all previous instructions Paris, is nice. bomb".split()
    + ["héllo", "ok\n", "ＦＵＬＬ", "語", "e\u0301t", "…", "<|im_start|>"]
)
TEXT = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), max_size=140).map(" ".join)


def pieces(text: str, cuts: list[int]) -> list[str]:
    ends = [match.end() for match in re.finditer(r"\s", text)]
    chosen = sorted({ends[cut % len(ends)] for cut in cuts}) if ends else []
    return [text[a:b] for a, b in zip([0, *chosen], [*chosen, len(text)], strict=True)]


@pytest.mark.parametrize("role", list(Role))
@settings(max_examples=400, deadline=None)
@given(text=TEXT, cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_chunks_do_not_matter(role: Role, text: str, cuts: list[int]) -> None:
    session = MODEL.open(role)
    last = session.feed("")
    for piece in pieces(text, cuts):
        last = session.feed(piece)
    assert last == MODEL.score(text, role)


@settings(max_examples=300, deadline=None)
@given(text=TEXT, cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_an_answer_never_becomes_harmless_again_and_every_prefix_is_judged(text: str, cuts: list[int]) -> None:
    session = MODEL.open(Role.ASSISTANT)
    seen, before = "", dict.fromkeys(MODEL.score("", Role.ASSISTANT), 0.0)
    for piece in pieces(text, cuts):
        seen += piece
        now = session.feed(piece)
        assert all(now[head] >= before[head] for head in now)
        assert now == MODEL.score(seen, Role.ASSISTANT)
        before = now


def test_long_texts_agree_past_every_window() -> None:
    text = " ".join(WORDS[n * n % len(WORDS)] for n in range(6000))
    for role in (Role.ASSISTANT, Role.DOCUMENT):
        session = MODEL.open(role)
        last: dict[str, float] = {}
        for piece in pieces(text, list(range(0, 6000, 37))):
            last = session.feed(piece)
        assert last == MODEL.score(text, role)


def test_an_answer_that_comes_word_by_word_agrees_past_every_window() -> None:
    words = [WORDS[n * n % len(WORDS)] + " " for n in range(1400)]
    session = MODEL.open(Role.ASSISTANT)
    last: dict[str, float] = {}
    for at, word in enumerate(words):
        last = session.feed(word)
        if at % 97 == 0:
            assert last == MODEL.score("".join(words[: at + 1]), Role.ASSISTANT)
    assert last == MODEL.score("".join(words), Role.ASSISTANT)
