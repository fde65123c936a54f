"""Whole exchanges: what is recorded, sent, released and given back, in which order."""

from __future__ import annotations

import json
import logging

import pytest
from play import DONE, Played, chat, event, nothing_is_held, play, someone, streamed, whole

from gateway.ports import InspectorUnavailable, UpstreamError
from gateway.quickstart.canned import HOSTILE
from gateway.refusals import BACKEND_UNAVAILABLE, POLICY_DENIED, RATE_LIMITED, Refusal
from gateway.upstream.answer import UpstreamFiltered

MAIL = "margaret.hollingworth@example.com"


async def test_a_finished_answer_in_order() -> None:
    played = await play()
    assert played.effects == [
        "authenticate", "body", "reserve", "names", "opened", "opened durable", "forward", "chunk", "chunk 2", "names 2", "begin", "end",
        "close answer", "settle", "closed",
    ]  # fmt: skip
    nothing_is_held(played)
    assert played.sink.status == 200
    assert played.json["choices"][0]["message"]["content"] == "All is well."
    assert played.json["model"] == "assistant"  # the client's name for it, not the backend's
    closed = played.record("closed")
    assert closed["outcome"] == "finished" and closed["opened"] == 0
    assert closed["usage"] == {"input_tokens": 11, "output_tokens": 7, "counted": False}
    assert closed["cost_microusd"] == 11 + 14
    assert played.counters.settled == [18]


async def test_the_record_of_a_finished_answer_says_200() -> None:
    assert (await play()).record("closed")["status"] == 200


async def test_headers_of_an_answer() -> None:
    played = await play(who=someone("analyst"))
    assert played.sink.headers["x-audit-index"] == "0"
    assert played.sink.headers["x-request-id"]
    assert played.sink.headers["x-ratelimit-limit-requests"] == "20"
    assert played.sink.headers["x-ratelimit-remaining-requests"] == "19"
    assert int(played.sink.headers["content-length"]) == len(played.sink.data)


async def test_a_finished_stream_in_order() -> None:
    played = await play(chat("Please say hello.", stream=True), streamed("All ", "is ", "well."))
    nothing_is_held(played)
    before = ["authenticate", "body", "reserve", "names", "opened", "opened durable", "forward", "begin", "chunk"]
    assert played.effects[: len(before)] == before
    assert played.effects[-4:] == ["end", "close answer", "settle", "closed"]
    assert played.text == "All is well."
    assert played.endings == ["stop"]
    assert played.events[-1] == {}
    assert not any("usage" in e and e["usage"] for e in played.events)  # the client did not ask for it
    assert played.record("closed")["outcome"] == "finished"
    assert played.counters.settled == [18]


async def test_a_stream_with_usage_asked_for() -> None:
    asked = chat("Please say hello.", stream=True, stream_options={"include_usage": True})
    played = await play(asked, streamed("All is well."))
    assert played.events[-2]["usage"]["completion_tokens"] == 7
    assert played.events[-2]["choices"] == []


async def test_the_backend_is_always_asked_for_usage() -> None:
    played = await play(chat("Please say hello.", stream=True), streamed("All is well."))
    assert played.forwarder.sent[0]["stream_options"] == {"include_usage": True}


async def test_a_backend_without_usage_is_charged_by_our_count() -> None:
    played = await play(answer=whole("All is well. " * 20, usage=None))
    usage = played.record("closed")["usage"]
    assert usage["counted"] is True and usage["input_tokens"] > 0 and usage["output_tokens"] > 0
    assert played.counters.settled == [usage["input_tokens"] + usage["output_tokens"]]


async def test_a_report_of_nothing_is_not_believed() -> None:
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert (await play(answer=whole("All is well.", usage=zero))).record("closed")["usage"]["counted"] is True


