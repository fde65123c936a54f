"""Unchanged `openai` clients: what works, which exception each refusal raises, and how often the SDK asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

from gateway.quickstart.demonstration import HARMFUL, INJECTION

SECRETISH = "Please write to jane.roe@example.com about it, or ask for card 4111 1111 1111 1111."


OPEN: list[OpenAI] = []


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def client(house: Any, who: str = "developer", base: str = "/v1", **more: Any) -> OpenAI:
    OPEN.append(OpenAI(base_url=house.url + base, api_key=house.token(who), **more))
    return OPEN[-1]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
def test_an_answer(house: Any, base: str) -> None:
    answer = client(house, base=base).chat.completions.create(model="assistant", messages=user("Hello"))
    assert answer.choices[0].finish_reason == "stop"
    assert len(answer.choices[0].message.content.split()) > 20
    assert answer.model == "assistant"
    assert answer.usage.total_tokens > 0


def test_raw_headers(house: Any) -> None:
    raw = client(house).chat.completions.with_raw_response.create(model="assistant", messages=user("Hello"))
    assert raw.headers["x-request-id"]
    assert int(raw.headers["x-audit-index"]) >= 0
    for what in ("limit", "remaining", "reset"):
        for unit in ("requests", "tokens"):
            float(raw.headers[f"x-ratelimit-{what}-{unit}"])


@pytest.mark.parametrize("deployment", [None, "assistant"])
def test_azure_client(house: Any, deployment: str | None) -> None:
    azure = AzureOpenAI(
        azure_endpoint=house.url, azure_ad_token=house.token("developer"), api_version="2024-10-21", azure_deployment=deployment
    )
    OPEN.append(azure)
    answer = azure.chat.completions.create(model="assistant", messages=user("Hello"))
    assert answer.choices[0].message.content


def test_redacted_both_ways(house: Any) -> None:
    text = client(house).chat.completions.create(model="echo", messages=user(SECRETISH)).choices[0].message.content
    assert "<EMAIL_ADDRESS>" in text and "<CREDIT_CARD>" in text
    assert "jane" not in text and "4111" not in text


def test_redacted_stream(house: Any) -> None:
    stream = client(house).chat.completions.create(model="leaky", messages=user("Who is it?"), stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert "<" in text
    assert "@" not in text


def test_restored_stream_equals_the_original(house: Any) -> None:
    stream = client(house).chat.completions.create(model="echo-restore", messages=user(SECRETISH), stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == SECRETISH


def test_record_only_profile_changes_nothing(house: Any) -> None:
    text = client(house, "loadtest").chat.completions.create(model="echo-open", messages=user(SECRETISH)).choices[0].message.content
    assert text == SECRETISH


async def test_async_stream(house: Any) -> None:
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.token("developer")) as async_client:
        stream = await async_client.chat.completions.create(model="echo", messages=user("a quiet line of text"), stream=True)
        parts = [c.choices[0].delta.content or "" async for c in stream if c.choices]
    assert "".join(parts) == "a quiet line of text"
    assert len(parts) > 2


def test_stream_helper_and_usage_only_when_asked(house: Any) -> None:
    one = client(house)
    plain = list(one.chat.completions.create(model="assistant", messages=user("Hello"), stream=True))
    assert not any(getattr(c, "usage", None) for c in plain)
    asked = list(
        one.chat.completions.create(model="assistant", messages=user("Hello"), stream=True, stream_options={"include_usage": True})
    )
    assert asked[-1].choices == [] and asked[-1].usage.completion_tokens > 0
    with one.chat.completions.stream(model="assistant", messages=user("Hello")) as stream:
        assert stream.get_final_completion().choices[0].message.content


@pytest.mark.parametrize("text", [HARMFUL, INJECTION])
def test_blocked_prompt(house: Any, text: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client(house).chat.completions.create(model="assistant", messages=user(text))
    assert caught.value.code == "content_filter"
    inner = caught.value.body["innererror"]
    assert inner["code"] == "ResponsibleAIPolicyViolation"
    assert any(v["filtered"] for v in inner["content_filter_result"].values())
    assert caught.value.request_id


def test_blocked_answer(house: Any) -> None:
    answer = client(house).chat.completions.create(model="hostile", messages=user("How was your day?"))
    assert answer.choices[0].finish_reason == "content_filter"
    assert not answer.choices[0].message.content


def test_blocked_stream(house: Any) -> None:
    chunks = list(client(house).chat.completions.create(model="hostile", messages=user("How was your day?"), stream=True))
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "content_filter"


@pytest.mark.parametrize(
    ("who", "model", "error"),
    [
        ("analyst", "restricted", openai.PermissionDeniedError),
        ("auditor", "assistant", openai.PermissionDeniedError),
        ("outsider", "assistant", openai.NotFoundError),
        ("developer", "nonsense", openai.NotFoundError),
    ],
)
def test_denials(house: Any, who: str, model: str, error: type[openai.APIStatusError]) -> None:
    with pytest.raises(error) as caught:
        client(house, who).chat.completions.create(model=model, messages=user("Hello"))
    assert caught.value.code in ("policy_denied", "DeploymentNotFound")
    assert "nonsense" not in json.dumps(caught.value.body)


def test_a_wrong_token(house: Any) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        with OpenAI(base_url=house.url + "/v1", api_key="wrong") as stranger:
            stranger.chat.completions.create(model="assistant", messages=user("Hello"))
    assert caught.value.code == "invalid_token"


def test_schema_refusal_names_the_place_and_not_the_text(house: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client(house).chat.completions.create(model="assistant", messages=user("Hello"), extra_body={"xyzzy_secret_key": 1})
    assert caught.value.code == "invalid_request_error"
    assert "xyzzy" not in json.dumps(caught.value.body)


@pytest.mark.parametrize("field", [{"logit_bias": {"50256": -100}}, {"logprobs": True}, {"n": 3}])
def test_what_needs_a_grant_is_refused(house: Any, field: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client(house).chat.completions.create(model="assistant", messages=user("Hello"), **field)
    assert caught.value.param == next(iter(field))


def test_models_lists_what_one_may_use(house: Any) -> None:
    analyst = {m.id for m in client(house, "analyst").models.list()}
    operator = {m.id for m in client(house, "operator").models.list()}
    assert "restricted" in operator - analyst
    assert {"assistant", "echo"} <= analyst
    assert "echo-open" not in analyst


def test_embeddings(house: Any) -> None:
    answer = client(house).embeddings.create(model="embed", input=["one", "two"])
    assert [len(d.embedding) for d in answer.data] == [256, 256]


def test_moderations(house: Any) -> None:
    answer = client(house).moderations.create(input=[INJECTION, "a quiet line"])
    assert answer.results[0].flagged
    assert not answer.results[1].flagged
    categories = answer.results[0].categories.model_dump(by_alias=True)
    assert categories["attack/jailbreak"] or categories["attack/injection"]


def test_tools_stream_stays_json(house: Any) -> None:
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "note", "parameters": parameters}}]
    chunks = client(house).chat.completions.create(
        model="echo", messages=user(SECRETISH), tools=tools, tool_choice={"type": "function", "function": {"name": "note"}}, stream=True
    )
    arguments = "".join(
        call.function.arguments or "" for c in chunks for choice in c.choices for call in choice.delta.tool_calls or []
    )
    said = json.loads(arguments)["text"]
    assert "<EMAIL_ADDRESS>" in said and "jane" not in said


def test_rate_limit_raises_and_says_when(house: Any) -> None:
    analyst = client(house, "analyst", max_retries=0)
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(60):
            analyst.chat.completions.create(model="assistant", messages=user("Hello"))
    assert float(caught.value.response.headers["retry-after"]) >= 1
    assert int(caught.value.response.headers["retry-after-ms"]) > 0
