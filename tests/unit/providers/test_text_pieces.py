"""Cutting texts for a service: nothing is left out, nothing is too long, and what lies across a cut is whole in one piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.azure.text_pieces import groups, pieces, width

TEXT = st.text(alphabet=st.sampled_from("ab é😀\u4e2d"), max_size=400)


@given(text=TEXT, size=st.integers(20, 120), overlap=st.integers(0, 4))
def test_pieces_cover_the_text_and_fit(text: str, size: int, overlap: int) -> None:
    found = pieces(text, size, overlap)
    assert all(0 < width(piece) <= size for piece in found)
    at = 0
    for piece in found:
        assert text[max(0, at - overlap) :].startswith(piece)
        at = max(0, at - overlap) + len(piece)
    assert at == len(text)


@given(before=st.integers(0, 300), word=st.text(alphabet="xyz", min_size=1, max_size=9), after=st.integers(0, 300))
def test_a_word_no_longer_than_the_overlap_is_whole_in_a_piece(before: int, word: str, after: int) -> None:
    text = "a" * before + word + "b" * after
    assert any(word in piece for piece in pieces(text, 50, 10))


@given(length=st.integers(0, 600))
def test_the_last_piece_is_long_enough_where_the_text_is(length: int) -> None:
    found = pieces("a" * length, 100, 20, least=30)
    assert all(len(piece) >= min(30, length) for piece in found) and sum(map(len, found)) >= length


@given(st.lists(st.integers(0, 100), max_size=40))
def test_groups_hold_everything_in_order_within_both_bounds(widths: list[int]) -> None:
    found = groups(widths, 5, 100)
    assert [at for group in found for at in group] == list(range(len(widths)))
    assert all(len(g) <= 5 and sum(widths[at] for at in g) <= 100 for g in found)


def test_what_leaves_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        pieces("text", 10, 5)
