"""The only maker of a screened request: what was inspected is what is serialised."""

from __future__ import annotations

import json
import math

import pytest
from inspection_fakes import ToyNames, inspection, rules, side, valid

from gateway.content.inbound import json_path, put, screen
from gateway.content.rules import Action, DirectionRules
from gateway.evidence import Role, ScreenedRequest, Use, ValidRequest
from gateway.refusals import CONTENT_FILTER, INSPECTION_UNAVAILABLE, Refusal


async def screened(
    request: ValidRequest, given: DirectionRules | None = None, *, restore: bool = False, names: ToyNames | None = None
) -> ScreenedRequest:
    return await screen(request, rules(given, restore=restore), inspection(names), nonce=lambda: "k7f3", deadline_s=math.inf)


async def test_the_payload_is_the_rewritten_body() -> None:
    prompt = await screened(valid(("to a@b ", Role.USER, Use.CONTENT), ("x", Role.SYSTEM, Use.CONTENT)))
    assert json.loads(prompt.payload) == {"messages": [{"content": "to <EMAIL_ADDRESS> "}, {"content": "x"}]}
    assert prompt.verdict.entities == {"EMAIL_ADDRESS": 1} and prompt.verdict.action == "redact"
    assert prompt.restorer is None


async def test_a_restorer_only_where_there_is_something_to_restore() -> None:
    one = valid(("to a@b", Role.USER, Use.CONTENT))
    assert (await screened(one, side(Action.PSEUDONYMISE), restore=True)).restorer is not None
    assert (await screened(valid(("to a@b", Role.SYSTEM, Use.CONTENT)), side(Action.PSEUDONYMISE), restore=True)).restorer is None
    assert (await screened(valid(("x", Role.USER, Use.CONTENT)), side(Action.PSEUDONYMISE), restore=True)).restorer is None
    assert (await screened(valid(("to a@b", Role.USER, Use.CONTENT)), side(Action.PSEUDONYMISE))).restorer is None


async def test_lookalikes_are_made_inert_before_anything_is_minted() -> None:
    prompt = await screened(valid(("a@b <EMAIL_ADDRESS_k7f3_1>", Role.USER, Use.CONTENT)), side(Action.PSEUDONYMISE), restore=True)
    assert json.loads(prompt.payload)["messages"][0]["content"] == "<EMAIL_ADDRESS_k7f3_1> &lt;EMAIL_ADDRESS_k7f3_1>"


async def test_lookalikes_in_documents_are_made_inert() -> None:
    prompt = await screened(valid(('{"x": "<PERSON_k7f3_1>"}', Role.TOOL, Use.ARGUMENTS)))
    assert "<PERSON" not in json.loads(prompt.payload)["messages"][0]["content"]


async def test_lookalikes_spelt_with_escapes_are_made_inert() -> None:
    prompt = await screened(valid(('{"x": "\\u003cPERSON_k7f3_1>"}', Role.TOOL, Use.ARGUMENTS)))
    assert json.loads(json.loads(prompt.payload)["messages"][0]["content"]) != {"x": "<PERSON_k7f3_1>"}


async def test_a_blocked_prompt_says_where_and_never_what() -> None:
    with pytest.raises(Refusal) as no:
        await screened(valid(("x", Role.USER, Use.CONTENT), ("such bad words", Role.USER, Use.CONTENT)))
    refusal = no.value
    assert refusal.kind is CONTENT_FILTER and refusal.param == "messages[1].content"
    assert refusal.inner and refusal.inner["content_filter_result"]["violence"] == {"filtered": True, "severity": "high"}
    assert refusal.verdict.action == "block" and refusal.verdict.flagged == ("violence",)
    assert "bad" not in refusal.message + refusal.detail + json.dumps(dict(refusal.inner))


async def test_a_label_is_not_pointed_at() -> None:
    with pytest.raises(Refusal) as no:
        await screened(valid(("a@b", Role.USER, Use.LABEL)))
    assert no.value.param == "prompt"


async def test_an_inspector_that_is_away_refuses() -> None:
    with pytest.raises(Refusal) as no:
        await screened(valid(("x", Role.USER, Use.CONTENT)), side(ner=True), names=ToyNames(away=True))
    assert no.value.kind is INSPECTION_UNAVAILABLE
    prompt = await screened(valid(("x", Role.USER, Use.CONTENT)), side(ner=True, on_error=Action.RECORD), names=ToyNames(away=True))
    assert prompt.verdict.degraded


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (("messages", 0, "content"), "messages[0].content"),
        (("messages", 0, "content", 1, "text"), "messages[0].content[1].text"),
        (("tools", 0, "function", "parameters", "my secret key"), "tools[0].function.parameters"),
        (("metadata", "my secret key"), "metadata"),
        (("prompt",), "prompt"),
        ((), ""),
    ],
)
def test_paths_end_before_keys_that_callers_choose(path: tuple[str | int, ...], shown: str) -> None:
    assert json_path(path) == shown


def test_put() -> None:
    body = {"a": [{"b": "old"}]}
    put(body, ("a", 0, "b"), "new")
    assert body == {"a": [{"b": "new"}]}
