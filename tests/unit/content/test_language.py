"""Which language a text is in, passage by passage, and that a foreign part is not hidden behind a known one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content.language import COVERED, PASSAGE, language, passages, short_language

ENGLISH = "The committee met on Tuesday and agreed that the bridge should be repaired before the winter, whatever it costs. "
GERMAN = "Der Ausschuss hat sich am Dienstag getroffen und beschlossen, dass die Br\u00fccke noch vor dem Winter repariert wird. "
POLISH = (
    "Komisja spotka\u0142a si\u0119 we wtorek i nie jest pewne, czy most b\u0119dzie naprawiony przed zim\u0105, "
    "ale to jest ju\u017c tylko kwestia czasu. "
)
RUSSIAN = "\u041a\u043e\u043c\u0438\u0441\u0441\u0438\u044f \u0441\u043e\u0431\u0440\u0430\u043b\u0430\u0441\u044c. " * 4
NOUNS = "D\u00e1nae Rodr\u00edguez, n\u00f3dulo, t\u00f3rax, h\u00edgado, p\u00e1ncreas, ri\u00f1\u00f3n, coraz\u00f3n, pulm\u00f3n. "


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("La commission s'est r\u00e9unie mardi et nous avons d\u00e9cid\u00e9 que le pont sera r\u00e9par\u00e9 avec les autres.", "fr"),
        ("La comisi\u00f3n se reuni\u00f3 el martes y decidi\u00f3 que el puente se repare antes del invierno con los otros.", "es"),
        (
            "La commissione si \u00e8 riunita marted\u00ec e ha deciso che il ponte non sar\u00e0 riparato prima della fine dell'inverno.",
            "it",
        ),
        ("De commissie heeft dinsdag vergaderd en het is nu zeker dat de brug voor de winter wordt gerepareerd.", "nl"),
        (
            "A comiss\u00e3o reuniu-se na ter\u00e7a e n\u00e3o h\u00e1 d\u00favida de que a ponte ser\u00e1 reparada em abril.",
            "pt",
        ),
        (POLISH, "other:latin"),
        (RUSSIAN, "other:cyrillic"),
        ("Ann Lee, Paris", "und"),
        ("", "und"),
    ],
)
def test_one_language(text: str, code: str) -> None:
    assert language(text) == code


@pytest.mark.parametrize("foreign", [POLISH * 6, RUSSIAN * 8])
@pytest.mark.parametrize("before", [10, 40])
def test_a_foreign_part_is_not_hidden_behind_a_known_beginning(foreign: str, before: int) -> None:
    assert language(ENGLISH * before + foreign).startswith("other:")
    assert language(ENGLISH * before) == "en"


def test_lists_of_nouns_inside_a_known_text_are_not_foreign() -> None:
    spanish = "La comisi\u00f3n se reuni\u00f3 el martes y decidi\u00f3 que el puente se repare antes del invierno con los otros. "
    text = spanish * 12 + NOUNS * 12 + spanish * 4
    assert language(text) == "es"
    assert {code for *_, code in passages(text)} == {"es"}


def test_passages_name_each_part() -> None:
    text = ENGLISH * 6 + "\n" + GERMAN * 6 + "\n" + POLISH * 6
    found = passages(text)
    assert [code for *_, code in found] == ["en", "de", "other:latin"]
    for begin, end, code in found:
        assert language(text[begin:end]) == code


@given(st.text(alphabet="the der und ist a. \n\u0142\u0436", max_size=3 * PASSAGE))
def test_passages_are_the_whole_text(text: str) -> None:
    found = passages(text)
    assert "".join(text[begin:end] for begin, end, _ in found) == text
    assert all(first[2] != second[2] for first, second in zip(found, found[1:], strict=False))


def test_a_long_text_costs_little() -> None:
    text = (ENGLISH + GERMAN) * 3_000
    since = time.process_time()
    assert language(text) in COVERED
    assert time.process_time() - since < 0.02


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\u7206\u5f3e\u306e\u4f5c\u308a\u65b9", "other:han"),  # Japanese in two scripts
        ("\uc624\ub298 \ub0a0\uc528", "other:hangul"),
        ("\u0426\u0435\u043d\u0430", "other:cyrillic"),
        ("\u0c28\u0c47\u0c28\u0c41 \u0c07\u0c02\u0c1f\u0c3f\u0c15\u0c3f", "other:telugu"),
        ("\u1781\u17d2\u1789\u17bb\u17c6\u179f\u17d2\u179a\u17a1\u17b6\u1789\u17cb", "other:khmer"),
        ("Tokyo (\u6771\u4eac) is large", "und"),  # a name in a text of ours
        ("\u674e\u660e", "und"),
        ("\u03b1 = \u03b2\u03b3, \u0394x", "und"),  # a formula
        ("\uff28\uff45\uff4c\uff4c\uff4f", "und"),  # Latin letters of another width
        ("\U0001d407\U0001d41e\U0001d425\U0001d425\U0001d428", "und"),
        ("\U0001f600 \u2713 \u2192", "und"),
        ("caf\u00e9", "und"),
        ("", "und"),
    ],
)
def test_letters_tell_a_short_text_of_another_script(text: str, code: str) -> None:
    assert short_language(text) == code


def test_scripts_without_a_row_of_their_own_are_foreign_too() -> None:
    assert language("\u0c28\u0c47\u0c28\u0c41 \u0c07\u0c02\u0c1f\u0c3f\u0c15\u0c3f " * 3) == "other:telugu"
