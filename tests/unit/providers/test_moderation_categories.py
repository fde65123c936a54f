from __future__ import annotations

import pytest

from gateway.providers.local.moderation_categories import folded_severity, openai_categories, severity

OPENAI = {
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm", "self-harm/intent",
    "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
}


def test_names_are_openais_and_ours_for_attacks() -> None:
    flags, scores = openai_categories({})
    assert set(flags) == set(scores) == OPENAI | {"attack/jailbreak", "attack/injection"}
    assert not any(flags.values())


def test_a_threat_needs_both_heads() -> None:
    flags, scores = openai_categories({"harassment": 0.9, "violence": 0.4})
    assert flags["harassment"]
    assert not flags["harassment/threatening"]
    assert scores["harassment/threatening"] == 0.4


@pytest.mark.parametrize(("role", "name"), [("user", "attack/jailbreak"), ("document", "attack/injection"), ("tool", "attack/injection")])
def test_an_attack_is_named_by_who_speaks(role: str, name: str) -> None:
    flags, _ = openai_categories({"attack": 0.8}, role)
    assert [key for key, flag in flags.items() if flag] == [name]


@pytest.mark.parametrize(
    ("score", "exact", "folded"),
    [(0.0, 0, 0), (0.2, 1, 0), (0.3, 2, 2), (0.49, 3, 2), (0.5, 4, 4), (0.74, 5, 4), (0.76, 6, 6), (1.0, 7, 6)],
)
def test_severity(score: float, exact: int, folded: int) -> None:
    assert severity(score) == exact
    assert folded_severity(score) == folded
