"""What one message asks for and the next one gives: a number that nobody would know without the question."""

from __future__ import annotations

import msgspec
import pytest
from poured_streams import inspectors, starter_rules

from gateway.content.inspect import BORDER, FindingCache, Inspection, Scope
from gateway.content.pseudonyms import Pseudonyms
from gateway.content.review import review
from gateway.content.rules import Action
from gateway.content.stream import Findings
from gateway.evidence import Direction, Role, Segment, Use


async def sent(*texts: tuple[Role, str], block: str = "") -> tuple[list[str], list[str]]:
    """Return what the model is sent of these messages, and what they are refused for."""
    rules = starter_rules()
    entities = {**rules.inbound.entities, **({block: Action.BLOCK} if block else {})}
    rules = msgspec.structs.replace(rules, key=block.encode(), inbound=msgspec.structs.replace(rules.inbound, entities=entities))
    segments = [Segment(("messages", at, "content"), text, role, Use.CONTENT) for at, (role, text) in enumerate(texts)]
    inspection = Inspection(inspectors(), FindingCache(b"k" * 32))
    given = inspection, segments, rules, Direction.INBOUND, Scope("t", b"s"), float("inf")
    result = await review(*given, Pseudonyms("k7f3"), Findings())
    return [result.texts.get(at, segment.text) for at, segment in enumerate(segments)], result.blocked


LONG = (
    "Well, let me first say how nice the weather was here all of last week, and that my sister came over to see us "
    "with both of her old brown dogs. So: "
)
ASKED = {
    "What is your social security number?": ("536904399", "US_SSN"),
    "Please tell me your SSN.": ("it is 536 90 4399, thanks", "US_SSN"),
    "And the account number?": ("1472142210", "US_BANK_NUMBER"),
    "Which phone number is best to reach you?": ("5550143 works", "PHONE_NUMBER"),
    "Your NHS number, please:": ("9434765919", "UK_NHS"),
    "Your Steuer-ID?": ("36574261809", "DE_TAX_ID"),
    "On which card?": ("41111111111lll11", "CREDIT_CARD"),
}


@pytest.mark.parametrize("question", ASKED)
@pytest.mark.parametrize("padding", [0, BORDER - 20, 3 * BORDER])
@pytest.mark.parametrize("between", [[], [(Role.USER, "ok")]])
async def test_a_number_is_what_it_was_asked_for(question: str, padding: int, between: list[tuple[Role, str]]) -> None:
    answer, kind = ASKED[question]
    filler = "We have a few questions before we start. " * (padding // 41)
    texts, blocked = await sent((Role.ASSISTANT, filler + question), *between, (Role.USER, answer))
    assert not blocked
    if between and kind not in {"US_SSN", "UK_NHS", "CREDIT_CARD"}:
        return  # the others want their word right before them
    number = "".join(c for c in answer if not c.isalpha()).strip(" ,")
    assert f"<{kind}" in texts[-1] and number not in texts[-1], texts
    assert texts[0] == filler + question
    refused = await sent((Role.ASSISTANT, filler + question), *between, (Role.USER, answer), block=kind)
    assert kind in refused[1]


async def test_nothing_else_is_what_it_was_not_asked_for() -> None:
    for question, answer in (
        ("How many apples in all?", "536904399"), ("Thank you.", "1472142210"), ("How many?", "9434765919"),
        ("What is your social security number?", "I would rather not say"), ("SSN?", LONG + "536904399"),
    ):  # fmt: skip
        texts, blocked = await sent((Role.ASSISTANT, question), (Role.USER, answer))
        assert texts == [question, answer] and not blocked


async def test_what_a_window_cuts_is_not_judged_by_its_half() -> None:
    """A window ends somewhere within a longer text: what stands at its end is no number yet."""
    answer = LONG + "5369043991234567"
    assert len(LONG) < BORDER - 9 < BORDER < len(answer)
    texts, _ = await sent((Role.ASSISTANT, "What is your social security number?"), (Role.USER, answer))
    assert texts[-1] == answer