async def test_a_blocked_prompt_never_leaves() -> None:
    played = await play(chat(HOSTILE))
    nothing_is_held(played)
    assert played.effects[-5:] == ["refused", "refused durable", "begin", "end", "settle"]
    assert "forward" not in played.effects and "opened" not in played.effects
    assert (played.sink.status, played.error["code"]) == (400, "content_filter")
    assert played.error["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    assert played.error["innererror"]["content_filter_result"]["violence"]["filtered"] is True
    assert played.error["param"] == "messages[0].content"
    record = played.record("refused")
    assert record["refusal"] == "content_filter" and record["inbound"]["action"] == "block"
    assert played.counters.settled == [0]


async def test_a_blocked_answer_is_withheld() -> None:
    played = await play(answer=whole(HOSTILE))
    nothing_is_held(played)
    choice = played.json["choices"][0]
    assert played.sink.status == 200 and choice["finish_reason"] == "content_filter"
    assert "kill" not in played.sink.data.decode()
    assert played.record("closed")["outcome"] == "blocked"
    assert played.record("closed")["outbound"]["action"] == "block"
    assert played.counters.settled == [11 + len(HOSTILE) // 8]  # the report says 7: less than so much text can be


async def test_a_blocked_stream_ends_with_content_filter() -> None:
    words = [word + " " for word in (HOSTILE * 3).split()]
    played = await play(chat("Please say hello.", stream=True), streamed(*words))
    nothing_is_held(played)
    assert played.endings == ["content_filter"]
    assert played.events[-1] == {}
    assert len(played.text) < len("".join(words))
    assert "bleed to death" not in played.text
    assert played.record("closed")["outcome"] == "blocked"
    assert played.effects.count("write") <= 1
    assert sum(e.startswith("chunk") for e in played.effects) < len(words)  # the rest was not even read


async def test_redaction_both_ways() -> None:
    played = await play(chat(f"Write to {MAIL} today.", model="echo"), whole(f"I wrote to {MAIL} today."))
    nothing_is_held(played)
    assert played.forwarder.sent[0]["messages"][0]["content"] == "Write to <EMAIL_ADDRESS> today."
    assert played.json["choices"][0]["message"]["content"] == "I wrote to <EMAIL_ADDRESS> today."
    assert played.record("opened")["inbound"]["entities"] == {"EMAIL_ADDRESS": 1}
    assert played.record("closed")["outbound"]["entities"] == {"EMAIL_ADDRESS": 1}
    assert MAIL not in b"".join(played.log.raw).decode()


async def test_redaction_across_chunk_borders() -> None:
    letters = list(f"I wrote to {MAIL} today and all is well.")
    played = await play(chat("Please say hello.", model="echo", stream=True), streamed(*letters))
    assert played.text == "I wrote to <EMAIL_ADDRESS> today and all is well."
    assert MAIL.encode() not in played.sink.data


async def test_restore() -> None:
    token = "<EMAIL_ADDRESS_k7f3_1>"
    played = await play(chat(f"Write to {MAIL} today.", model="echo-restore"), whole(f"I wrote to {token} today."))
    assert played.forwarder.sent[0]["messages"][0]["content"] == f"Write to {token} today."
    assert played.json["choices"][0]["message"]["content"] == f"I wrote to {MAIL} today."
    assert MAIL not in b"".join(played.log.raw).decode()


async def test_restore_in_a_stream() -> None:
    letters = list("I wrote to <EMAIL_ADDRESS_k7f3_1> today and all is well.")
    played = await play(chat(f"Write to {MAIL} today.", model="echo-restore", stream=True), streamed(*letters))
    assert played.text == f"I wrote to {MAIL} today and all is well."


async def test_a_pseudonym_typed_by_the_client_is_not_restored() -> None:
    asked = chat(f"{MAIL} is <EMAIL_ADDRESS_k7f3_1>", model="echo-restore")
    sent = (await play(asked, whole("ok"))).forwarder.sent[0]["messages"][0]["content"]
    assert sent == "<EMAIL_ADDRESS_k7f3_1> is &lt;EMAIL_ADDRESS_k7f3_1>"


@pytest.mark.parametrize(
    ("asked", "who", "status", "code"),
    [
        (chat("Hello.", model="restricted"), someone("analyst"), 403, "policy_denied"),
        (chat("Hello.", model="echo-open"), someone("analyst"), 403, "policy_denied"),
        (chat("Hello.", model="no-such-model"), someone("analyst"), 404, "DeploymentNotFound"),
        (chat("Hello."), someone(""), 404, "DeploymentNotFound"),
        (chat("Hello.", top_k=5), someone(), 400, "invalid_request_error"),
        (chat("Hello.", logit_bias={"5": 1}), someone(), 400, "invalid_request_error"),
        (chat("Hello.", max_tokens=1_000_000), someone(), 400, "invalid_request_error"),
        ({"messages": []}, someone(), 400, "invalid_request_error"),
        (b'{"model": "assistant", "model": "echo"}', someone(), 400, "invalid_json"),
        (b"nonsense", someone(), 400, "invalid_json"),
    ],
)
async def test_a_refusal_has_one_record_and_nothing_leaves(asked: object, who: object, status: int, code: str) -> None:
    played = await play(asked, who=who)  # type: ignore[arg-type]
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (status, code)
    assert played.types == ["refused"]
    assert played.record("refused")["refusal"] == code
    assert played.effects.index("refused durable") < played.effects.index("begin")
    assert played.forwarder.sent == [] and played.counters.settled == []
    assert "no-such-model" not in b"".join(played.log.raw).decode() + played.sink.data.decode()


async def test_no_credential_is_counted_and_not_recorded() -> None:
    played = await play(who=None)
    nothing_is_held(played)
    assert played.effects == ["begin", "end"]  # not a byte of the body was read
    assert (played.sink.status, played.types, played.summary) == (401, [], ["invalid_token"])
    assert played.sink.headers["www-authenticate"] == "Bearer"


async def test_an_unknown_path_is_told_only_to_those_known() -> None:
    assert (await play(path="/v1/nothing", who=None)).sink.status == 401
    assert (await play(path="/v1/nothing")).sink.status == 404
    assert (await play(method="GET")).sink.status == 405


async def test_the_rate_limit_is_reached_and_nothing_leaks() -> None:
    played = await play(who=someone("analyst"), times=21)
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(played.sink.headers["retry-after-ms"]) <= 3_000
    assert played.types.count("refused") == 1 and played.types.count("opened") == 20
    assert len(played.forwarder.sent) == 20


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Refusal(BACKEND_UNAVAILABLE, detail="connect"), 502, "backend_unavailable"),
        (Refusal(RATE_LIMITED, retry_after_s=2.0), 429, "rate_limit_exceeded"),
    ],
)
async def test_a_backend_that_says_no(fault: Refusal, status: int, code: str) -> None:
    played = await play(answer=fault)
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (status, code)
    assert played.types == ["opened", "closed"]
    assert played.record("closed")["refusal"] == code
    assert played.counters.settled == [0]


