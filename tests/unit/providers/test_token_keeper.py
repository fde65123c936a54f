"""The keeper alone, with a clock of the test's: waiting, bounds, what an answer must be, and when it is renewed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.azure.token_keeper import MAX_LIFE_S, Flights, NoToken, TokenKeeper, token_of

NOW = 1_800_000_000.0


def answer(**changes: Any) -> dict[str, Any]:
    return {"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 3600} | changes


async def test_nobody_waits_for_ever_and_a_late_answer_still_serves_the_next() -> None:
    release = threading.Event()

    def slow() -> dict[str, Any]:
        release.wait(5)
        return answer()

    keeper = TokenKeeper("b", Flights(), lambda: 0.5)
    with pytest.raises(NoToken, match="in time"):
        await keeper.get(slow, NOW, wait_s=0.05)
    release.set()
    assert (await keeper.get(slow, NOW)).headers == ((b"authorization", b"Bearer a.b.c"),)
    await keeper.aclose()


async def test_waiting_requests_for_tokens_are_bounded() -> None:
    release = threading.Event()

    def slow() -> dict[str, Any]:
        release.wait(5)
        return answer()

    flights = Flights(threads=1, limit=3)
    keepers = [TokenKeeper(str(n), flights, lambda: 0.5) for n in range(10)]
    asking = [asyncio.create_task(keeper.get(slow, NOW)) for keeper in keepers]
    await asyncio.sleep(0.05)
    release.set()
    got = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one).__name__ for one in got] == ["Token"] * 3 + ["NoToken"] * 7
    assert "too many" in str(got[-1])


async def test_an_error_nobody_foresaw_reaches_those_who_wait_and_nothing_is_stuck() -> None:
    def broken() -> dict[str, Any]:
        raise ZeroDivisionError

    keeper = TokenKeeper("b", Flights(), lambda: 0.5)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await keeper.get(broken, NOW)
    assert (await keeper.get(answer, NOW)).expires_at_s > NOW


@pytest.mark.parametrize(
    "wrong",
    [
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 7},
        {"access_token": "a b"},
        {"access_token": "a\r\nb"},
        {"access_token": "\u20ac"},
        {"access_token": "a" * 32_769},
        {"expires_in": 0},
        {"expires_in": -5},
        {"expires_in": None},
        {"expires_in": True},
        {"expires_in": "soon"},
        {"expires_in": MAX_LIFE_S + 1},
        {"expires_in": float("nan")},
        {"expires_in": float("inf")},
        {"token_type": "pop"},
        {"error": "invalid_client"},
    ],
)
def test_what_is_no_good_token_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(NoToken):
        token_of(answer(**wrong), NOW, 0.5)


def test_a_refusal_keeps_codes_and_nothing_else() -> None:
    told = {"error": "invalid_grant", "suberror": "consent_required", "error_codes": [65001, "x", -1], "error_description": "planted"}
    with pytest.raises(NoToken) as caught:
        token_of(told, NOW, 0.5)
    assert caught.value.why == "the authority refused: invalid_grant consent_required AADSTS65001"
    for strange in ({"error": "planted text"}, {"error": ["planted"]}, {"error": "PLANTED"}, {"error": "planted\n"}):
        with pytest.raises(NoToken) as caught:
            token_of(strange, NOW, 0.5)
        assert "planted" not in caught.value.why.lower() and caught.value.error == ""


@given(life_s=st.integers(1, MAX_LIFE_S), advised_s=st.none() | st.integers(-10, MAX_LIFE_S), draw=st.floats(0, 1, exclude_max=True))
def test_it_is_renewed_before_it_is_given_up_and_given_up_before_it_expires(life_s: int, advised_s: int | None, draw: float) -> None:
    token = token_of(answer(expires_in=life_s, refresh_in=advised_s), NOW, draw)
    assert NOW < token.renew_at_s < token.expires_at_s < NOW + life_s
    if life_s > 1000:
        assert NOW + life_s - token.expires_at_s >= 59.9
    assert "a.b.c" not in repr(token)
