"""The stream guard's promise: the result depends on the text, not on how it was cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_detectors import ToyEmails, ToyModerator

from gateway.content.blocklist import Blocklist
from gateway.content.pseudonyms import Pseudonyms
from gateway.content.rules import Action, DirectionRules
from gateway.content.stream import Blocked, Findings, StreamGuard
from gateway.evidence import Role, StreamMode

WORDS = st.sampled_from(
    ["joe@ex.org", "mary.ann@b.co", "<PERSON_k7f3_1>", "<EMAIL_ADDRESS>", "a", "the", "drop", "table", "x@", "@"]
    + ["<", "<PER", "é", "日本", "."]
)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", "", "\n", ", "])), max_size=25).map(lambda ws: "".join(a + b for a, b in ws))


def rules(**over: object) -> DirectionRules:
    base: dict[str, object] = {
        "entities": {"EMAIL_ADDRESS": Action.REDACT},
        "entity_default": Action.ALLOW,
        "secrets": Action.REDACT,
        "block_at": {"attack": 0.5},
        "record_at": {},
    }
    return DirectionRules(**(base | over))  # type: ignore[arg-type]


def run(text: str, cuts: list[int], mode: StreamMode = StreamMode.WINDOW, over: DirectionRules | None = None) -> tuple[str, bool]:
    pseudonyms = Pseudonyms("k7f3")
    pseudonyms.token("PERSON", "Ada Lovelace", restorable=True)
    guard = StreamGuard(
        over or rules(), [ToyEmails()], lambda: ToyModerator().open(Role.ASSISTANT), pseudonyms, Findings(), mode=mode
    )
    edges = [0, *sorted({min(c, len(text)) for c in cuts}), len(text)]
    out: list[str] = []
    covered = 0
    try:
        for begin, end in zip(edges, edges[1:], strict=False):
            for piece in guard.feed(text[begin:end]):
                out.append(piece.text)
                covered += piece.length
        for piece in guard.finish():
            out.append(piece.text)
            covered += piece.length
    except Blocked:
        return "".join(out), True
    assert covered == len(text)
    return "".join(out), False


@settings(max_examples=1500, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 200), max_size=60), st.sampled_from(StreamMode))
def test_any_chunking_gives_the_batch_result(text: str, cuts: list[int], mode: StreamMode) -> None:
    whole, whole_blocked = run(text, [], StreamMode.STRICT)
    out, blocked = run(text, cuts, mode)
    assert blocked == whole_blocked
    if not blocked:
        assert out == whole


@settings(max_examples=600, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 200), max_size=60))
def test_an_address_is_never_completed_in_what_was_released(text: str, cuts: list[int]) -> None:
    text = text.replace("<", "")
    out, blocked = run(text, cuts)
    expected = text
    for span in reversed(ToyEmails().scan(text)):
        expected = expected[: span.start] + "<EMAIL_ADDRESS>" + expected[span.end :]
    assert expected.startswith(out) if blocked else out == expected


@settings(max_examples=600, deadline=None)
@given(st.lists(st.integers(0, 120), max_size=60), st.integers(0, 20))
def test_a_listed_phrase_is_never_delivered(cuts: list[int], pad: int) -> None:
    text = "well " * pad + "the Open,  sesame! phrase and more text behind it"
    out, blocked = run(text, cuts, over=rules(blocklist=Blocklist(["open sesame", "open the gate now"])))
    assert blocked
    assert "esame" not in out.lower()


def test_a_phrase_split_at_every_offset_is_never_delivered() -> None:
    text = "please drop tables now"
    for at in range(len(text)):
        out, blocked = run(text, [at])
        assert blocked, at
        assert "tables" not in out


def test_one_code_point_at_a_time_restores_and_redacts() -> None:
    text = "Dear <PERSON_k7f3_1>, write to joe@ex.org or <PERSON_zzzz_1>."
    out, _ = run(text, list(range(len(text))))
    assert out == "Dear Ada Lovelace, write to <EMAIL_ADDRESS> or <PERSON_zzzz_1>."


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.example/?q=<PERSON_k7f3_1>",
        "[x](https://evil.example/<PERSON_k7f3_1>)",
        '<img src="//evil.example/<PERSON_k7f3_1>">',
        "![a](<PERSON_k7f3_1>)",
        "<PERSON_k7f3_1>.evil.example/",
        "www.evil.example/<PERSON_k7f3_1>",
    ],
)
def test_values_are_never_restored_into_links(text: str) -> None:
    out, _ = run(text, list(range(len(text))))
    assert "Ada" not in out


def test_text_is_released_word_by_word() -> None:
    guard = StreamGuard(rules(), [ToyEmails()], None, None, Findings(), mode=StreamMode.WINDOW)
    released = [sum(p.length for p in guard.feed(w)) for w in ["Hello", " there", " my", " friend"]]
    assert released == [0, 6, 6, 3]
    assert guard.held == 6


def test_a_long_delta_is_taken_in_steps_and_an_endless_word_is_refused() -> None:
    guard = StreamGuard(rules(), [ToyEmails()], None, None, Findings(), mode=StreamMode.WINDOW)
    assert sum(p.length for p in guard.feed("word " * 20_000)) == 100_000
    with pytest.raises(Blocked):
        guard.feed("x" * 40_000)
    assert guard.feed("more ") == []
    assert guard.finish() == []


def test_what_several_readings_say_of_the_same_text_is_replaced_once() -> None:
    text = "0123456789 one@example two@example and what follows stays in the answer"
    for forced in ([(10, 30), (10, 30)], [(5, 20), (10, 30)], [(50, 55), (50, 55)]):
        guard = StreamGuard(rules(), [], None, None, Findings(), mode=StreamMode.STRICT)
        guard.feed(text)
        for begin, end in forced:
            guard.force(begin, end, "EMAIL_ADDRESS")
        first, last = min(begin for begin, _ in forced), max(end for _, end in forced)
        given = guard.take()
        assert given.startswith(text[:first]) and given.endswith(text[last:]), given
        assert given.replace("<EMAIL_ADDRESS>", "").replace(" ", "") == (text[:first] + text[last:]).replace(" ", ""), given
