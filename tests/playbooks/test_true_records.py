"""What is recorded is what happened: whoever leaves, is denied, reports nothing or writes strange headers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from play import FakeInbound, FakeSink, Played, chat, nothing_is_held, play, someone, starter_policies, whole

from gateway.accounting.prices import settle_usage
from gateway.exchange import Exchange
from gateway.outcome import reported
from gateway.ports import ClientGone
from gateway.refusals import POLICY_DENIED, Refusal
from gateway.upstream.answer import UpstreamFiltered

JSON = ((b"content-type", b"application/json"),)


@pytest.mark.parametrize("gone", [ClientGone(), None])
async def test_who_is_known_and_leaves_before_asking_is_on_the_record(gone: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY: the answer to whether a stolen credential is good (`100 Continue` alone tells) was to be had without a trace."""

    async def leave(self: FakeInbound, max_bytes: int) -> bytes:
        assert gone is not None
        raise gone

    if gone is not None:
        monkeypatch.setattr(FakeInbound, "body", leave)
        played = await play()
    else:
        played = await play(leave_at="body")
    nothing_is_held(played)
    assert played.types == ["refused"]
    record = played.record("refused")
    assert (record["outcome"], record["status"], "refusal" in record) == ("client_gone", 0, False)
    assert record["subject"] and record["tenant"]


@pytest.mark.parametrize("step", ["reserve", "names"])
async def test_who_is_gone_before_anything_left_has_one_record(step: str) -> None:
    played = await play(leave_at=step)
    assert played.types == ["refused"]
    assert (played.record("refused")["decision"], played.record("refused")["outcome"]) == ("permit", "client_gone")


async def test_nobody_known_leaves_no_record() -> None:
    assert (await play(leave_at="authenticate")).types == []


async def test_a_denial_names_the_policies_it_was_decided_by() -> None:
    played = await play(chat("Hello.", model="restricted"), who=someone("analyst"))
    assert played.sink.status == 403
    record = played.record("refused")
    assert (record["decision"], record["policy_digest"]) == ("forbid", starter_policies().current.digest)
    assert isinstance(record["policy_ids"], list)


async def test_a_path_that_nobody_serves_was_decided_by_no_policy() -> None:
    record = (await play(path="/v1/nowhere")).record("refused")
    assert record["decision"] == "none" and "policy_digest" not in record


async def test_a_prompt_that_the_backend_filters_was_attempted() -> None:
    filtered = UpstreamFiltered(backend="one", model="m", attempts=2, categories={})
    closed = (await play(answer=filtered)).record("closed")
    assert (closed["backend"], closed["attempts"]) == ("one", 2)


@pytest.mark.parametrize("trace", [b"z" * 32, b"my card is 4111111111111111 okay".replace(b" ", b"x"), b"0" * 32, b"A" * 32])
async def test_a_trace_id_is_hex_or_none_at_all(trace: bytes) -> None:
    """SECURITY: else it is the caller's text in a record, and what cannot be read as a number ended the serving task."""
    traced: list[Exchange] = []
    headers = (*JSON, (b"traceparent", b"00-" + trace + b"-00f067aa0ba902b7-01"))
    played = await play(headers=headers, breaks={"span": traced.append})
    assert "client_trace" not in played.record("opened")
    assert [exchange.client_trace for exchange in traced] == [""]


async def test_a_good_trace_id_is_kept() -> None:
    headers = (*JSON, (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
    assert (await play(headers=headers)).record("opened")["client_trace"] == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("asked", [{}, {"prompt_tokens": 0}, {"prompt_tokens": -9}])
async def test_a_report_without_the_prompt_does_not_make_it_free(asked: dict[str, int]) -> None:
    played = await play(
        chat("Please tell me how to bake a loaf of bread. " * 12), whole("All is well.", {"completion_tokens": 12, **asked})
    )
    told = played.record("closed")["usage"]
    assert told["input_tokens"] > 100 and told["counted"]
    assert played.counters.settled[0] > 100


def test_what_is_counted_in_place_of_a_missing_report() -> None:
    assert settle_usage(reported({"completion_tokens": 3}), 500, 1, 4, 10).input_tokens == 500


async def moderated(**how: Any) -> Played:
    return await play({"input": "hello there"}, path="/v1/moderations", who=someone("developer"), **how)


async def test_an_answer_of_our_own_is_on_the_record() -> None:
    played = await moderated()
    assert played.sink.status == 200, played.sink.data
    digest = hashlib.sha256(played.sink.data).digest()
    closed, opened = played.record("closed"), played.record("opened")
    assert closed["answer_hmac"] == played.house.prints.content(opened["tenant"], digest)
    assert closed["outbound"]["detectors"] and closed["outbound"]["degraded"] is False
    body = json.dumps({"input": "hello there", "model": ""}, separators=(",", ":")).encode()
    assert opened["request_hmac"] == played.house.prints.content(opened["tenant"], body)


async def test_a_list_of_models_is_on_the_record() -> None:
    played = await play(b"", method="GET", path="/v1/models")
    digest = hashlib.sha256(played.sink.data).digest()
    assert played.record("closed")["answer_hmac"] == played.house.prints.content(played.record("opened")["tenant"], digest)


async def test_an_answer_that_nobody_was_there_for_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(self: FakeSink, status: int, headers: Any, data: bytes) -> None:
        raise ClientGone

    monkeypatch.setattr(FakeSink, "answer", nobody)
    for played in (await play(), await moderated()):
        closed = played.record("closed")
        assert (closed["outcome"], "refusal" in closed) == ("client_gone", False)
        nothing_is_held(played)
    assert closed["answer_hmac"] == ""


def test_a_refusal_names_policies_only_where_there_are_some() -> None:
    assert Refusal(POLICY_DENIED).policy_ids == ()
