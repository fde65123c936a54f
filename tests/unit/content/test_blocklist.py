"""Listed phrases, however they are spaced and cased, and exactly over any split of the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content.blocklist import MAX_WORD, Blocklist

LIST = Blocklist(["project bluebird prototype", "Quiet Harbour", "straße"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the Project   BLUEBIRD\nprototype!", ["Project   BLUEBIRD\nprototype"]),
        ("quiet-harbour, quiet.harbour", ["quiet-harbour", "quiet.harbour"]),
        ("STRASSE", ["STRASSE"]),
        ("ｑｕｉｅｔ harbour", ["ｑｕｉｅｔ harbour"]),
        ("project bluebird", []),
        ("quiet harbours", []),
        ("quietharbour", []),
        ("", []),
    ],
)
def test_phrases(text: str, found: list[str]) -> None:
    spans = LIST.scan(text)
    assert [text[s.start : s.end] for s in spans] == found
    assert all(s.type == "BLOCKLIST" for s in spans)


@pytest.mark.parametrize("phrase", ["", "...", " ".join(["x"] * 17)])
def test_a_phrase_without_words_or_with_too_many_is_refused(phrase: str) -> None:
    with pytest.raises(ValueError, match="1 to 16 words"):
        Blocklist([phrase])


TEXTS = st.lists(
    st.sampled_from(["project", "bluebird", "prototype", "quiet", "harbour", " ", "-", "x", "Stra", "ße", "ss"]), max_size=14
).map("".join)


@given(TEXTS, TEXTS)
def test_what_is_viable_is_kept_and_nothing_before_it_changes(first: str, second: str) -> None:
    cut = LIST.viable_from(first)
    assert 0 <= cut <= len(first)
    before = [s for s in LIST.scan(first) if s.end <= cut]
    assert [s for s in LIST.scan(first + second) if s.start < cut and s.end <= cut] == before
    inside = [s for s in LIST.scan(first) if s.start < cut < s.end]
    if not inside:
        rest = [(s.start - cut, s.end - cut) for s in LIST.scan(first + second) if s.start >= cut]
        assert rest == [(s.start, s.end) for s in LIST.scan((first + second)[cut:])]


def test_an_endless_word_is_not_held() -> None:
    assert LIST.viable_from("x" * (MAX_WORD + 1)) == MAX_WORD + 1
    assert LIST.viable_from("x" * 10) == 0


def test_context_before_start_is_not_reported() -> None:
    assert LIST.scan("quiet harbour", 3) == []
