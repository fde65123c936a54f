"""What is said of findings, in the record and in Azure's shape."""

from __future__ import annotations

import pytest

from gateway.content.rules import Action
from gateway.content.stream import Findings
from gateway.content.verdicts import filter_result, prompt_filtered, severity, verdict


@pytest.mark.parametrize(("score", "word"), [(0.0, "safe"), (0.29, "safe"), (0.3, "low"), (0.5, "medium"), (0.8, "high"), (1.0, "high")])
def test_severities(score: float, word: str) -> None:
    assert severity(score) == word


def test_azures_categories_are_always_there_and_ours_beside_them() -> None:
    result = filter_result({"violence": 0.9, "hate": 0.1}, ["violence", "hate", "attack", "EMAIL_ADDRESS"])
    assert result == {
        "hate": {"filtered": True, "severity": "medium"},  # filtered as safe would contradict itself
        "sexual": {"filtered": False, "severity": "safe"},
        "violence": {"filtered": True, "severity": "high"},
        "self_harm": {"filtered": False, "severity": "safe"},
        "jailbreak": {"filtered": True, "detected": True},
        "email_address": {"filtered": True, "detected": True},
    }


def test_a_verdict_holds_numbers_and_names() -> None:
    findings = Findings()
    assert verdict(findings, ("a@1",)).action == "none"
    findings.note(Action.REDACT, "PERSON")
    findings.note(Action.RECORD, "attack")
    made = verdict(findings, ("a@1",), cached=True)
    assert (made.action, made.flagged, made.cached, made.detectors) == ("redact", ("PERSON", "attack"), True, ("a@1",))


def test_a_filtered_prompt_names_each_reason_once() -> None:
    refusal = prompt_filtered(Findings(), ["violence", "violence", "attack"], None)
    assert refusal.detail == "prompt: attack,violence" and refusal.param == "prompt"
