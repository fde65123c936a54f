"""Chat requests: what fits, what is refused and where it says so, which texts are named, what leaves."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from asked_bodies import chat, permit, user

from gateway.evidence import Role, Use, ValidRequest
from gateway.refusals import INVALID_REQUEST, Refusal
from gateway.schema.validate import Specs, replace, replace_all, validate

SPECS = Specs()
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\x00" * 30).decode()


def valid(body: dict[str, Any], **more: Any) -> ValidRequest:
    return validate(permit(body, **more), SPECS)


def refused(body: dict[str, Any], **more: Any) -> tuple[str | None, str]:
    with pytest.raises(Refusal) as caught:
        valid(body, **more)
    assert caught.value.kind is INVALID_REQUEST
    return caught.value.param, caught.value.message


def texts(request: ValidRequest) -> list[tuple[str, str, str]]:
    return [(segment.text, segment.role.value, segment.use.value) for segment in request.segments]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        (chat(hunter2=1), "$"),
        (chat(Messages=[]), "$"),
        (chat({**user("x"), "hunter2": 1}), "messages[0]"),
        (chat(user("x"), {"role": "user"}), "messages[1].content"),
        (chat({"role": "function", "name": "f", "content": "x"}), "messages[0].role"),
        (chat({"role": "hunter2", "content": "x"}), "messages[0].role"),
        (chat(user(5)), "messages[0].content"),
        (chat(user([])), "messages[0].content"),
        (chat(user([{"type": "text", "text": 5}])), "messages[0].content[0].text"),
        (chat(user([{"type": "video_url", "text": "x"}])), "messages[0].content[0].type"),
        (chat({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
        (chat({"role": "assistant"}), "messages[0].content"),
        (chat({"role": "assistant", "content": None}), "messages[0].content"),
        (chat(temperature=2.5), "temperature"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_tokens=1.5), "max_tokens"),
        (chat(max_tokens="5"), "max_tokens"),
        (chat(max_tokens=True), "max_tokens"),
        (chat(max_tokens=5, max_completion_tokens=5), "max_tokens"),
        (chat(stream_options={"include_usage": True}), "stream_options"),
        (chat(stop=["a"] * 5), "stop"),
        (chat(metadata={"hunter2": 5}), "metadata"),
        (chat(metadata={"hunter2": "x" * 513}), "metadata"),
        (chat(model="other"), "model"),
        (chat(tools=[{"type": "web_search"}]), "tools[0].function"),
        (chat(tools=[{"type": "custom", "custom": {"name": "hunter2"}}]), "tools[0].custom"),
        (chat(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools[0].function.name"),
        (chat(tools=[{"type": "function", "function": {"name": "gpt\n"}}]), "tools[0].function.name"),
        (chat(modalities=["text", "audio"]), "modalities"),
        (chat(service_tier="priority"), "service_tier"),
        (chat(reasoning_effort="hunter2"), "reasoning_effort"),
        (chat(n=17), "n"),
    ],
)
def test_refused_at_the_place_and_never_with_the_callers_words(body: dict[str, Any], param: str) -> None:
    got, message = refused(body)
    assert got == param
    assert "hunter2" not in message


@pytest.mark.parametrize("field", ["data_sources", "prompt_cache_key", "cache_salt", "api_base", "functions", "prompt_logprobs", "audio"])
def test_fields_known_elsewhere_are_refused_by_name_whatever_is_granted(field: str) -> None:
    every = {"logit_bias", "logprobs", "n", "store", "uninspected", "remote_media", "web_search_options", "data_sources", "hosted_tools"}
    assert refused(chat(**{field: "x"}), grants=every)[0] == field


@pytest.mark.parametrize(
    ("field", "value", "grant", "neutral"),
    [
        ("logit_bias", {"50256": -100}, "logit_bias", {}),
        ("logprobs", True, "logprobs", False),
        ("top_logprobs", 2, "logprobs", 0),
        ("n", 2, "n", 1),
        ("store", True, "store", False),
        ("web_search_options", {}, "web_search_options", None),
    ],
)
def test_fields_that_need_a_grant(field: str, value: Any, grant: str, neutral: Any) -> None:
    assert refused(chat(**{field: value}))[0] == field
    assert refused(chat(**{field: value}), grants={"other"})[0] == field
    assert valid(chat(**{field: value}), grants={grant}).body[field] == value
    assert field not in valid(chat(**{field: neutral})).body


def test_logit_bias_and_logprobs_are_never_taken_together() -> None:
    both = {"logit_bias", "logprobs"}
    assert refused(chat(logit_bias={"1": 1}, logprobs=True), grants=both)[0] == "logit_bias"


def test_logprobs_are_not_streamed() -> None:
    assert refused(chat(stream=True, logprobs=True), grants={"logprobs"})[0] == "logprobs"


def test_what_leaves_holds_no_identity_and_no_nulls() -> None:
    body = chat(user="bob@example.org", safety_identifier="bob", temperature=None, seed=4.0, service_tier="auto", modalities=["text"])
    assert valid(body).body == {"model": "assistant", "messages": [user("hello")], "seed": 4, "max_completion_tokens": 256}
    assert body["user"] == "bob@example.org", "the body asked with is not changed"


def test_default_and_cap_of_output() -> None:
    assert valid(chat()).output_tokens == 256
    assert valid(chat(), cap=100).body["max_completion_tokens"] == 100
    kept = valid(chat(max_tokens=20.0))
    assert (kept.body["max_tokens"], kept.output_tokens) == (20, 20)
    assert type(kept.body["max_tokens"]) is int
    assert "max_completion_tokens" not in kept.body
    assert valid(chat(max_completion_tokens=1024)).output_tokens == 1024
    assert refused(chat(max_completion_tokens=1025))[0] == "max_completion_tokens"
    assert refused(chat(max_tokens=1025))[0] == "max_tokens"
    assert valid(chat(n=3, max_tokens=10), grants={"n"}).output_tokens == 30


def test_streams_always_ask_for_usage_and_remember_who_wanted_it() -> None:
    plain = valid(chat(stream=True))
    asked = valid(chat(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}))
    assert plain.body["stream_options"] == asked.body["stream_options"] == {"include_usage": True}
    assert (plain.stream, plain.include_usage, asked.include_usage) == (True, False, True)
    whole = valid(chat(stream=False))
    assert not whole.stream
    assert "stream" not in whole.body
    assert "stream_options" not in whole.body


def test_every_role_and_part_is_named() -> None:
    request = valid(
        chat(
            {"role": "system", "content": "s1"},
            {"role": "developer", "content": [{"type": "text", "text": "s2"}], "name": "dev"},
            user([{"type": "text", "text": "u1"}, {"type": "text", "text": "u2"}], name="bob"),
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "a1"}, {"type": "text", "text": "a2"}]},
            {"role": "assistant", "content": None, "refusal": "a3", "reasoning_content": "a4"},
            {"role": "tool", "content": "t1", "tool_call_id": "c1"},
        )
    )
    assert texts(request) == [
        ("s1", "system", "content"),
        ("s2", "system", "content"),
        ("dev", "system", "label"),
        ("u1", "user", "content"),
        ("u2", "user", "content"),
        ("bob", "user", "label"),
        ("a1", "assistant", "content"),
        ("a2", "assistant", "content"),
        ("a3", "assistant", "content"),
        ("a4", "assistant", "content"),
        ("t1", "tool", "content"),
        ("c1", "tool", "label"),
    ]
    for segment in request.segments:
        node: Any = request.body
        for step in segment.path:
            node = node[step]
        assert node == segment.text


def call(arguments: str) -> dict[str, Any]:
    function = {"name": "find", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}


def test_tool_calls_are_named_and_their_arguments_are_strict_documents() -> None:
    request = valid(chat(call('{"who":"Ada"}')))
    assert texts(request) == [("c1", "assistant", "label"), ("find", "assistant", "label"), ('{"who":"Ada"}', "assistant", "arguments")]
    assert valid(chat(call(""))).body["messages"][0]["tool_calls"][0]["function"]["arguments"] == ""
    for hidden in ('{"a":"seen","a":"hidden"}', '{"a":1,"A":2}', "{'a':1}", '{"a":1} // x', "[NaN]"):
        assert refused(chat(call(hidden)))[0] == "messages[0].tool_calls[0].function.arguments"


def test_an_answer_put_back_into_the_history_loses_what_was_empty() -> None:
    empty = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    request = valid(chat(user("x"), {"role": "assistant", "content": "y", **empty}))
    assert request.body["messages"][1] == {"role": "assistant", "content": "y"}


def test_tools_are_read_key_by_key() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "patient": {"type": "string", "description": "who", "enum": ["Ada Lovelace"], "default": "Grace", "x-note": "ab"},
            "when": {"type": "array", "items": {"const": 1234567890123}},
        },
        "required": ["patient"],
        "$ref": "#/x",
    }
    function = {"name": "book", "description": "books", "parameters": parameters}
    request = valid(chat(tools=[{"type": "function", "function": function}], tool_choice="auto"))
    labels = [segment.text for segment in request.segments if segment.use is Use.LABEL]
    prose = [segment.text for segment in request.segments if segment.role is Role.SYSTEM and segment.use is Use.CONTENT]
    assert labels[0] == "book"
    assert set("\n".join(labels[1:]).split("\n")) == {"patient", "Ada Lovelace", "x-note", "ab", "when", "1234567890123", "#/x"}
    assert prose == ["books", "who", "Grace"]


@pytest.mark.parametrize("reference", ["http://169.254.169.254/x", "file:///etc/passwd", "other.json", ""])
def test_references_stay_inside(reference: str) -> None:
    function = {"name": "f", "parameters": {"properties": {"a": {"$ref": reference}}}}
    assert refused(chat(tools=[{"type": "function", "function": function}]))[0] == "tools[0].function.parameters"


def test_documents_are_bounded_together() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"enum": ["x"] * 9_000}}}
    assert valid(chat(tools=[tool] * 2))
    assert refused(chat(tools=[tool] * 3))[0] == "tools[2].function.parameters"


def test_the_other_texts_of_a_request() -> None:
    schema = {"name": "out", "description": "d", "schema": {"properties": {"city": {"title": "t"}}}}
    request = valid(
        chat(
            stop=["S1", "S2"],
            prediction={"type": "content", "content": [{"type": "text", "text": "P"}]},
            metadata={"key": "value"},
            response_format={"type": "json_schema", "json_schema": schema},
            tool_choice={"type": "function", "function": {"name": "pick"}},
        )
    )
    found = {segment.text for segment in request.segments}
    assert {"S1", "S2", "P", "key", "value", "out", "d", "t"} <= found
    assert {"city", "pick"} <= set("\n".join(found).split("\n"))


# --- media ---


def image(url: str) -> dict[str, Any]:
    return chat(user([{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]))


AT = "messages[0].content[0].image_url.url"


def test_images_need_the_grant_and_are_put_on_record() -> None:
    assert refused(image(PNG))[0] == AT
    assert valid(image(PNG), grants={"uninspected"}).uninspected == (AT,)


def data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    "url",
    [
        data("image/svg+xml", b"<svg onload=alert(1)>"),
        data("image/png", b"<svg onload=alert(1)>"),
        data("image/jpeg", b"\x89PNG\r\n\x1a\n"),
        data("image/webp", b"RIFX0000WEBP"),
        data("text/html", b"<script>"),
        data("image/png;charset=x", b"\x89PNG\r\n\x1a\n"),
        "data:image/png,rawdata",
        "data:image/png;base64,!!!!",
        PNG + "\n",
        "data:;base64,",
    ],
)
def test_images_are_what_they_say(url: str) -> None:
    assert refused(image(url), grants={"uninspected", "remote_media"})[0] == AT


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0", b"GIF89a", b"GIF87a", b"RIFF\x00\x00\x00\x00WEBPVP8 "])
def test_the_four_formats(content: bytes) -> None:
    kind = {b"\xff": "jpeg", b"G": "gif", b"R": "webp"}[content[:1]]
    assert valid(image(data(f"image/{kind}", content)), grants={"uninspected"}).uninspected


# CVE-2025-6242, CVE-2026-25960, CVE-2026-55245: addresses that a backend must never be sent to.
@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png",
        "https://169.254.169.254/latest/meta-data/",
        "https://127.0.0.1/x",
        "https://2130706433/x",
        "https://0x7f.1/x",
        "https://0177.0.0.1/x",
        "https://[::1]/x",
        "https://[::ffff:169.254.169.254]/x",
        "https://[64:ff9b::a9fe:a9fe]/x",
        "https://localhost/x",
        "https://metadata.google.internal/x",
        "https://service.namespace.svc/x",
        "https://printer.local/x",
        "https://100.64.0.1/x",
        "https://user@example.com/x",
        "https://example.com:8443/x",
        "https://example.com/x#y",
        "https://example.com/../x",
        "https://example.com\\@evil.com/x",
        "https://exa mple.com/x",
        "https://example.com/x\r\nHost: evil",
        "https://ｅxample.com/x",
        "file:///etc/passwd",
        "ftp://example.com/x",
        "gopher://example.com/x",
        "//example.com/x",
        "https://example.com." + "/x",
        "https://example.com/" + "x" * 3000,
    ],
)
def test_urls_a_backend_is_not_sent_to(url: str) -> None:
    assert refused(image(url), grants={"uninspected", "remote_media"})[0] == AT


def test_remote_media_needs_both_grants_and_its_url_is_read() -> None:
    url = "https://cdn.contoso.com/a/b.png?x=1"
    assert refused(image(url))[0] == AT
    assert refused(image(url), grants={"uninspected"})[0] == AT
    assert refused(image(url), grants={"remote_media"})[0] == AT
    request = valid(image(url), grants={"uninspected", "remote_media"})
    assert (url, "user", "label") in texts(request)


def test_audio_and_files() -> None:
    audio = chat(user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]))
    file = chat(user([{"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "cv Ada.pdf"}}]))
    for body, at in ((audio, "input_audio.data"), (file, "file.file_data")):
        assert refused(body)[0] == f"messages[0].content[0].{at}"
        assert valid(body, grants={"uninspected"}).uninspected == (f"messages[0].content[0].{at}",)
    assert ("cv Ada.pdf", "user", "label") in texts(valid(file, grants={"uninspected"}))
    by_id = chat(user([{"type": "file", "file": {"file_id": "file-1"}}]))
    with pytest.raises(Refusal):
        valid(by_id, grants={"uninspected"})


# --- writing back ---


def test_replace_shares_everything_beside_the_path() -> None:
    body = chat(user("a"), user([{"type": "text", "text": "b"}]))
    before = json.dumps(body)
    changed = replace(body, ("messages", 1, "content", 0, "text"), "B")
    assert json.dumps(body) == before
    assert changed["messages"][1]["content"][0]["text"] == "B"
    assert changed["messages"][0] is body["messages"][0]


def test_replace_all_and_a_path_to_nowhere() -> None:
    body = chat(user("a"), user("b"), stop="c")
    changed = replace_all(body, [(("messages", 0, "content"), "A"), (("messages", 1, "content"), "B"), (("stop",), "C")])
    assert [m["content"] for m in changed["messages"]] == ["A", "B"]
    assert changed["stop"] == "C"
    assert [m["content"] for m in body["messages"]] == ["a", "b"]
    with pytest.raises(ValueError, match="path"):
        replace(body, (), "x")