async def test_the_backends_own_filter() -> None:
    filtered = UpstreamFiltered(backend="one", model="m", attempts=1, categories={"hate": {"filtered": True, "severity": "high"}})
    played = await play(answer=filtered)
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (400, "content_filter")
    assert played.error["innererror"]["content_filter_result"]["hate"]["severity"] == "high"
    assert played.record("closed")["backend"] == "one"


@pytest.mark.parametrize(
    ("phase", "status", "body"),
    [("body", 502, None), ("timeout", 504, None), ("", 502, [b"<html>not json</html>"]), ("", 502, [b'{"choices": "no"}'])],
)
async def test_a_broken_answer_is_not_forwarded(phase: str, status: int, body: list[bytes] | None) -> None:
    played = await play(answer=body if body is not None else [b'{"id": "c', UpstreamError(phase, "secret words")])
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (status, "backend_unavailable")
    assert b"html" not in played.sink.data and b"secret" not in played.sink.data
    assert played.counters.settled[0] > 0  # the prompt was sent and consumed


@pytest.mark.parametrize("end", [[UpstreamError("body", "reset")], [], [b"data: not json\n\n"], [b'data: {"error": {"message": "x"}}\n\n']])
async def test_a_stream_that_breaks_ends_with_an_error_and_no_done(end: list[bytes | Exception]) -> None:
    text = "All is well with the world today, said the old man. "
    played = await play(chat("Please say hello.", stream=True), [event(text * 3), event("And then he wrote to anna@exam"), *end])
    nothing_is_held(played)
    assert played.sink.status == 200 and played.sink.ended
    assert played.events[-1]["error"]["code"] == "backend_unavailable"
    assert {} not in played.events
    assert b"anna@exam" not in played.sink.data  # what was still held is dropped, never flushed
    assert played.record("closed")["refusal"] == "backend_unavailable"
    assert played.counters.settled[0] > 0


async def test_bytes_after_done_are_not_released() -> None:
    played = await play(chat("Please say hello.", stream=True), [event("Well. "), DONE + event("More."), event("More.")])
    assert "More" not in played.text and played.events[-1] == {}


async def test_an_inspector_that_is_away_refuses_before_anything_leaves() -> None:
    played = await play(names_fault=InspectorUnavailable("the pool is full"))
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (503, "inspection_unavailable")
    assert played.sink.headers["x-should-retry"] == "false"
    assert played.types == ["refused"] and played.forwarder.sent == []


class AwayFor:
    """A names detector that answers `good` times, then is away."""

    name, version = "names", "0"

    def __init__(self, good: int) -> None:
        self.good = good

    async def detect(self, texts: list[str], deadline_s: float) -> list[list[object]]:
        self.good -= 1
        if self.good < 0:
            raise InspectorUnavailable("the pool is full")
        return [[] for _ in texts]


