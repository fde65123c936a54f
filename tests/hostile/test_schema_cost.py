"""A body that does not fit costs no more to refuse than one that fits costs to read: no request buys seconds of the event loop."""

from __future__ import annotations

import time
from typing import Any

import pytest
from asked_bodies import permit, user

from gateway.evidence import Operation
from gateway.refusals import Refusal
from gateway.schema.validate import Specs, validate

NUMBERS: list[Any] = [0.5] * 300_000

BODIES = {
    # Measured with the validator's own error report: 21 s of CPU.
    "a tensor with one string": (Operation.INFER, {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [*NUMBERS, "a"]}]}),
    "many messages, the last bad": (Operation.CHAT, {"messages": [user("x")] * 2_047 + [user([{"type": "text", "text": 5}] * 256)]}),
    "many messages, all bad": (Operation.CHAT, {"messages": [user([{"type": "text", "text": 5}] * 256)] * 2_048}),
    "many unknown keys": (Operation.CHAT, {"messages": [user("x")], **{f"k{number}": number for number in range(100_000)}}),
    "many tokens and a string": (Operation.EMBEDDINGS, {"input": [5] * 100_000 + ["a"]}),
    "many strings and a token": (Operation.EMBEDDINGS, {"input": ["a"] * 2_047 + [5]}),
}


@pytest.mark.parametrize("name", BODIES)
def test_refusing_is_cheap(name: str) -> None:
    operation, body = BODIES[name]
    asked = permit(body, operation, grants={"uninspected"})
    started = time.process_time()
    with pytest.raises(Refusal) as caught:
        validate(asked, Specs())
    spent_s = time.process_time() - started
    assert caught.value.param is not None
    assert spent_s < 0.5  # about 0.05 s on a quiet machine
