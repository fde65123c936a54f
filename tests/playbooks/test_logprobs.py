"""Log probabilities under a grant: what stands beside the text of an answer is held to the same rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from play import chat, play, someone
from policy_sets import LIMITS, small

from gateway.policy.facts import RouteFacts


class Sets:
    def __init__(self) -> None:
        permit = (
            '@id("p") @says("x") @owner("x") @grant("logprobs") '
            'permit (principal in Gateway::Role::"reader", action == Gateway::Action::"chat", resource);'
        )
        routes = {"assistant": RouteFacts(name="assistant", operations=frozenset({"chat.completions"}), data_class="internal")}
        wide = LIMITS.replace(b"tokens_per_minute = 10", b"tokens_per_minute = 100000")
        self.current = small(permit, routes=routes, limits_toml=wide)


def answer(*alternatives: str, octets: tuple[str, ...] = ()) -> list[bytes | Exception]:
    """`octets`: what the bytes beside the alternatives say, if not nothing."""
    tokens = ["All", " is", " well", "."]
    beside: list[Any] = [list(one.encode()) for one in octets] or [None] * len(alternatives)
    entries = [
        {"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": other, "logprob": -3.0, "bytes": raw}]}
        for token, other, raw in zip(tokens, alternatives, beside, strict=True)
    ]
    message = {"role": "assistant", "content": "All is well."}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": entries}}
    return [json.dumps({"id": "c", "choices": [choice]}).encode()]


@pytest.mark.parametrize(
    ("alternatives", "kept"),
    [(("Every", " was", " fine", "!"), True), (("jane", ".roe@", "example", ".com"), False), (("AKIA", "Q3EXAM", "PLE7X", "K2MPL"), False)],
    ids=["ordinary", "mail", "secret"],
)
async def test_what_the_tokens_not_chosen_say(alternatives: tuple[str, ...], kept: bool) -> None:
    asked: dict[str, Any] = chat("Please say hello.", logprobs=True, top_logprobs=1)
    played = await play(asked, answer(*alternatives), who=someone("reader"), breaks={"policies": Sets()})
    assert played.sink.status == 200, played.sink.data
    choice = played.json["choices"][0]
    assert choice["message"]["content"] == "All is well."
    assert (choice["logprobs"] is not None) is kept


ORDINARY, MAIL = ("Every", " was", " fine", "!"), ("jane", ".roe@", "example", ".com")


@pytest.mark.parametrize(("said", "octets", "kept"), [(ORDINARY, ORDINARY, True), (MAIL, ORDINARY, False), (ORDINARY, MAIL, False)])
async def test_tokens_and_their_bytes_are_both_read(said: tuple[str, ...], octets: tuple[str, ...], kept: bool) -> None:
    asked: dict[str, Any] = chat("Please say hello.", logprobs=True, top_logprobs=1)
    played = await play(asked, answer(*said, octets=octets), who=someone("reader"), breaks={"policies": Sets()})
    assert played.sink.status == 200, played.sink.data
    assert (played.json["choices"][0]["logprobs"] is not None) is kept
    assert b"example" not in played.sink.data