def with_names(played_with: AwayFor) -> dict[str, object]:
    from play import local_inspectors  # noqa: PLC0415

    from gateway.content.inspect import FindingCache, Inspection, Inspectors  # noqa: PLC0415

    i = local_inspectors()
    inspectors = Inspectors(
        scanner=i.scanner,
        moderator=i.moderator,
        ner=played_with,
        views=i.views,
        smuggling=i.smuggling,
        language=i.language,  # type: ignore[arg-type]
    )
    return {"inspection": Inspection(inspectors, FindingCache(b"k" * 32))}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_inspector_that_goes_away_releases_no_answer(stream: bool) -> None:
    text = "Margaret Hollingworth said that all is well with the world today. "
    answer = streamed(text) if stream else whole(text)
    played = await play(chat("Please say hello.", stream=stream), answer, breaks=with_names(AwayFor(1)))
    nothing_is_held(played)
    assert b"Margaret" not in played.sink.data and b"inspection_unavailable" in played.sink.data
    assert played.sink.status == (200 if stream else 503)
    assert played.record("closed")["refusal"] == "inspection_unavailable"


@pytest.mark.parametrize("how", [{"log_full": frozenset({"opened", "refused", "closed"})}, {"never_durable": frozenset({"opened"})}])
async def test_without_a_durable_intent_nothing_leaves(how: dict[str, frozenset[str]]) -> None:
    played = await play(log_full=how.get("log_full", frozenset()), never_durable=how.get("never_durable", frozenset()))
    nothing_is_held(played)
    assert played.forwarder.sent == []
    assert (played.sink.status, played.error["code"]) == (503, "audit_unavailable")
    assert played.counters.settled[0] == 0


async def test_a_refusal_that_cannot_be_recorded_is_503() -> None:
    played = await play(chat("Hello.", model="restricted"), log_full=frozenset({"refused"}))
    assert (played.sink.status, played.error["code"]) == (503, "audit_unavailable")
    assert "x-audit-index" not in played.sink.headers


async def test_a_closing_record_that_is_not_taken_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "gateway"):
        played = await play(log_full=frozenset({"closed"}))
    assert played.sink.status == 200 and played.counters.real.held() == 0
    assert "closing record not taken" in caplog.text


@pytest.mark.parametrize(("how", "code"), [("log", "audit_unavailable"), ("drain", "overloaded"), ("full", "overloaded")])
async def test_what_cannot_be_served_is_refused_at_once(how: str, code: str) -> None:
    played = await play(log_failed=how == "log", draining=how == "drain", max_exchanges=0 if how == "full" else 8)
    nothing_is_held(played)
    assert played.effects == ["begin", "end"]
    assert (played.sink.status, played.error["code"]) == (503, code)


async def test_a_stream_over_its_ceiling_is_cut() -> None:
    words = ["all is well and good "] * 400
    played = await play(chat("Please say hello.", stream=True, max_tokens=16), streamed(*words))
    nothing_is_held(played)
    assert played.endings == ["length"] and played.events[-1] == {}
    assert len(played.text) < 1_000
    assert played.record("closed")["outcome"] == "cut"
    assert played.forwarder.answers[0].closed == 1


class Broken:
    """Fails in a way nobody thought of."""

    def __getattr__(self, name: str) -> object:
        raise ZeroDivisionError("the secret prompt")


@pytest.mark.parametrize(("part", "types"), [("inspection", ["refused"]), ("policies", ["refused"]), ("forwarder", ["opened", "closed"])])
async def test_an_unknown_error_is_500_on_the_record(part: str, types: list[str], caplog: pytest.LogCaptureFixture) -> None:
    played = await play(breaks={part: Broken()})
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (500, "internal_error")
    assert played.types == types
    assert "ZeroDivisionError" in played.records[-1]["detail"]
    assert "secret" not in played.sink.data.decode() + b"".join(played.log.raw).decode() + caplog.text


async def test_records_hold_no_content() -> None:
    asked = chat("The purple walrus dances.", stop=["walrus-stop"])
    played = await play(asked, whole("A purple walrus answers."), who=someone(subject_id="walrus-id"))
    text = b"".join(played.log.raw).decode()
    assert played.sink.status == 200 and "walrus" not in text and "jti-1" not in text
    opened = played.record("opened")
    assert len(opened["subject"]) == 32 and len(opened["request_hmac"]) == 32 and len(played.record("closed")["answer_hmac"]) == 32


