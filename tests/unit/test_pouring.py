"""Which usage of a backend is believed. The pouring itself is played in tests/playbooks."""

from __future__ import annotations

import pytest

from gateway.outcome import Outcome, reported


@pytest.mark.parametrize(
    ("usage", "believed"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4)),
        ({"prompt_tokens": 3}, (3, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": "3", "completion_tokens": 4}, None),
        ({"prompt_tokens": 3.0, "completion_tokens": 4}, None),
        ({"prompt_tokens": True, "completion_tokens": 4}, None),
        ({"prompt_tokens": None, "completion_tokens": 4}, None),
        ({}, None),
        (None, None),
        ([3, 4], None),
    ],
)
def test_reports(usage: object, believed: tuple[int, int] | None) -> None:
    assert reported(usage) == believed


def test_an_outcome_starts_with_nothing() -> None:
    outcome = Outcome()
    assert (outcome.name, outcome.answered, outcome.reported) == ("", False, None)
