"""A mark of the system prompt never reaches a client: in no channel, no disguise, however an answer is cut."""

from __future__ import annotations

import base64
import codecs
import json
import random
import time

import msgspec
import pytest
from poured_streams import DONE, ending, event, in_pieces, inspectors, pour, starter_rules

from gateway.content.canaries import MOST, TRIED, marked, marks, watching
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
    assert marks(f"CANARY-{MARK.upper()} and canary-{MARK}, (canary-ab12cd34ef56)") == [MARK.upper(), "ab12cd34ef56"]
    for text in (
        "canary-deployments", "canary-123456789012", "canary-abc1234", f"xcanary-{MARK}", f"canary-{MARK}-tail9"[:0], f"canary {MARK}",
        "the canary-islands-2024", "canary-" + "a1" * 33,
    ):
        assert marks(text) == [], text
    assert marks("canary-abcdefghij12 canary-klmnopqrst34,CaNaRy-uvwxyzabcd56") == ["abcdefghij12", "klmnopqrst34", "uvwxyzabcd56"]
    assert [PROMPT[a:b] for a, b in marked(PROMPT)] == [f"canary-{MARK}"]


def test_many_marks_and_what_looks_like_some() -> None:
    assert marks("canary-abcdefghijklmnopqrstuvwxyz12345") == ["abcdefghijklmnopqrstuvwxyz12345"]
    assert marks("canary-environments " * 900 + f"canary-{MARK}") == [MARK]
    many = " ".join(f"canary-abcdefgh{n:04d}" for n in range(20_000))
    since = time.thread_time()
    assert len(marks(many)) == len(marked(many)) == TRIED
    watching(starter_rules(), [said(many)] * 50)
    assert time.thread_time() - since < 0.15, "with a tenth of it a caller would hold the event loop"


def test_only_system_messages_carry_marks_and_a_request_without_one_has_the_rules_as_they_are() -> None:
    rules = starter_rules()
    for role in (Role.USER, Role.ASSISTANT, Role.TOOL, Role.DOCUMENT):
        assert watching(rules, [said(PROMPT, role)]) is rules
    assert watching(rules, [said(PROMPT, use=Use.LABEL)]) is rules
    assert watching(rules, [said("no mark here")]) is rules
    many = " ".join(f"canary-abcdefgh{n:04d}" for n in range(100))
    detector = watched(said(many)).outbound.blocklist
    assert detector is not None and len(detector.scan(many)) == MOST


def encoded(text: str) -> dict[str, str]:
    raw = text.encode()
    return {
        "base64": base64.b64encode(raw).decode(),
        "base64 of a web address": base64.urlsafe_b64encode(raw).decode().rstrip("="),
        "base64 in lines": base64.encodebytes(raw * 5).decode(),
        "base32": base64.b32encode(raw).decode(),
        "hex": raw.hex(),
        "hex in capitals": raw.hex(":").upper(),
        "hex of a program": "".join(f"\\x{byte:02x}" for byte in raw),
        "hex of a list": ", ".join(hex(byte) for byte in raw),
        "escapes": "".join(f"\\u{byte:04x}" for byte in raw),
        "percent": "".join(f"%{byte:02X}" for byte in raw),
        "codes": " ".join(map(str, raw)),
        "codes with zeros": " ".join(f"{byte:03}" for byte in raw),
        "bits": " ".join(f"{byte:08b}" for byte in raw),
        "seven bits": " ".join(f"{byte:07b}" for byte in raw),
        "bits of a program": ", ".join(map(bin, raw)),
        "braces": "".join(f"\\u{{{byte:x}}}" for byte in raw),
        "long escapes": "".join(f"\\U{byte:08x}" for byte in raw),
        "escapes of a style sheet": "".join(f"\\{byte:06x}" for byte in raw),
        "rot13": codecs.encode(text, "rot13"),
        "HTML": "".join(f"&#{byte};" for byte in raw),
    }


