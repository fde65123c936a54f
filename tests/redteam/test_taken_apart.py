"""A value taken apart where nobody reads the parts as one text: labels, lists and objects, escapes in prose, tokens beside the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from poured_streams import inspectors, starter_rules

from gateway.content.inspect import FindingCache, Inspection, Scope
from gateway.content.review import Review, review
from gateway.content.stream import Findings
from gateway.evidence import Direction, Operation, Role, Segment, Use
from gateway.schema.answers import alternatives, answer_segments, parse_answer

SECRET = "AKIA" + "Q3EXAMPLE7XK2MPL"
MAIL = "jane.roe@example.com"


async def look(*segments: Segment, direction: Direction = Direction.INBOUND, profile: str = "default") -> Review:
    inspection = Inspection(inspectors(), FindingCache(b"k" * 32))
    return await review(inspection, segments, starter_rules(profile), direction, Scope("t", b"s"), float("inf"), None, Findings())


def label(text: str, *path: str | int) -> Segment:
    return Segment(path or ("stop", 0), text, Role.DOCUMENT, Use.LABEL)


def document(value: Any) -> Segment:
    return Segment(("arguments",), json.dumps(value), Role.ASSISTANT, Use.ARGUMENTS)


@pytest.mark.parametrize("size", [3, 5, 9])
async def test_a_secret_over_several_labels_is_refused(size: int) -> None:
    pieces = [SECRET[at : at + size] for at in range(0, len(SECRET), size)]
    assert "SECRET" in (await look(*(label(piece, "stop", at) for at, piece in enumerate(pieces)))).blocked
    between = [
        s for at, piece in enumerate(pieces)
        for s in (label(piece, "tools", at, "function", "name"), label("object", "tools", at, "type"))
    ]
    assert "SECRET" in (await look(*between)).blocked, "labels of one kind, others between them"


async def test_a_listed_phrase_over_labels_is_refused() -> None:
    assert "BLOCKLIST" in (await look(*(label(word, "enum", at) for at, word in enumerate(["project", "bluebird", "prototype"])))).blocked


TOOLS = [
    "get_weather", "location", "unit", "celsius", "fahrenheit", "required", "object", "string", "user_id", "password", "token", "api_key",
    "=", ">=", "<", "==", "http_status", "400", "401", "403", "404", "429", "500", "502", "503", "4000", "4111", "4222", "4333", "5105",
    "https", "example.com", "@", "AND", "OR", "2024-01-01", "2025-12-31", "de", "GB", "82", "WEST", "secret", ":", "key", "sk", "bearer",
    "email", "phone_number", "iban", "card_number", "EUR", "USD", "A", "B",
]  # fmt: skip


async def test_ordinary_labels_pass() -> None:
    result = await look(*(label(name, "tools", at, "name") for at, name in enumerate(TOOLS)))
    assert result.blocked == []


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (["jane.roe@", "exam", "ple.com"], ["<EMAIL_ADDRESS>"] * 3),
        ({"a": "jane.roe@exam", "b": "ple.com", "n": 1}, {"a": "<EMAIL_ADDRESS>", "b": "<EMAIL_ADDRESS>", "n": 1}),
        ([SECRET[:7], SECRET[7:], "x y"], ["<SECRET>", "<SECRET>", "x y"]), ({SECRET[:9]: 1, SECRET[9:]: 2}, {}),
        (list(MAIL), ["<EMAIL_ADDRESS>"] * len(MAIL)),
    ],
    ids=["list", "object", "secret", "keys", "letters"],
)  # fmt: skip
@pytest.mark.parametrize("direction", Direction)
async def test_a_value_over_the_strings_of_a_document(value: Any, wanted: Any, direction: Direction) -> None:
    result = await look(document(value), direction=direction)
    assert result.blocked == [] and json.loads(result.texts[0]) == wanted


@pytest.mark.parametrize("parts", [[4111, 1111, 1111, 1111], ["4111", "1111", "1111", "1111"]])
async def test_a_card_over_the_items_of_a_list(parts: list[Any]) -> None:
    result = await look(document({"n": parts, "note": "as asked"}))
    assert "CREDIT_CARD" in result.texts[0] and "as asked" in result.texts[0] and "1111" not in result.texts[0]


@pytest.mark.parametrize(
    "value",
    [
        {"rows": [[1, 2, 3], [4, 5, 6]], "name": "Q3"}, [2019, 2020, 2021, 2022], {"to": "team", "subject": "hello", "n": 12},
        ["a@b", "see below"], {"url": "https://example.com/a", "next": "b"}, {"user": "admin", "role": "reader", "limit": 50},
    ],
)  # fmt: skip
async def test_ordinary_documents_are_not_touched(value: Any) -> None:
    result = await look(document(value))
    assert not result.blocked and not result.texts


async def test_neighbours_of_a_whole_value_keep_their_text() -> None:
    result = await look(document(["see jane.roe@example.com", "other"]))
    assert json.loads(result.texts[0]) == ["see <EMAIL_ADDRESS>", "other"]


@pytest.mark.parametrize(
    "spelt",
    ["jane.roe%2540example.com", "jane.roe%252540example%252ecom", "jane.roe&amp;#64;example.com", "jane.roe&amp;amp;commat;example.com",
     "jane.roe\\\\u0040example.com", "jane.roe\\\\\\\\u0040example.com", "jane.roe\\u0040example.com",
     "jane\\u002eroe@example\\u002ecom", "\\u006aane.roe@example.com", "jane.roe\\x40example.com"],
)  # fmt: skip
async def test_escapes_in_prose_hide_nothing(spelt: str) -> None:
    result = await look(Segment(("content",), f"Write to {spelt} today.", Role.ASSISTANT, Use.CONTENT), direction=Direction.OUTBOUND)
    assert "roe" not in result.texts[0] and "today" in result.texts[0]


def chat_answer(text: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop", "logprobs": {"content": entries}}
    return parse_answer(Operation.CHAT, json.dumps({"choices": [choice]}).encode(), model="m", logprobs=True)


def entry(token: str, octets: list[int] | None = None, *top: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.1, "bytes": octets, "top_logprobs": [{"token": t, "logprob": -2.0, "bytes": None} for t in top]}


def kept(answer: dict[str, Any]) -> bool:
    return answer["choices"][0]["logprobs"] is not None


def test_log_probabilities_of_the_text_are_kept() -> None:
    assert kept(chat_answer("Hi there", [entry("Hi"), entry(" there")]))
    assert kept(chat_answer("Hi 😀", [entry("Hi ", list(b"Hi ")), entry("\\xf0\\x9f", [0xF0, 0x9F]), entry("\\x98\\x80", [0x98, 0x80])]))


@pytest.mark.parametrize(
    "entries",
    [
        [entry("Hi"), entry(" there"), entry(" " + MAIL)], [entry("Hi")], [entry(MAIL), entry("Hi there")], [],
        [entry("Hi", list(b"Hi")), entry(MAIL, list(b" there"))], [entry("Hi"), entry(" there", list(b" you"))],
        [entry("Hi"), {**entry(" there"), "bytes": [0xFF]}],
    ],
)  # fmt: skip
def test_log_probabilities_of_anything_else_are_dropped(entries: list[dict[str, Any]]) -> None:
    assert not kept(chat_answer("Hi there", entries))


def test_those_of_completions() -> None:
    def made(tokens: list[str]) -> dict[str, Any]:
        choice = {"index": 0, "text": "Hi there", "logprobs": {"tokens": tokens, "token_logprobs": [-1.0], "text_offset": [0]}}
        return parse_answer(Operation.COMPLETIONS, json.dumps({"choices": [choice]}).encode(), model="m", logprobs=True)

    assert kept(made(["Hi", " there"])) and not kept(made(["Hi", " there", MAIL]))


def test_tokens_that_were_not_chosen_are_read_by_rank() -> None:
    answer = chat_answer("Hi there", [entry("Hi", None, "Hey", "jane.roe"), entry(" there", None, " you", "@example.com")])
    assert alternatives(answer) == ["Hey you", "jane.roe@example.com"]


def test_a_token_with_the_name_of_a_field() -> None:
    logprobs = {
        "tokens": ["Hi there"], "token_logprobs": [-1.0], "text_offset": [0], "top_logprobs": [{"top_logprobs": -1.0, "jane.roe": -2.0}],
    }  # fmt: skip
    raw = json.dumps({"choices": [{"index": 0, "text": "Hi there", "logprobs": logprobs}]}).encode()
    answer = parse_answer(Operation.COMPLETIONS, raw, model="m", logprobs=True)
    assert alternatives(answer) == ["top_logprobs", "jane.roe"]


KEYS = [SECRET, "4111-1111-1111-1111", "536-90-4399"]


@pytest.mark.parametrize("key", KEYS)
async def test_names_in_answers_of_plain_routes_are_read(key: str) -> None:
    scores = parse_answer(Operation.SCORE, json.dumps({"scores": [{"ok": 1}, {"label": {key: 0.5}}]}).encode(), model="m")
    tensors = {"outputs": [{"name": key, "datatype": "FP32", "shape": [1], "data": [0.5]}]}
    inferred = parse_answer(Operation.INFER, json.dumps(tensors).encode(), model="m")
    for operation, answer in ((Operation.SCORE, scores), (Operation.INFER, inferred)):
        result = await look(*answer_segments(operation, answer), direction=Direction.OUTBOUND)
        assert result.blocked and key in json.dumps(answer)


async def test_ordinary_names_in_answers_of_plain_routes_pass() -> None:
    answer = parse_answer(Operation.SCORE, json.dumps({"scores": [{"POSITIVE": 0.9, "label_1": 2}], "model_v2.1": 1}).encode(), model="m")
    assert not (await look(*answer_segments(Operation.SCORE, answer), direction=Direction.OUTBOUND)).blocked
    tensors = {"outputs": [{"name": name, "datatype": "INT64", "shape": [1], "data": [7]} for name in ("logits", "output__0", "dense_1:0")]}
    answer = parse_answer(Operation.INFER, json.dumps(tensors).encode(), model="m")
    assert not (await look(*answer_segments(Operation.INFER, answer), direction=Direction.OUTBOUND)).blocked


AROUND = {
    "alone": ([], []), "before": (["Good morning"], []), "after": ([], ["Thank you"]),
    "between": (["Good morning", "Please note it"], ["Thank you", "See you"]),
}  # fmt: skip


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("value", [SECRET, "4111 1111 1111 1111", "4111111111111111"])
async def test_a_value_over_messages_whatever_stands_around_it(value: str, around: str) -> None:
    """The text beside a border is no part of the value, and would make it another word."""
    before, after = AROUND[around]
    for first in range(2, len(value) - 2, 3):
        for second in (len(value), len(value) - 2):
            pieces = [value[:first], value[first:second], value[second:]]
            said = [*before, *(piece for piece in pieces if piece), *after]
            segments = [Segment(("messages", at, "content"), text, Role.USER, Use.CONTENT) for at, text in enumerate(said)]
            result = await look(*segments, profile="echo")
            given = [result.texts.get(at, text) for at, text in enumerate(said)]
            assert not any(text in given for text in pieces if len(text) > 3), (first, second)
            assert not result.blocked and value not in "".join(given)


async def test_a_secret_in_a_sentence_and_over_stop_sequences() -> None:
    said = ["My key is " + SECRET[:9], SECRET[9:], "Thanks for your help."]
    result = await look(*(Segment(("messages", at, "content"), text, Role.USER, Use.CONTENT) for at, text in enumerate(said)))
    assert result.texts == {0: "My key is <SECRET>", 1: "<SECRET>"}
    stop = [Segment(("stop", at), text, Role.USER, Use.CONTENT) for at, text in enumerate([SECRET[:9], SECRET[9:]])]
    result = await look(Segment(("messages", 0, "content"), "Say hello", Role.USER, Use.CONTENT), *stop)
    assert result.texts == {1: "<SECRET>", 2: "<SECRET>"}


async def test_short_messages_of_a_conversation_are_left_alone() -> None:
    said = ["hi", "Hello! How can I help?", "4 people, 2 rooms", "From the 12th?", "yes", "12 to 14", "ok, 2 nights", "how much?", "240"]
    result = await look(*(Segment(("messages", at, "content"), text, Role.USER, Use.CONTENT) for at, text in enumerate(said)))
    assert not result.blocked and not result.texts
