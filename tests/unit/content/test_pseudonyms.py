"""Pseudonyms: one a value, restored only where a value may stand, and never one the client made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from restoring import restored

from gateway.content.pseudonyms import MAX_PLACEHOLDER, Pseudonyms, escape_lookalikes, partial_placeholder, placeholder_ranges

VALUE = "anna@example.com"


def minted(restorable: bool = True) -> tuple[Pseudonyms, str]:
    pseudonyms = Pseudonyms("k7f3")
    return pseudonyms, pseudonyms.token("EMAIL_ADDRESS", VALUE, restorable=restorable)


def test_equal_values_of_a_type_share_a_token() -> None:
    pseudonyms, token = minted()
    assert token == "<EMAIL_ADDRESS_k7f3_1>"
    assert pseudonyms.token("EMAIL_ADDRESS", VALUE, restorable=False) == token
    assert pseudonyms.token("PERSON", VALUE, restorable=True) == "<PERSON_k7f3_2>"


def test_a_value_from_elsewhere_is_not_restored() -> None:
    pseudonyms, token = minted(restorable=False)
    assert pseudonyms.empty and restored(pseudonyms, token) == token
    pseudonyms.token("EMAIL_ADDRESS", VALUE, restorable=True)
    assert restored(pseudonyms, token) == VALUE


@pytest.mark.parametrize("text", ["Write to {}.", "{}", "a < b and {}", "x\n{}\ny", "({})", "see https://x.example/ {}"])
def test_restored(text: str) -> None:
    pseudonyms, token = minted()
    assert restored(pseudonyms, text.format(token)) == text.format(VALUE)


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.example/?q={}", "//evil.example/{}", "www.evil.example/{}",
        "mailto:{}", "[x](https://e.example/{})", "[x]({})", "![x]( {})",
        '<img src="{}">', "<a href={}", "javascript:alert({})", "data:text/plain,{}", "{}.evil.example", "{}@evil.example", "{}/x", "HTTPS://E.EXAMPLE/{}",
    ],
)  # fmt: skip
def test_not_restored_where_it_could_be_carried_away(text: str) -> None:
    pseudonyms, token = minted()
    assert restored(pseudonyms, text.format(token)) == text.format(token)


@pytest.mark.parametrize("token", ["<EMAIL_ADDRESS_aaaa_1>", "<EMAIL_ADDRESS_k7f3_2>", "<EMAIL_ADDRESS>", "<PERSON_k7f3_1>"])
def test_a_token_we_did_not_mint_means_nothing(token: str) -> None:
    pseudonyms, _ = minted()
    assert restored(pseudonyms, f"to {token} now") == f"to {token} now"


@pytest.mark.parametrize("text", ["<EMAIL_ADDRESS_k7f3_1>", "a <SECRET_0000_99999> b", "<<PERSON_aaaa_1>>"])
def test_lookalikes_are_made_inert(text: str) -> None:
    escaped = escape_lookalikes(text)
    assert "&lt;" in escaped and not [r for r in placeholder_ranges(escaped) if "_1" in escaped[slice(*r)] or "_9" in escaped[slice(*r)]]


@given(st.text())
def test_escaping_twice_is_escaping_once(text: str) -> None:
    assert escape_lookalikes(escape_lookalikes(text)) == escape_lookalikes(text)


@given(st.text(alphabet="<>_AB1k &;", max_size=40))
def test_no_lookalike_survives(text: str) -> None:
    pseudonyms = Pseudonyms("k111")
    token = pseudonyms.token("AB", "the value", restorable=True)
    assert "the value" not in restored(pseudonyms, escape_lookalikes(text + token))


@pytest.mark.parametrize("cut", range(1, 22))
def test_an_unfinished_placeholder_is_seen_at_every_cut(cut: int) -> None:
    token = "<EMAIL_ADDRESS_k7f3_1>"
    assert partial_placeholder("mail " + token[:cut]) == 5


def test_what_cannot_become_a_placeholder_is_not_held() -> None:
    assert partial_placeholder("a <b") == 4
    assert partial_placeholder("<" + "A" * MAX_PLACEHOLDER) == MAX_PLACEHOLDER + 1
    assert partial_placeholder("<PERSON>") == 8
