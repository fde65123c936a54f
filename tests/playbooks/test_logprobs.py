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


def answer(*alternatives: str) -> list[bytes | Exception]:
    tokens = ["All", " is", " well", "."]
    entries = [
        {"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": other, "logprob": -3.0, "bytes": None}]}
        for token, other in zip(tokens, alternatives, strict=True)
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
