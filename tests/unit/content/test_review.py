"""What is rewritten and what blocks: over borders, inside documents, in labels."""

from __future__ import annotations

import json
import math

import pytest
from inspection_fakes import inspection, rules, side, text
from poured_streams import inspectors, starter_rules
from restoring import restored

from gateway.content.blocklist import Blocklist
from gateway.content.inspect import FindingCache, Inspection, Pace, Scope
from gateway.content.pseudonyms import Pseudonyms
from gateway.content.review import UNREADABLE_ARGUMENTS, Review, expand, review, substitute
from gateway.content.rules import Action, DirectionRules
from gateway.content.stream import Findings
from gateway.evidence import Direction, Role, Segment, Span, Use


async def reviewed(
    *segments: Segment, given: DirectionRules | None = None, pseudonyms: Pseudonyms | None = None
) -> tuple[Review, Findings]:
    findings = Findings()
    result = await review(inspection(), segments, rules(given), Direction.INBOUND, Scope("t", b"s"), math.inf, pseudonyms, findings)
    return result, findings


async def test_a_span_is_redacted_and_counted_once() -> None:
    result, findings = await reviewed(text("to a@b now"))
    assert result.texts == {0: "to <EMAIL_ADDRESS> now"} and not result.blocked
    assert dict(findings.entities) == {"EMAIL_ADDRESS": 1} and findings.action is Action.REDACT


@pytest.mark.parametrize("roles", [(Role.USER, Role.USER), (Role.USER, Role.ASSISTANT), (Role.TOOL, Role.USER)])
async def test_an_address_cut_by_a_border_is_redacted_on_both_sides(roles: tuple[Role, Role]) -> None:
    result, _ = await reviewed(text("to anna", roles[0]), text("@example now", roles[1]))
    assert result.texts == {0: "to <EMAIL_ADDRESS>", 1: "<EMAIL_ADDRESS> now"}


async def test_an_address_over_three_texts() -> None:
    result, _ = await reviewed(text("to an"), text("na@ex"), text("ample now"))
    assert "ample" not in result.texts[2] and "an" not in result.texts[0].replace("<EMAIL_ADDRESS>", "")


async def test_harm_cut_by_a_border_blocks() -> None:
    result, _ = await reviewed(text("these bad"), text("words are"))
    assert result.blocked == ["violence"]


async def test_a_listed_phrase_cut_by_a_border_blocks() -> None:
    result, _ = await reviewed(text("the quiet"), text("harbour"), given=side(blocklist=Blocklist(["quiet harbour"])))
    assert "BLOCKLIST" in result.blocked


@pytest.mark.parametrize("action", [Action.REDACT, Action.PSEUDONYMISE, Action.BLOCK])
async def test_a_label_is_never_rewritten_it_refuses(action: Action) -> None:
    result, findings = await reviewed(text("x"), text("a@b", use=Use.LABEL), given=side(action))
    assert result.blocked == ["EMAIL_ADDRESS"] and result.blocked_at == 1 and result.texts == {}
    assert findings.action is Action.BLOCK


@pytest.mark.parametrize("action", [Action.RECORD, Action.ALLOW])
async def test_a_label_may_pass_where_nothing_would_be_done(action: Action) -> None:
    result, findings = await reviewed(text("a@b", use=Use.LABEL), given=side(action))
    assert not result.blocked and result.texts == {}
    assert dict(findings.entities) == ({"EMAIL_ADDRESS": 1} if action is Action.RECORD else {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"to ": " a@b "}, {"to ": " <EMAIL_ADDRESS> "}),
        ({"x ": [" a@b ", {"y ": " c@d "}]}, {"x ": [" <EMAIL_ADDRESS> ", {"y ": " <EMAIL_ADDRESS> "}]}),
        ({" a@b ": 1}, {" <EMAIL_ADDRESS> ": 1}),
        (" a@b ", " <EMAIL_ADDRESS> "),
        ([" a@b ", 7, None, True, 1.5], [" <EMAIL_ADDRESS> ", 7, None, True, 1.5]),
    ],
)
async def test_documents_stay_json(given: object, expected: object) -> None:
    result, _ = await reviewed(text(json.dumps(given), use=Use.ARGUMENTS))
    assert json.loads(result.texts[0]) == expected


async def test_escapes_hide_nothing_in_a_document() -> None:
    result, _ = await reviewed(text(r'{"to ": " a\u0040b "}', use=Use.ARGUMENTS))
    assert json.loads(result.texts[0]) == {"to ": " <EMAIL_ADDRESS> "}


@pytest.mark.parametrize("broken", [r'{"to": "a\u0040b"', r'{"to": 1, "to": "a\u0040b"}'])
async def test_escapes_hide_nothing_in_what_is_no_document(broken: str) -> None:
    result, _ = await reviewed(text(broken, use=Use.ARGUMENTS))
    assert result.texts == {0: UNREADABLE_ARGUMENTS}


