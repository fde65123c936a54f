"""Backends reached as somebody: who is asked for a credential, and what it means for the breaker when there is none."""

from __future__ import annotations

from typing import Any

import pytest
from faults.scripted_backend import OK, ScriptedBackend, answer
from faults.sent_request import SUBJECT, screened, soon

from gateway import refusals
from gateway.evidence import Subject
from gateway.ports import UpstreamError
from gateway.refusals import Refusal
from gateway.upstream.answer import Answer
from gateway.upstream.client import BackendClient
from gateway.upstream.forward import Forwarder
from gateway.upstream.route import Backend, Route


class Identity:
    """A `BackendCredential` under a test's control."""

    def __init__(self, *, personal: bool = False, fails: Exception | None = None) -> None:
        self.personal = personal
        self.fails = fails
        self.asked: list[tuple[Subject, Any]] = []
        self.rejections: list[Subject] = []
        self.closed = False

    async def headers(self, subject: Subject, caller: Any, now_s: float) -> tuple[tuple[bytes, bytes], ...]:
        assert now_s > 1_700_000_000
        self.asked.append((subject, caller))
        if self.fails is not None:
            raise self.fails
        return ((b"authorization", b"Bearer made-for-it"),)

    def rejected(self, subject: Subject, now_s: float) -> None:
        self.rejections.append(subject)

    async def ready(self, now_s: float) -> bool:
        return self.fails is None

    async def aclose(self) -> None:
        self.closed = True


def forwarder(urls: dict[str, str], identities: dict[str, Identity]) -> Forwarder:
    backends = tuple(Backend(name=name, base_url=url) for name, url in urls.items())
    return Forwarder(
        {"m": Route(name="m", backends=backends)},
        {name: BackendClient(url) for name, url in urls.items()},
        credentials=lambda backend: None if backend.name in identities else ((b"api-key", b"held"),),
        identities=identities,
        draw=lambda: 0.5,
    )


async def refused(to: Forwarder, **more: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await to.forward(screened(), deadline_s=soon(), **more)
    return caught.value


async def test_an_identity_is_asked_with_the_subject_and_the_callers_headers_and_a_key_is_not() -> None:
    caller = object()
    async with ScriptedBackend(OK) as backend:
        identity = Identity()
        to = forwarder({"b": backend.url}, {"b": identity})
        got = await to.forward(screened(), deadline_s=soon(), caller=caller)  # type: ignore[arg-type]
        assert isinstance(got, Answer)
        await got.aclose()
        assert identity.asked == [(SUBJECT, caller)]
        assert b"authorization: Bearer made-for-it\r\n" in backend.exchanges[0].head
        await to.aclose()
        assert identity.closed
    async with ScriptedBackend(OK) as backend:
        idle = Identity()
        to = forwarder({"k": backend.url}, {})
        got = await to.forward(screened(), deadline_s=soon(), caller=caller)  # type: ignore[arg-type]
        assert isinstance(got, Answer)
        await got.aclose()
        assert b"api-key: held\r\n" in backend.exchanges[0].head and idle.asked == []
        await to.aclose()


async def test_without_a_token_nothing_is_sent_and_the_breaker_stays_closed() -> None:
    async with ScriptedBackend(OK) as backend:
        identity = Identity(fails=UpstreamError("credential", "the authority refused: invalid_client"))
        to = forwarder({"b": backend.url}, {"b": identity})
        for _ in range(30):
            refusal = await refused(to)
            assert refusal.kind is refusals.BACKEND_UNAVAILABLE and refusal.message == refusals.BACKEND_UNAVAILABLE.message
            assert "no_credential" in refusal.detail
        assert backend.exchanges == [] and to.states() == {"b": "closed"}
        identity.fails = None
        got = await to.forward(screened(), deadline_s=soon())
        assert isinstance(got, Answer)
        await got.aclose()
        await to.aclose()


async def test_the_next_backend_is_tried_at_no_cost_to_the_retry_budget() -> None:
    async with ScriptedBackend(OK) as one, ScriptedBackend(OK) as two:
        to = forwarder({"a": one.url, "b": two.url}, {"a": Identity(fails=UpstreamError("credential", "x")), "b": Identity()})
        for _ in range(30):
            got = await to.forward(screened(), deadline_s=soon())
            assert isinstance(got, Answer) and got.backend == "b"
            await got.aclose()
        assert one.exchanges == []
        await to.aclose()


async def test_what_only_the_caller_can_cure_goes_to_the_caller_and_to_no_other_backend() -> None:
    async with ScriptedBackend(OK) as backend:
        told = Refusal(refusals.INVALID_TOKEN, challenge="Bearer x")
        to = forwarder({"a": backend.url, "b": backend.url}, {"a": Identity(personal=True, fails=told), "b": Identity()})
        for _ in range(30):
            assert await refused(to) is told
        assert backend.exchanges == [] and to.states()["a"] == "closed"
        await to.aclose()


@pytest.mark.parametrize(
    ("personal", "status", "kind", "state"),
    [
        (False, 401, refusals.BACKEND_UNAVAILABLE, "open"),
        (False, 403, refusals.BACKEND_UNAVAILABLE, "open"),
        (True, 401, refusals.BACKEND_UNAVAILABLE, "closed"),
        (True, 403, refusals.POLICY_DENIED, "closed"),
    ],
)
async def test_a_backend_that_does_not_take_a_person_is_well_one_that_does_not_take_us_is_not(
    personal: bool, status: int, kind: refusals.Kind, state: str
) -> None:
    async with ScriptedBackend(answer(status, b"{}")) as backend:
        identity = Identity(personal=personal)
        to = forwarder({"b": backend.url}, {"b": identity})
        first = await refused(to)
        assert first.kind is kind
        assert identity.rejections == ([SUBJECT] if status == 401 else [])
        for _ in range(30):
            await refused(to)
        assert to.states() == {"b": state}
        await to.aclose()


async def test_which_identities_have_a_token_is_told_by_name() -> None:
    to = forwarder({"a": "http://127.0.0.1:9", "b": "http://127.0.0.1:9"}, {"a": Identity(), "b": Identity(fails=UpstreamError("x"))})
    assert await to.ready_identities() == {"a": True, "b": False}
    await to.aclose()
