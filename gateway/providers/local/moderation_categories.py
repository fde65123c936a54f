"""How do the model's heads read in the vocabularies that clients know: OpenAI's categories, and severities of 0 to 7?

A finer category than a head knows is derived: the head's score where the text also scores on the head that makes it so, and zero
where nothing supports it. It must not claim more than the heads say; `sexual/minors` in particular is not detected by this model
and always reads as not flagged.
"""

from __future__ import annotations

from collections.abc import Mapping

FLAGGED = 0.5
_CATEGORIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harassment", ("harassment",)),
    ("harassment/threatening", ("harassment", "violence")),
    ("hate", ("hate",)),
    ("hate/threatening", ("hate", "violence")),
    ("illicit", ("illicit",)),
    ("illicit/violent", ("illicit", "violence")),
    ("self-harm", ("self_harm",)),
    ("self-harm/intent", ("self_harm",)),
    ("self-harm/instructions", ("self_harm", "illicit")),
    ("sexual", ("sexual",)),
    ("sexual/minors", ()),
    ("violence", ("violence",)),
    ("violence/graphic", ("violence",)),
)
_DAMPED = {"self-harm/intent": 0.9, "violence/graphic": 0.6}  # one head cannot tell the kind; the finer name stays below it


def openai_categories(scores: Mapping[str, float], role: str = "user") -> tuple[dict[str, bool], dict[str, float]]:
    """Return (flags, scores) under OpenAI's names and ours for attacks. A category of two heads has the lower of their scores.

    An attack is `attack/jailbreak` in the user's own text and `attack/injection` in a document's or a tool's.
    """
    values = {name: min((scores.get(head, 0.0) for head in heads), default=0.0) * _DAMPED.get(name, 1.0) for name, heads in _CATEGORIES}
    attack = scores.get("attack", 0.0)
    values["attack/jailbreak"] = attack if role in {"user", "assistant", "system"} else 0.0
    values["attack/injection"] = attack if role in {"document", "tool"} else 0.0
    return {name: value >= FLAGGED for name, value in values.items()}, values


def severity(score: float) -> int:
    """Return 0 to 7 for a calibrated score: 2 begins well below the blocking point of 0.5, which is 4."""
    if score < 0.5:
        return int(score / 0.125)
    return min(7, 4 + int((score - 0.5) / 0.125))


def folded_severity(score: float) -> int:
    """Return the severity on the four-level scale 0, 2, 4, 6."""
    return severity(score) // 2 * 2