async def test_plain_findings_in_a_broken_document_are_redacted() -> None:
    result, _ = await reviewed(text('{"to": "a@b"', use=Use.ARGUMENTS))
    assert result.texts == {0: '{"to": "<EMAIL_ADDRESS>"'}


async def test_a_renamed_key_takes_its_value_along() -> None:
    result, _ = await reviewed(text('{" a@b ": " c@d "}', use=Use.ARGUMENTS))
    assert "c@d" not in result.texts[0]


async def test_a_renamed_key_above_others() -> None:
    result, _ = await reviewed(text('{" a@b ": {"x ": " c@d "}}', use=Use.ARGUMENTS))
    assert "c@d" not in result.texts[0]


async def test_pseudonyms_are_restorable_only_for_what_users_wrote_themselves() -> None:
    pseudonyms = Pseudonyms("k7f3")
    segments = [text("a@a", Role.USER), text(" b@b", Role.SYSTEM), text(" c@c", Role.TOOL), text('" d@d"', Role.USER, Use.ARGUMENTS)]
    result, _ = await reviewed(*segments, given=side(Action.PSEUDONYMISE), pseudonyms=pseudonyms)
    minted = [result.texts[i].strip(' "') for i in range(4)]
    assert [restored(pseudonyms, token) for token in minted] == ["a@a", *minted[1:]]


async def test_without_pseudonyms_they_are_redacted() -> None:
    result, _ = await reviewed(text("a@b"), given=side(Action.PSEUDONYMISE))
    assert result.texts == {0: "<EMAIL_ADDRESS>"}


async def test_nothing_is_rewritten_once_something_blocks() -> None:
    result, _ = await reviewed(text("a@b"), text("bad words"))
    assert result.blocked and result.texts == {} and result.blocked_at == 1


def test_substitution_skips_overlaps_and_keeps_the_rest() -> None:
    spans = [Span(0, 3, "A"), Span(2, 4, "B"), Span(4, 5, "C")]
    assert substitute("abcdef", spans, lambda span, value: None if span.type == "C" else f"[{value}]") == "[abc]def"


async def test_units_know_their_owner() -> None:
    units, parsed = await expand([text("x"), text('{"a": "b"}', use=Use.ARGUMENTS), text("{", use=Use.ARGUMENTS)], Pace(math.inf))
    assert [(u.owner, u.segment.text, u.shadow) for u in units] == [(0, "x", False), (1, "a", False), (1, "b", False), (2, "{", False)]
    assert list(parsed) == [1]


@pytest.mark.parametrize("following", ["Write back", "Thanks, I will"])
async def test_a_sentence_that_ends_with_an_address_takes_no_word_of_the_next_text(following: str) -> None:
    segments = [text("I am at jane.roe@example.com."), text(following, Role.ASSISTANT)]
    made = Inspection(inspectors(), FindingCache(b"k" * 32))
    result = await review(made, segments, rules(), Direction.INBOUND, Scope("t", b"s"), math.inf, None, Findings())
    assert result.texts == {0: "I am at <EMAIL_ADDRESS>."}


@pytest.mark.parametrize("at", range(1, len("jane.roe@example.com")))
async def test_an_address_cut_anywhere_by_a_border_is_gone(at: int) -> None:
    value = "jane.roe@example.com"
    made = Inspection(inspectors(), FindingCache(b"k" * 32))
    segments = [text("to " + value[:at]), text(value[at:] + " now")]
    result = await review(made, segments, rules(), Direction.INBOUND, Scope("t", b"s"), math.inf, None, Findings())
    said = result.texts.get(0, segments[0].text) + result.texts.get(1, segments[1].text)
    assert value not in said and "roe" not in said.replace("<EMAIL_ADDRESS>", "")


@pytest.mark.parametrize("arguments", ['{"a":"\\ud835 x"}', '{"\\udc00":1}', '["a", ["\\ud83d"]]', '{"a":"\\ud835","a":2}'])
@pytest.mark.parametrize("direction", list(Direction), ids=str)
async def test_half_a_character_in_a_document_is_read_as_text(arguments: str, direction: Direction) -> None:
    """The real inspectors take no text that cannot be encoded, and one half emoji would end every later turn of a conversation."""
    real = Inspection(inspectors(), FindingCache(b"k" * 32))

    async def given(said: str) -> str:
        segments = [text(said, use=Use.ARGUMENTS)]
        result = await review(real, segments, starter_rules(), direction, Scope("t", b"s"), math.inf, None, Findings())
        assert not result.blocked
        return result.texts.get(0, said)

    assert await given(arguments) == arguments
    hidden = await given(f'{arguments[:-1]}, "\\u0063oe@example.com"{arguments[-1]}')
    assert "coe" not in hidden.replace("\\u0063", "c"), "escapes hide nothing"