async def test_a_clients_trace_is_a_link() -> None:
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    opened = (await play(headers=((b"traceparent", trace),))).record("opened")
    assert opened["client_trace"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert opened["trace_id"] != opened["client_trace"]


async def test_models_are_those_one_may_use() -> None:
    played = await play(method="GET", path="/v1/models", who=someone("analyst"))
    nothing_is_held(played)
    names = {model["id"] for model in played.json["data"]}
    assert "assistant" in names and "restricted" not in names
    assert played.types == ["opened", "closed"] and played.forwarder.sent == []
    assert played.record("closed")["usage"] == {"input_tokens": 0, "output_tokens": 0, "counted": True}


def arguments_of(played: Played) -> object:
    return json.loads(played.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])


def calling(arguments: object) -> list[bytes | Exception]:
    call = {"id": "call_1", "type": "function", "function": {"name": "send", "arguments": json.dumps(arguments)}}
    return whole("", tool_calls=[call])


async def test_tool_arguments_of_an_answer_stay_json() -> None:
    played = await play(chat("Please say hello.", model="echo"), calling({"recipient ": f" {MAIL} ", "n": 1}))
    assert arguments_of(played) == {"recipient ": " <EMAIL_ADDRESS> ", "n": 1}


@pytest.mark.parametrize("arguments", [{"anna@example.com": MAIL}, {"n": 1, "to": MAIL}])
async def test_a_value_under_a_renamed_key_is_not_released(arguments: dict[str, object]) -> None:
    played = await play(chat("Please say hello.", model="echo"), calling(arguments))
    assert MAIL.encode() not in played.sink.data


async def test_a_key_beside_an_address_keeps_its_name() -> None:
    played = await play(chat("Please say hello.", model="echo"), calling({"to": MAIL, "n": 1}))
    assert arguments_of(played) == {"to": "<EMAIL_ADDRESS>", "n": 1}


SHORT_JAPANESE = "\u7206\u5f3e\u306e\u4f5c\u308a\u65b9"  # six characters are an instruction


async def test_a_short_prompt_in_a_script_no_detector_reads_never_leaves() -> None:
    played = await play(chat(SHORT_JAPANESE))
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (400, "content_filter")
    assert played.error["innererror"]["content_filter_result"]["unsupported_language"]["filtered"] is True
    assert "forward" not in played.effects


async def test_a_short_answer_in_a_script_no_detector_reads_is_withheld() -> None:
    played = await play(answer=whole(SHORT_JAPANESE))
    assert played.json["choices"][0]["finish_reason"] == "content_filter" and SHORT_JAPANESE not in played.sink.data.decode()
    poured = await play(chat("Please say hello.", stream=True), streamed(*SHORT_JAPANESE))
    assert poured.endings == ["content_filter"] and poured.text == ""


async def test_names_the_caller_made_up_are_an_hmac_and_a_length_in_the_record() -> None:
    played = await play(chat("hello", model="jane-roe-private"))
    record = played.record("refused")
    assert record["resource"] == "[unknown]" and [one["length"] for one in record["unknown"]] == [len("jane-roe-private")]
    again = (await play(chat("hello", model="jane-roe-private"))).record("refused")
    other = (await play(chat("hello", model="jane-roe-privates"))).record("refused")
    assert record["unknown"] == again["unknown"] != other["unknown"], "equal names are told to be equal, and no more"
    keys = await play(chat("hello", jane_roe=1, metadata={"a": "b"}))
    assert (keys.sink.status, keys.error["param"]) == (400, "$")
    assert [one["length"] for one in keys.record("refused")["unknown"]] == [len("jane_roe")]
    assert all("jane" not in raw for each in (played, keys) for raw in (each.sink.data.decode(), json.dumps(each.records)))


async def test_records_say_from_which_network_and_not_from_whom() -> None:
    record = (await play()).record("opened")
    assert (record["peer"], record["zone"]) == ("192.0.2.0/24", "external")


class OfNoTenant:
    """An authenticator that knows who it is, and that it is none of ours."""

    def credential(self, headers: object) -> str:
        return "credential"

    def cached(self, credential: str, now_s: int) -> None:
        return None

    async def authenticate(self, credential: str, now_s: int) -> None:
        raise Refusal(POLICY_DENIED, detail="tenant: no tenant rule matches")


async def test_who_is_authentic_and_of_no_tenant_is_refused_on_the_record() -> None:
    played = await play(breaks={"authenticator": OfNoTenant()})
    nothing_is_held(played)
    assert (played.sink.status, played.error["code"]) == (403, "policy_denied")
    record = played.record("refused")
    assert (record["refusal"], record["detail"]) == ("policy_denied", "tenant: no tenant rule matches")
    assert "tenant" not in record and "subject" not in record
    assert played.sink.headers["x-audit-index"] == "0" and played.summary == []
