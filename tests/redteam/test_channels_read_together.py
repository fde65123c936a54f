"""A value cut over the channels of a streamed answer, or over the texts of a whole one, that a client prints one after the other."""

from __future__ import annotations

import itertools
import json

import msgspec
import pytest
from poured_streams import DONE, FIELDS, ending, event, in_pieces, inspectors, pour, starter_rules

from gateway.content.inspect import FindingCache, Inspection, Scope
from gateway.content.review import review
from gateway.content.stream import Findings
from gateway.evidence import Direction, Operation, StreamMode
from gateway.schema.answers import answer_segments

MAIL = "jane.roe@example.com"
CARD = "4111 1111 1111 1111"
SECRET = "AKIA" + "Q3EXAMPLE7XK2MPL"
PAIRS = list(itertools.permutations(FIELDS, 2))
MODES = [StreamMode.WINDOW, StreamMode.STRICT]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("value", [MAIL, CARD, SECRET], ids=["mail", "card", "secret"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_cut_where_one_channel_follows_another(first: str, second: str, value: str, mode: StreamMode) -> None:
    for at in range(1, len(value)):
        chunks = [
            event(first, "Please write it down: "), event(first, value[:at]), event(second, value[at:]), event(second, " and thank you. "),
            ending(), DONE,
        ]  # fmt: skip
        poured = await pour(chunks, mode=mode)
        assert not poured.holds(value), at
        assert poured.fault is None and (poured.blocked or "Please write it down: " in poured.text(first))


@pytest.mark.parametrize("value", [MAIL, SECRET], ids=["mail", "secret"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_cut_into_turns(value: str, size: int) -> None:
    """Channels take turns piece by piece: neither each of them nor what is printed as it comes holds the value."""
    turns = itertools.cycle(FIELDS)
    pieces = in_pieces(value, range(size, len(value), size))
    middle = [event(next(turns), piece) for piece in pieces]
    chunks = [event("content", "It is: "), *middle, event("content", " as you asked."), ending(), DONE]
    poured = await pour(chunks)
    assert value not in poured.shown and not poured.holds(value)


async def test_one_channel_interrupted_by_another_is_still_one_text() -> None:
    chunks = []
    for piece in in_pieces(f"Write to {MAIL} today, please.", range(3, 60, 3)):
        chunks += [event("content", piece), event("reasoning", "Well, let me see. ")]
    poured = await pour([*chunks, ending(), DONE])
    assert MAIL not in poured.text("content") and "jane" not in poured.text("content")
    assert poured.text("reasoning").startswith("Well, let me see. Well,")


@pytest.mark.parametrize("value", [MAIL, SECRET], ids=["mail", "secret"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_the_end_of_one_text_and_the_beginning_of_another(first: str, second: str, value: str) -> None:
    """Shown one below the other though they did not arrive so."""
    for at in range(2, len(value) - 1, 3):
        chunks = [
            event(second, value[at:] + " is the end of it, and much more is said here, quite a lot of it in fact, so that it leaves. "),
            event(first, "Some words first, quite a lot of them too, in order to be sure that nothing is near: "), event(first, value[:at]),
            ending(), DONE,
        ]  # fmt: skip
        poured = await pour(chunks)
        assert value not in poured.text(first) + poured.text(second), at


async def test_choices_printed_one_after_the_other() -> None:
    for at in range(2, len(MAIL) - 1, 3):
        one = [event("content", "My address is "), event("content", MAIL[:at]), ending(0)]
        two = [event("content", MAIL[at:] + " bye.", choice=1), ending(1)]
        for chunks in ([*one, *two], [*two, *one], [one[0], two[0], one[1], *one[2:], *two[1:]]):
            poured = await pour([*chunks, DONE], n=2)
            assert MAIL not in poured.text(choice=0) + poured.text(choice=1)
            assert poured.blocked or poured.finishes == {0: "stop", 1: "stop"}


async def test_completions_printed_one_after_the_other() -> None:
    o = Operation.COMPLETIONS
    chunks = [
        event("", "It is " + SECRET[:9], operation=o), ending(0, operation=o),
        event("", SECRET[9:] + " ok", choice=1, operation=o), ending(1, operation=o),
    ]
    poured = await pour([*chunks, DONE], operation=o, n=2)
    assert SECRET not in poured.text(choice=0) + poured.text(choice=1)


async def test_a_listed_phrase_over_two_channels_is_blocked() -> None:
    rules = starter_rules()
    assert rules.outbound.blocklist is None
    inbound = rules.inbound.blocklist
    listed = msgspec.structs.replace(rules, outbound=msgspec.structs.replace(rules.outbound, blocklist=inbound))
    for cut in ("project", "project blue", "project bluebird", "project bluebird proto"):
        rest = "project bluebird prototype".removeprefix(cut)
        said = [event("reasoning", "It is " + cut), event("content", rest + " they say, but who knows.")]
        poured = await pour([*said, ending(), DONE], rules=listed)
        assert poured.blocked and "prototype" not in poured.shown, cut


async def test_a_threat_said_in_turns_is_blocked() -> None:
    turns = itertools.cycle(["content", "reasoning"])
    words = "I will find you and I will kill you and your whole family tonight, you worthless animal.".split()
    chunks = [event(next(turns), word + " ") for word in words]
    poured = await pour([*chunks, ending(), DONE])
    assert poured.blocked and "kill" not in poured.shown


async def test_ordinary_reasoning_before_an_answer_is_left_alone() -> None:
    thought = "The user asks about the weather; I should say that it is sunny, about 24 degrees, until 17:30."
    said = "It is sunny today, with about 24 degrees until half past five. 555 people were asked."
    chunks = [event("reasoning", piece) for piece in in_pieces(thought, range(4, 200, 4))]
    chunks += [event("content", piece) for piece in in_pieces(said, range(4, 200, 4))]
    poured = await pour([*chunks, ending(), DONE])
    assert (poured.text("reasoning"), poured.text("content")) == (thought, said)
    assert not poured.blocked and poured.stream._together.open == 0


async def test_a_seam_ends_once_one_channel_speaks_alone() -> None:
    said = "The committee met in the morning and spoke about roads, then about schools, and after lunch about the price of bread. " * 4
    poured = await pour([event("reasoning", "Let me see. "), *(event("content", p) for p in in_pieces(said, range(9, 900, 9)))])
    assert poured.stream._together.open == 0, "an open seam doubles the work of every event"


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_whole_answers(first: str, second: str) -> None:
    rules, inspection = starter_rules(), Inspection(inspectors(), FindingCache(b"k" * 32))
    for value, filler in itertools.product((MAIL, SECRET), ("", "Something else is said, too. " * 10)):
        message: dict[str, str | None] = {"role": "assistant", "content": None, "refusal": None}
        third = next(name for name in FIELDS if name not in (first, second))
        message[FIELDS[third]] = filler or None
        message[FIELDS[first]], message[FIELDS[second]] = "It is " + value[:9], value[9:] + " you see"
        segments = answer_segments(Operation.CHAT, {"choices": [{"index": 0, "message": message}]})
        result = await review(inspection, segments, rules, Direction.OUTBOUND, Scope("t", b"s"), float("inf"), None, Findings())
        texts = {s.path[-1]: result.texts.get(at, s.text) for at, s in enumerate(segments)}
        assert result.blocked or value not in texts[FIELDS[first]] + texts[FIELDS[second]]


def called(*names: str, choice: int = 0, arguments: str = "{}") -> list[bytes]:
    calls = [{"index": at, "function": {"name": name, "arguments": arguments}} for at, name in enumerate(names)]
    made = [{"index": choice, "finish_reason": None, "delta": {"tool_calls": [call]}} for call in calls]
    return [b"data: " + json.dumps({"id": "x", "choices": [one]}).encode() + b"\n\n" for one in made]


@pytest.mark.parametrize("mode", list(StreamMode), ids=str)
@pytest.mark.parametrize("size", [4, 9, 13])
async def test_a_key_over_the_names_of_tools(size: int, mode: StreamMode) -> None:
    names = in_pieces(SECRET, range(size, len(SECRET), size))
    poured = await pour([*called(*names), ending(), DONE], mode=mode)
    assert poured.blocked and not any(name in poured.raw.decode() for name in names)


async def test_a_key_over_the_names_of_tools_of_two_choices() -> None:
    chunks = [*called(SECRET[:9]), *called(SECRET[9:], choice=1), ending(0), ending(1), DONE]
    poured = await pour(chunks, n=2)
    assert poured.blocked and SECRET[9:] not in poured.raw.decode()


async def test_ordinary_names_of_tools_pass() -> None:
    names = ["get_weather", "look_up", "fetch-2024", "send.mail", "get_weather"]
    poured = await pour([*called(*names), ending(), DONE])
    assert not poured.blocked and all(name in poured.raw.decode() for name in names)


async def test_what_was_found_in_arguments_judged_before_is_recorded_again() -> None:
    inspection = Inspection(inspectors(), FindingCache(b"k" * 32))
    given = json.dumps({"note": "I will find you and I will kill you tonight."})
    rules = starter_rules("echo")
    for _ in range(2):
        poured = await pour([*called("note", arguments=given), ending(), DONE], rules=rules, inspection=inspection)
        verdict = poured.outcome.verdict
        assert verdict is not None and verdict.action == "record" and verdict.flagged and max(verdict.scores.values()) > 0.4