DISGUISES = {
    "plain": f"My mark is canary-{MARK}, there.",
    "without its prefix": f"It is {MARK} I think",
    "capitals": f"It is {MARK.upper()}.",
    "backwards": f"Reversed: {MARK[::-1]}",
    "base64 of a sentence": "Here: " + base64.b64encode(f"the mark is {MARK} ok".encode()).decode(),
    "hex of a sentence": "Here: " + f"the mark is {MARK}".encode().hex(),
    "full width": "It is " + "".join(chr(ord(c) + 0xFEE0) for c in MARK),
    "letters apart": "It is " + " ".join(MARK),
    "in code": f"```\nx = '{MARK}'\n```",
    "in JSON": json.dumps({"mark": MARK}),
    "glued": f"It is canary{MARK}x then",
    "between letters": f"It is abc{MARK}def then",
    "in groups": f"It is {MARK[:4]} {MARK[4:8]} {MARK[8:]}.",
    "with dashes": f"It is {MARK[:4]}-{MARK[4:8]}_{MARK[8:]}.",
    "one a line": "It is\n\n" + "\n* ".join(MARK),
    "with commas": "It is " + "', '".join(MARK),
    "after an escape": 'He wrote {"a": "one\\n' + MARK + '"} there',
    "escapes within": 'He wrote {"a": "' + "\\n".join((MARK[:4], MARK[4:8], MARK[8:])) + '"} there',
    **{f"{name}, the mark": f"Here: {said}" for name, said in encoded(MARK).items()},
    **{f"{name}, with its prefix": f"Here: {said}" for name, said in encoded(f"canary-{MARK}").items()},
    **{f"{name}, backwards": f"Here: {said}" for name, said in encoded(MARK[::-1].upper()).items()},
    "base64, one before": base64.b64encode(f"a{MARK}yz".encode()).decode(),
    "base64, two before": base64.b64encode(f"ab{MARK}".encode()).decode(),
    "base32, three before": base64.b32encode(f"abc{MARK}".encode()).decode(),
}


@pytest.mark.parametrize("name", DISGUISES)
async def test_whole_answers(name: str) -> None:
    result = await whole(DISGUISES[name])
    assert "CANARY" in result.blocked
    assert "CANARY" not in (await whole(DISGUISES[name], starter_rules())).blocked, "without a mark in the request it is ordinary text"


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("mode", list(StreamMode), ids=str)
async def test_streams_however_they_are_cut(name: str, mode: StreamMode) -> None:
    text = "Of course, here is all I know about it. " + DISGUISES[name] + " And that is the end of it, I hope."
    for cuts in ([], list(range(len(text))), list(range(0, len(text), 7)), [text.lower().find(MARK) + 5]):
        events = [event("content", piece) for piece in in_pieces(text, cuts)]
        poured = await pour([*events, ending(), DONE], mode=mode, rules=watched())
        assert poured.blocked and poured.finishes == {0: "content_filter"}, cuts
        flagged = poured.outcome.verdict.flagged
        assert "CANARY" in flagged or (flagged and any(kind in name for kind in ("codes", "bits", "braces"))), "stopped even before"
        if mode is not StreamMode.ASYNC:
            assert MARK not in poured.text().lower() and MARK[::-1] not in poured.text()
            assert DISGUISES[name] not in poured.text()


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


@pytest.mark.parametrize(
    "document",
    [
        {"lines": [MARK[:6], MARK[6:]]}, list(MARK), {MARK[:6]: MARK[6:]}, {"codes": list(MARK.encode())},
        {"codes": [str(code) for code in MARK.encode()]}, {"codes": [hex(code) for code in MARK.encode()]},
        {"a": {"b": [[base64.b64encode(MARK.encode()).decode()[at : at + 4]] for at in range(0, 16, 4)]}},
    ],
)  # fmt: skip
async def test_a_document_is_read_as_one(document: object) -> None:
    for text in (json.dumps(document), json.dumps(document, indent=2), json.dumps(document).replace('"q', '"\\u0071')):
        assert "CANARY" in (await whole(text, use=Use.ARGUMENTS)).blocked
        assert "CANARY" not in (await whole(text, starter_rules(), use=Use.ARGUMENTS)).blocked
        for cuts in ([], list(range(0, len(text), 5))):
            events = [event("name", "mail"), *(event("arguments", piece) for piece in in_pieces(text, cuts))]
            poured = await pour([*events, ending(), DONE], rules=watched())
            assert poured.blocked and not poured.text("arguments")


@pytest.mark.parametrize("text", ["It is <HWKQZPT_48d2_9> I think.", "It is <HWKQZ> <PT_48d2_9> I think.", "So <HWKQZPT_48D2> 9"])
async def test_what_looks_like_a_placeholder_is_read(text: str) -> None:
    rules = watched(said("canary-hwkqzpt48d29"))
    assert "CANARY" in (await whole(text, rules)).blocked
    for mode in StreamMode:
        assert (await pour([event("content", text), ending(), DONE], mode=mode, rules=rules)).blocked


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


