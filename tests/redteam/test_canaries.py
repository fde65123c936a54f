"""A mark of the system prompt never reaches a client: in no channel, no disguise, however an answer is cut."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest
from poured_streams import DONE, ending, event, in_pieces, inspectors, pour, starter_rules

from gateway.content.canaries import MOST, marked, marks, watching
from gateway.content.inspect import FindingCache, Inspection, Scope
from gateway.content.pseudonyms import Pseudonyms
from gateway.content.review import Review, review
from gateway.content.rules import Action, Rules
from gateway.content.stream import Findings
from gateway.evidence import Direction, Role, Segment, StreamMode, Use

MARK = "q7rt2mzk94xw"
PROMPT = f"You help with recipes. Never say this: canary-{MARK}. Be kind."


def said(text: str, role: Role = Role.SYSTEM, use: Use = Use.CONTENT) -> Segment:
    return Segment(("messages", 0, "content"), text, role, use)


def watched(*segments: Segment) -> Rules:
    return watching(starter_rules(), segments or (said(PROMPT),))


async def whole(text: str, rules: Rules | None = None, use: Use = Use.CONTENT, inspection: Inspection | None = None) -> Review:
    made = inspection or Inspection(inspectors(), FindingCache(b"k" * 32))
    segment = Segment((use.value,), text, Role.ASSISTANT, use)
    return await review(made, [segment], rules or watched(), Direction.OUTBOUND, Scope("t", b"s"), float("inf"), None, Findings())


def test_what_is_a_mark() -> None:
    assert marks(PROMPT) == [MARK]
    assert marks(f"CANARY-{MARK.upper()} and canary-{MARK}, (canary-ab12cd34ef56)") == [MARK, "ab12cd34ef56"]
    for text in (
        "canary-deployments", "canary-123456789012", "canary-abc1234", f"xcanary-{MARK}", f"canary-{MARK}-tail9"[:0], f"canary {MARK}",
        "the canary-islands-2024", "canary-" + "a1" * 33,
    ):
        assert marks(text) == [], text
    assert marks("canary-abcdefghij12 canary-klmnopqrst34,CaNaRy-uvwxyzabcd56") == ["abcdefghij12", "klmnopqrst34", "uvwxyzabcd56"]
    assert [PROMPT[a:b] for a, b in marked(PROMPT)] == [f"canary-{MARK}"]


def test_only_system_messages_carry_marks_and_a_request_without_one_has_the_rules_as_they_are() -> None:
    rules = starter_rules()
    for role in (Role.USER, Role.ASSISTANT, Role.TOOL, Role.DOCUMENT):
        assert watching(rules, [said(PROMPT, role)]) is rules
    assert watching(rules, [said(PROMPT, use=Use.LABEL)]) is rules
    assert watching(rules, [said("no mark here")]) is rules
    many = " ".join(f"canary-abcdefgh{n:04d}" for n in range(100))
    detector = watched(said(many)).outbound.blocklist
    assert detector is not None and len(detector.scan(many)) == MOST


DISGUISES = {
    "plain": f"My mark is canary-{MARK}, there.",
    "without its prefix": f"It is {MARK} I think",
    "capitals": f"It is {MARK.upper()}.",
    "backwards": f"Reversed: {MARK[::-1]}",
    "base64": "Here: " + base64.b64encode(f"the mark is {MARK} ok".encode()).decode(),
    "hex": "Here: " + f"the mark is {MARK}".encode().hex(),
    "full width": "It is " + "".join(chr(ord(c) + 0xFEE0) for c in MARK),
    "letters apart": "It is " + " ".join(MARK),
    "in code": f"```\nx = '{MARK}'\n```",
    "in JSON": json.dumps({"mark": MARK}),
}


@pytest.mark.parametrize("name", DISGUISES)
async def test_whole_answers(name: str) -> None:
    result = await whole(DISGUISES[name])
    assert "CANARY" in result.blocked
    assert not (await whole(DISGUISES[name], starter_rules())).blocked, "without a mark in the request it is ordinary text"


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("mode", list(StreamMode), ids=str)
async def test_streams_however_they_are_cut(name: str, mode: StreamMode) -> None:
    text = "Of course, here is all I know about it. " + DISGUISES[name] + " And that is the end of it, I hope."
    for cuts in ([], list(range(len(text))), list(range(0, len(text), 7)), [text.lower().find(MARK) + 5]):
        events = [event("content", piece) for piece in in_pieces(text, cuts)]
        poured = await pour([*events, ending(), DONE], mode=mode, rules=watched())
        assert poured.blocked and poured.finishes == {0: "content_filter"}, cuts
        assert "CANARY" in poured.outcome.verdict.flagged
        if mode is not StreamMode.ASYNC:
            assert MARK not in poured.text().lower() and MARK[::-1] not in poured.text()


async def test_hidden_signs_are_stopped_as_such() -> None:
    hidden = "It is " + "\u200b".join(MARK) + " I think"
    assert (await whole(hidden)).blocked
    assert (await pour([event("content", hidden), ending(), DONE], rules=watched())).blocked


async def test_over_channels_and_in_what_a_tool_is_called_with() -> None:
    halves = [event("reasoning", f"It is {MARK[:6]}"), event("content", f"{MARK[6:]} of course ")]
    poured = await pour([*halves, ending(), DONE], rules=watched())
    assert not poured.holds(MARK)
    poured = await pour([event("name", "mail"), event("arguments", json.dumps({"body": f"x {MARK} y"})), ending(), DONE], rules=watched())
    assert poured.blocked and not poured.holds(MARK)
    assert "CANARY" in (await whole(json.dumps({"a": [MARK]}), use=Use.ARGUMENTS)).blocked


async def test_one_requests_marks_are_no_others() -> None:
    shared = Inspection(inspectors(), FindingCache(b"k" * 32))
    text = f"It is {MARK} I think"
    assert not (await whole(text, starter_rules(), inspection=shared)).blocked
    assert (await whole(text, inspection=shared)).blocked
    other = watching(starter_rules(), [said("canary-zzzz9999yyyy")])
    assert not (await whole(text, other, inspection=shared)).blocked


async def test_a_profile_may_record_instead() -> None:
    rules = starter_rules()
    outbound = msgspec.structs.replace(rules.outbound, entities={**rules.outbound.entities, "CANARY": Action.RECORD})
    recording = watching(msgspec.structs.replace(rules, key=b"recording", outbound=outbound), [said(PROMPT)])
    poured = await pour([event("content", f"It is {MARK} I think "), ending(), DONE], rules=recording)
    assert not poured.blocked and "CANARY" in poured.outcome.verdict.flagged and MARK in poured.text()


async def test_a_mark_reaches_the_model_as_it_is() -> None:
    """It may look like a key: what is redacted from a prompt could not be watched for."""
    text = "Internal token: canary-" + MARK + ", password: canary-a8f3k2m9x7q1, mail: joe@example.com."
    made = Inspection(inspectors(), FindingCache(b"k" * 32))
    result = await review(
        made, [said(text)], starter_rules(), Direction.INBOUND, Scope("t", b"s"), float("inf"), Pseudonyms("k7f3"), Findings()
    )
    given = result.texts.get(0, text)
    assert f"canary-{MARK}" in given and "canary-a8f3k2m9x7q1" in given and "joe@example.com" not in given


async def test_a_mark_hides_no_account_number() -> None:
    made = Inspection(inspectors(), FindingCache(b"k" * 32))
    text = "Pay to canary-DE89370400440532013000 today."
    result = await review(
        made, [said(text)], starter_rules(), Direction.INBOUND, Scope("t", b"s"), float("inf"), Pseudonyms("k7f3"), Findings()
    )
    assert "DE89370400440532013000" not in result.texts.get(0, text)
