"""Content Safety through the real SDK against a service of ours over TLS: what is sent, how long it may take, and every way it can fail."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("azure.ai.contentsafety", reason="the azure extra is not installed")

from content_safety_emulator import ContentSafetyEmulator
from sdk_tokens import CountingCredential

from gateway.evidence import Role
from gateway.ports import Aspect, InspectorUnavailable, Judgement, Question, Secret, SecretMissing, Unjudgeable, UpstreamError
from gateway.providers.azure.content_safety import PROTECTED_LEAST, TRAINED, ContentSafety
from gateway.upstream.breaker import BreakerRules

HEADS = ("hate", "sexual", "violence", "self_harm")
FAULTS = ("unavailable", "patient", "internal", "refused", "garbage", "binary", "list", "empty", "nothing", "redirect", "throttled", "busy")


def ask(text: str, aspect: Aspect = Aspect.CATEGORIES, **more: Any) -> Question:
    heads = HEADS if aspect is Aspect.CATEGORIES else ()
    return Question(text=text, role=more.pop("role", Role.USER), aspects=frozenset({aspect}), heads=heads, **more)


def later(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


class Clock:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def service() -> Iterator[ContentSafetyEmulator]:
    with ContentSafetyEmulator() as running:
        yield running


@pytest.fixture
async def made(service: ContentSafetyEmulator) -> AsyncIterator[Any]:
    """Return a maker of clients that are closed at the end."""
    clients: list[ContentSafety] = []

    def make(credential: Any = None, **more: Any) -> ContentSafety:
        more = {"deadline_s": 2.0, "connection_verify": service.ca_file} | more
        clients.append(ContentSafety(service.url, credential or Secret(b"planted-key"), **more))
        return clients[-1]

    yield make
    service.stopping.set()  # a peer that hangs says no goodbye, and TLS waits for one
    for client in clients:
        await client.aclose()
    await asyncio.sleep(0.1)


async def test_what_is_asked_is_what_is_sent_and_no_more(service: ContentSafetyEmulator, made: Any) -> None:
    await made().judge([ask("hello hate4")], later())
    (request,) = service.seen
    categories = ["Hate", "Sexual", "Violence", "SelfHarm"]
    assert request.json() == {"text": "hello hate4", "categories": categories, "outputType": "FourSeverityLevels"}
    assert request.query == {"api-version": "2023-10-01"} and request.headers["ocp-apim-subscription-key"] == "planted-key"


async def test_blocklists_are_asked_for_by_name_and_told_by_name(service: ContentSafetyEmulator, made: Any) -> None:
    (found,) = await made().judge([ask("this is listed", blocklists=("codewords", "other"))], later())
    assert found.blocklists == ("codewords", "other")
    body = service.seen[0].json()
    assert body["blocklistNames"] == ["codewords", "other"] and body["haltOnBlocklistHit"] is False
    with pytest.raises(InspectorUnavailable, match="400 InvalidRequestBody"):
        await made().judge([ask("x", blocklists=("unknown",))], later())


async def test_the_strictest_piece_of_a_long_text_counts_and_a_word_across_the_cut_is_seen(
    service: ContentSafetyEmulator, made: Any
) -> None:
    text = "a" * 9_950 + " " + "b" * 44 + " violence6 " + "c" * 9_000 + " hate2 " + "d" * 6_000
    (found,) = await made().judge([ask(text)], later())
    assert found.severities == {"hate": 2, "sexual": 0, "violence": 6, "self_harm": 0}
    sent = [r.json()["text"] for r in service.seen]
    assert len(sent) == 3 and all(len(t) <= 10_000 for t in sent) and sum(map(len, sent)) == len(text) + 2 * 200


async def test_prompts_and_documents_are_shielded_apart(service: ContentSafetyEmulator, made: Any) -> None:
    roles = [Role.USER, Role.TOOL, Role.DOCUMENT, Role.SYSTEM, Role.ASSISTANT]
    found = await made().judge([ask(f"text {role} attack!", Aspect.ATTACK, role=role) for role in roles], later())
    assert all(j.attack for j in found)
    bodies = [r.json() for r in service.calls("shieldPrompt")]
    assert sorted(b["userPrompt"].split()[1] for b in bodies if b["userPrompt"]) == ["assistant", "system", "user"]
    (documents,) = [b["documents"] for b in bodies if b["documents"]]
    assert documents == ["text tool attack!", "text document attack!"]


async def test_documents_go_in_groups_of_five_and_ten_thousand_characters(service: ContentSafetyEmulator, made: Any) -> None:
    texts = ["short"] * 7 + ["x" * 6_000, "y" * 6_000, "z" * 9_990 + " attack! " + "z" * 9_000] + ["short attack!"]
    found = await made().judge([ask(text, Aspect.ATTACK, role=Role.TOOL) for text in texts], later())
    assert [j.attack for j in found] == [False] * 9 + [True, True]
    groups = [r.json()["documents"] for r in service.calls("shieldPrompt")]
    assert all(len(g) <= 5 and sum(map(len, g)) <= 10_000 for g in groups)
    assert max(len(g) for g in groups) == 5


async def test_protected_material_in_pieces_of_a_thousand_and_never_too_short(service: ContentSafetyEmulator, made: Any) -> None:
    aspect = Aspect.PROTECTED
    texts = ["too short lyrics", "w" * 2_500 + " lyrics " + "w" * 70, "w" * 1_700, "w" * (PROTECTED_LEAST - 1)]
    found = await made().judge([ask(text, aspect, role=Role.ASSISTANT) for text in texts], later())
    assert [j.protected for j in found] == [False, True, False, False]
    assert all(110 <= len(r.json()["text"]) <= 1_000 for r in service.seen) and len(service.seen) == 4 + 2


async def test_groundedness_needs_sources_and_says_what_the_question_was(service: ContentSafetyEmulator, made: Any) -> None:
    aspect, client = Aspect.GROUNDED, made()
    found = await client.judge(
        [ask("invented", aspect, sources=("one", "two"), query="what?"), ask("true " * 2_000, aspect, sources=("one",))], later()
    )
    assert [j.ungrounded for j in found] == [True, False]
    bodies = [r.json() for r in service.calls("detectGroundedness")]
    assert {"query": "what?"} in [b.get("qna") for b in bodies] and {b["task"] for b in bodies} == {"QnA", "Summarization"}
    for bad in ({}, {"sources": ("x" * 55_001,)}, {"sources": ("x",), "query": "q" * 7_501}):
        with pytest.raises(Unjudgeable):
            await client.judge([ask("text", aspect, **bad)], later())


@pytest.mark.parametrize("aspect", [Aspect.CATEGORIES, Aspect.ATTACK, Aspect.PROTECTED])
@pytest.mark.parametrize("fault", [*FAULTS, "hang"])
async def test_every_fault_is_unavailable_in_time_with_one_request_and_no_word_of_the_text(
    service: ContentSafetyEmulator, made: Any, fault: str, aspect: Aspect
) -> None:
    client = made(deadline_s=0.5)
    service.fault = fault
    began_s = time.monotonic()
    with pytest.raises(InspectorUnavailable) as no:
        await client.judge([ask("planted-text " * 10, aspect, role=Role.ASSISTANT)], later())
    assert time.monotonic() - began_s < 1.5
    assert len(service.seen) == 1, "the SDK does not try again by itself"
    told = str(no.value) + repr(no.value.__cause__) + str(no.value.args)
    assert "planted" not in told and "quotes" not in told


@pytest.mark.parametrize("fault", ["wrong", "null", "nine"])
async def test_an_answer_without_what_was_asked_for_is_never_harmless(service: ContentSafetyEmulator, made: Any, fault: str) -> None:
    service.fault = fault
    with pytest.raises(InspectorUnavailable, match="without a category that was asked for"):
        await made().judge([ask("hello")], later())


@pytest.mark.parametrize("what", ["number", "word", "object"])
async def test_matches_that_are_no_list_are_no_answer(service: ContentSafetyEmulator, made: Any, what: str) -> None:
    service.fault = f"{what} for matches"
    with pytest.raises(InspectorUnavailable, match="content safety"):
        await made().judge([ask("this is listed", blocklists=("codewords",))], later())


async def test_a_shield_that_answers_with_words_is_no_shield(service: ContentSafetyEmulator, made: Any) -> None:
    service.fault = "truth"
    for role in (Role.USER, Role.TOOL):
        with pytest.raises(InspectorUnavailable):
            await made().judge([ask("hello", Aspect.ATTACK, role=role)], later())


async def test_a_broken_connection_is_tried_once_more_and_no_third_time(service: ContentSafetyEmulator, made: Any) -> None:
    client = made()
    service.faults = ["closed"]
    assert await client.judge([ask("hate6")], later()) == [Judgement(severities={"hate": 6, "sexual": 0, "violence": 0, "self_harm": 0})]
    assert len(service.seen) == 2
    service.fault = "closed"
    with pytest.raises(InspectorUnavailable, match="cannot be reached"):
        await client.judge([ask("x")], later())
    assert len(service.seen) == 4


async def test_a_redirect_takes_no_text_elsewhere_and_a_proxy_sees_nothing(
    service: ContentSafetyEmulator, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    client = made()
    assert await client.judge([ask("x")], later())
    service.fault = "redirect"
    with pytest.raises(InspectorUnavailable, match="307"):
        await client.judge([ask("x")], later())


@pytest.mark.parametrize(("retry_after", "held_s"), [("throttled", 3.0), ("busy", 1.0)])
async def test_a_rate_limit_is_patience_and_no_fault(service: ContentSafetyEmulator, made: Any, retry_after: str, held_s: float) -> None:
    clock = Clock()
    client = made(mono_s=clock, breaker=BreakerRules(consecutive_faults=1))
    service.faults = [retry_after]
    with pytest.raises(InspectorUnavailable, match="429"):
        await client.judge([ask("x")], clock() + 10)
    with pytest.raises(InspectorUnavailable, match="asked for patience"):
        await client.judge([ask("x")], clock() + 10)
    assert len(service.seen) == 1, "while it asks for patience it is not asked"
    clock.ahead_s = held_s - 0.5
    with pytest.raises(InspectorUnavailable, match="asked for patience"):
        await client.judge([ask("x")], clock() + 10)
    clock.ahead_s = held_s + 0.5
    assert await client.judge([ask("x")], clock() + 10), "and the breaker never opened"


async def test_the_breaker_opens_after_faults_and_closes_by_one_probe(service: ContentSafetyEmulator, made: Any) -> None:
    clock = Clock()
    client = made(mono_s=clock, breaker=BreakerRules(consecutive_faults=3, open_s=5.0))
    service.fault = "unavailable"
    for _ in range(3):
        with pytest.raises(InspectorUnavailable, match="503"):
            await client.judge([ask("x")], clock() + 10)
    began_s = time.monotonic()
    with pytest.raises(InspectorUnavailable, match="left alone"):
        await client.judge([ask("x")], clock() + 10)
    assert time.monotonic() - began_s < 0.1 and len(service.seen) == 3
    service.fault = ""
    clock.ahead_s = 6.0
    assert await client.judge([ask("x")], clock() + 10)
    assert await client.judge([ask("x"), ask("y")], clock() + 10)


async def test_hangs_open_the_breaker_and_clients_that_leave_do_not(service: ContentSafetyEmulator, made: Any) -> None:
    client = made(deadline_s=0.2, breaker=BreakerRules(consecutive_faults=2))
    service.fault = "hang"
    for _ in range(4):
        leaving = asyncio.create_task(client.judge([ask("x")], later()))
        await asyncio.sleep(0.08)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    for _ in range(2):
        with pytest.raises(InspectorUnavailable, match="in time"):
            await client.judge([ask("x")], later())
    with pytest.raises(InspectorUnavailable, match="left alone"):
        await client.judge([ask("x")], later())


async def test_one_piece_without_an_answer_ends_the_others_and_leaves_nothing_behind(service: ContentSafetyEmulator, made: Any) -> None:
    client = made(concurrent=4)
    service.faults = ["unavailable"]
    service.delay_s = 0.2
    before = len(asyncio.all_tasks())
    with pytest.raises(InspectorUnavailable):
        await client.judge([ask("x" * 90_000)], later())
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    service.delay_s = 0.0
    assert await client.judge([ask("x" * 90_000)], later()), "every place was given back"


async def test_no_more_are_asked_at_once_than_settings_allow_and_few_wait(service: ContentSafetyEmulator, made: Any) -> None:
    client = made(concurrent=3, waiting=5, deadline_s=5.0)
    service.delay_s = 0.15
    outcomes = await asyncio.gather(*(client.judge([ask(f"n{n}")], later()) for n in range(20)), return_exceptions=True)
    refused = [o for o in outcomes if isinstance(o, InspectorUnavailable)]
    assert service.most_active <= 3 and len(refused) == 12 and all("too many" in str(o) for o in refused)


async def test_the_callers_deadline_bounds_it_too(service: ContentSafetyEmulator, made: Any) -> None:
    service.fault = "hang"
    began_s = time.monotonic()
    with pytest.raises(InspectorUnavailable, match="in time"):
        await made(deadline_s=30.0).judge([ask("x")], later(0.2))
    assert time.monotonic() - began_s < 1.0


async def test_a_replaced_key_is_used_from_then_on(service: ContentSafetyEmulator, made: Any) -> None:
    client = made()
    service.keys = {"planted-new"}
    with pytest.raises(InspectorUnavailable, match="401"):
        await client.judge([ask("x")], later())
    client.rekey(Secret(b"planted-new"))
    assert await client.judge([ask("x")], later())
    with pytest.raises(SecretMissing, match="a header cannot"):
        client.rekey(Secret(b"a\r\nx: y"))
    assert await client.judge([ask("x")], later())


async def test_an_identity_in_place_of_a_key(service: ContentSafetyEmulator, made: Any) -> None:
    credential = CountingCredential()
    client = made(credential, rejected=credential.forget)
    service.tokens = {"token-1"}
    assert await client.judge([ask("x")], later())
    assert credential.asked[0][0] == ("https://cognitiveservices.azure.com/.default",)
    assert "ocp-apim-subscription-key" not in service.seen[0].headers
    service.tokens = {"token-2"}
    with pytest.raises(InspectorUnavailable, match="401"):
        await client.judge([ask("x")], later())
    assert await client.judge([ask("x")], later()), "the token that was not taken is not shown again"

    class Refused(CountingCredential):
        async def get_token_info(self, *scopes: str, options: Any = None) -> Any:
            raise UpstreamError("credential", "the authority refused: invalid_client")

    with pytest.raises(InspectorUnavailable, match="no token: the authority refused"):
        await made(Refused()).judge([ask("x")], later())


async def test_nothing_of_texts_or_keys_is_logged(service: ContentSafetyEmulator, made: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = made(deadline_s=0.3)
    for fault in ("", "garbage", "unavailable", "hang"):
        service.fault = fault
        for aspect in (Aspect.CATEGORIES, Aspect.ATTACK):
            await asyncio.gather(client.judge([ask("planted-text", aspect)], later()), return_exceptions=True)
    text = "".join(r.getMessage() + str(vars(r)) for r in caplog.records)
    assert "contentsafety" in text and "planted" not in text


async def test_asking_once_tells_whether_it_can_be_asked(service: ContentSafetyEmulator, made: Any) -> None:
    assert await made().ready() == ""
    service.keys = set()
    assert "401" in await made().ready()


def test_the_languages_policy_checks_are_those_the_service_is_trained_for() -> None:
    from gateway.policy.cloud_moderation import CATEGORIES as IN_POLICY
    from gateway.policy.cloud_moderation import LANGUAGES
    from gateway.providers.azure.content_safety import CATEGORIES

    assert LANGUAGES == TRAINED and set(IN_POLICY) == set(CATEGORIES)