async def given(segments: list[Segment], rules: Rules | None = None) -> list[str]:
    """Return what the model is sent of these texts; fails if they are refused."""
    made = Inspection(inspectors(), FindingCache(b"k" * 32))
    asked = rules or starter_rules()
    result = await review(made, segments, asked, Direction.INBOUND, Scope("t", b"s"), float("inf"), Pseudonyms("k7f3"), Findings())
    assert not result.blocked, result.blocked
    return [result.texts.get(at, segment.text) for at, segment in enumerate(segments)]


KEY = f"canary-{MARK}8fk2p4wd5"


@pytest.mark.parametrize("label", ["secret: ", "Never say the password: ", "token=", "", "api_key=\\"])
@pytest.mark.parametrize("role", [Role.SYSTEM, Role.USER, Role.ASSISTANT])
@pytest.mark.parametrize("secrets", [Action.REDACT, Action.BLOCK])
async def test_a_mark_at_the_end_of_a_text_takes_nothing_of_the_next_with_it(label: str, role: Role, secrets: Action) -> None:
    rules = starter_rules()
    inbound = msgspec.structs.replace(rules.inbound, secrets=secrets, block_at={})
    rules = msgspec.structs.replace(rules, key=secrets.name.encode(), inbound=inbound)
    for filler in ("", "We answer what guests ask. " * 10):
        for texts in (
            [said(f"{filler}{label}{KEY}"), said("hello there", role)],
            [said("hello", role), said(f"{filler}{label}{KEY}"), said("Hi", role), said("there", role)],
            [said(f"{filler}{label}{KEY}"), said(KEY), said("x9 is what I mean", role)],
        ):
            assert await given(texts, rules) == [text.text for text in texts]


async def test_a_mark_beside_a_secret_hides_none() -> None:
    key = "sk-proj-" + "a8F3k2M9x7Q1" * 4
    for texts in (
        [said(f"secret: canary-{MARK}"), said(f"password: {key}", Role.USER)],
        [said(f"password: {key}", Role.USER), said(f"canary-{MARK}")],
        [said(f"canary-{MARK}, password: {key[:24]}"), said(key[24:], Role.USER)],
    ):
        assert key[24:] not in "".join(await given(texts))


async def test_a_mark_beside_pieces_of_a_secret_uncovers_none() -> None:
    draw = random.Random(3)
    signs = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
    for sizes in ((20, 80, 40), (10, 70, 30), (40, 30, 20), (100, 100, 10)):
        pieces = ["".join(draw.choice(signs) for _ in range(size)) for size in sizes]
        users = [said(f"my api_key: {pieces[0]}", Role.USER), said(pieces[1], Role.USER), said(pieces[2], Role.USER)]
        sent = {}
        for last in ("canary-2dke3y4fq455 is secret. Be kind.", "Be kind, and never say what is secret."):
            sent[last] = await given([said("You help."), *users, said(last)])
            assert sent[last][-1] == last or "canary" not in last
        with_mark, without = sent.values()
        assert with_mark[:-1] == without[:-1], sizes


def test_whatever_a_text_is_cut_into_the_same_marks_are_found_and_none_is_let_go_before() -> None:
    draw = random.Random(11)
    mark = "aab1aab2aab1"  # begins again within itself
    detector = watching(starter_rules(), [said(f"canary-{mark}")]).outbound.blocklist
    assert detector is not None
    needles = [mark, mark[::-1], *encoded(mark).values(), *encoded(mark.upper()).values()]
    whole = found = 0
    for _ in range(10_000):
        parts = []
        for _ in range(draw.randrange(1, 6)):
            needle = draw.choice(needles)
            begin = draw.choice([0, 0, 0, draw.randrange(len(needle))])
            piece = needle[begin : draw.choice([len(needle), draw.randrange(len(needle) + 1)])]
            parts.append(draw.choice(["", " ", ", "]).join(piece) if draw.random() < 0.4 else piece)
        text = draw.choice(["", " ", "\\n", "x", "\\", " " * draw.randrange(15, 19), "\uff01", "e\u0301"]).join(parts)
        spans = detector.scan(text)
        cut = draw.randrange(len(text) + 1)
        viable = detector.viable_from(text[:cut])
        assert all(not span.start < viable or span.end <= cut for span in spans), (text, cut)
        begun = draw.choice([0, viable])
        safe = [span for span in spans if span.start >= begun]
        if all(not span.start < begun < span.end for span in spans):
            assert detector.scan(text, begun) == safe, (text, begun)
        whole += 1
        found += bool(spans)
    assert whole // 3 < found < whole
