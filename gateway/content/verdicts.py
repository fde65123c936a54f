"""What is said of findings: the verdict for the record, and Azure's annotation shape for the caller.

Severity words follow the four-level scale; a calibrated score of 0.5 is the one-in-a-hundred false-positive point of the local
model, which is where "medium" begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.content.rules import Action
from gateway.content.stream import Findings
from gateway.evidence import Verdict
from gateway.refusals import CONTENT_FILTER, Refusal

_AZURE = {"hate": "hate", "sexual": "sexual", "violence": "violence", "self_harm": "self_harm"}


def severity(score: float) -> str:
    """Return safe, low, medium or high for a calibrated score."""
    if score < 0.3:
        return "safe"
    if score < 0.5:
        return "low"
    return "medium" if score < 0.8 else "high"


def filter_result(scores: Mapping[str, float], flagged: Iterable[str]) -> dict[str, Any]:
    """Return a `content_filter_result` object: Azure's four categories, jailbreak, and one object for each finding of ours."""
    hit = set(flagged)
    result: dict[str, Any] = {}
    for head, name in _AZURE.items():
        word = severity(scores.get(head, 0.0))
        result[name] = {"filtered": head in hit, "severity": "medium" if head in hit and word in ("safe", "low") else word}
    result["jailbreak"] = {"filtered": "attack" in hit, "detected": "attack" in hit}
    for name in sorted(hit - set(_AZURE) - {"attack"}):
        result[name.lower()] = {"filtered": True, "detected": True}
    return result


def verdict(findings: Findings, detectors: tuple[str, ...], *, degraded: bool = False, cached: bool = False) -> Verdict:
    """Return what is recorded of one direction."""
    return Verdict(
        entities=dict(findings.entities),
        scores=dict(findings.scores),
        flagged=tuple(sorted(findings.flagged)),
        action="none" if findings.action is Action.ALLOW else findings.action.name.lower(),
        detectors=detectors,
        degraded=degraded,
        cached=cached,
    )


def prompt_filtered(findings: Findings, blocked: Iterable[str], param: str | None) -> Refusal:
    """Return the refusal of a filtered prompt, in the shape Azure's clients and frameworks parse."""
    names = sorted(set(blocked))
    return Refusal(
        CONTENT_FILTER,
        message="The response was filtered due to the prompt triggering the gateway's content policy. Please modify your prompt and retry.",
        param=param or "prompt",
        inner={"code": "ResponsibleAIPolicyViolation", "content_filter_result": filter_result(findings.scores, names)},
        detail="prompt: " + ",".join(names),
    )
