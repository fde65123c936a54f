"""Which of a backend's side notes pass, and in what form: usage, content filter results, log probabilities.

None of them is worth breaking an answer for: what does not fit is left out. Only numbers, booleans and words of closed sets
remain, log probabilities apart, whose tokens are the text once more and pass only under their own grant.
"""

from __future__ import annotations

from typing import Any

_USAGE_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
_USAGE = frozenset(_USAGE_FIELDS)
_USAGE_DETAILS = {
    "prompt_tokens_details": frozenset({"cached_tokens", "audio_tokens", "image_tokens", "text_tokens"}),
    "completion_tokens_details": frozenset(
        {"reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens", "text_tokens"}
    ),
}
_MAX_TOKENS = 2**40
_CATEGORIES = frozenset(
    {
        "hate",
        "sexual",
        "violence",
        "self_harm",
        "jailbreak",
        "indirect_attack",
        "profanity",
        "protected_material_text",
        "protected_material_code",
        "ungrounded_material",
        "custom_blocklists",
    }
)
_SEVERITIES = frozenset({"safe", "low", "medium", "high"})
_MAX_LOGPROBS = 65_536


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_TOKENS


def clean_usage(usage: Any) -> dict[str, Any] | None:
    """Return the token counts, or None if there are none."""
    if not isinstance(usage, dict):
        return None
    clean: dict[str, Any] = {}
    for name in _USAGE_FIELDS:
        value = usage.get(name)
        if type(value) is int and 0 <= value < _MAX_TOKENS:
            clean[name] = value
    if len(clean) == len(usage):
        return clean or None
    for name, known in _USAGE_DETAILS.items():
        details = usage.get(name)
        if isinstance(details, dict):
            clean[name] = {field: value for field, value in details.items() if field in known and _count(value)}
    return clean if _USAGE & clean.keys() else None


def clean_filters(results: Any) -> dict[str, Any] | None:
    """Return Azure's content filter results without citations, blocklist names and error texts."""
    if not isinstance(results, dict):
        return None
    clean: dict[str, Any] = {}
    for category, result in results.items():
        if category in _CATEGORIES and isinstance(result, dict):
            clean[category] = {
                name: value
                for name, value in result.items()
                if (name in {"filtered", "detected"} and type(value) is bool)
                or (name == "severity" and type(value) is str and value in _SEVERITIES)
            }
        elif category == "error" and result is not None:
            # The filter did not run: that must show, in our words.
            clean["error"] = {"code": "content_filter_error", "message": "The contents are not filtered"}
    return clean


def clean_prompt_filters(results: Any) -> list[dict[str, Any]] | None:
    """Return `prompt_filter_results`, one entry a prompt."""
    if not isinstance(results, list):
        return None
    return [
        {"prompt_index": one["prompt_index"], "content_filter_results": clean_filters(one.get("content_filter_results")) or {}}
        for one in results[:64]
        if isinstance(one, dict) and _count(one.get("prompt_index"))
    ]


def clean_offsets(offsets: Any) -> dict[str, int] | None:
    """Return Azure's `content_filter_offsets` of asynchronous filtering."""
    if not isinstance(offsets, dict):
        return None
    return {name: offsets[name] for name in ("check_offset", "start_offset", "end_offset") if _count(offsets.get(name))}


def clean_logprobs(logprobs: Any, chat: bool) -> dict[str, Any] | None:
    """Return log probabilities in the convention's shape, or None if they are not."""
    if not isinstance(logprobs, dict):
        return None
    if not chat:
        return _legacy(logprobs)
    clean: dict[str, Any] = {}
    for channel in ("content", "refusal"):
        entries = logprobs.get(channel)
        if isinstance(entries, list):
            clean[channel] = [_entry(one, True) for one in entries[:_MAX_LOGPROBS] if isinstance(one, dict)]
    return clean or None


def _entry(entry: dict[str, Any], deep: bool) -> dict[str, Any]:
    token, value, octets = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    clean: dict[str, Any] = {
        "token": token if isinstance(token, str) else "",
        "logprob": value if type(value) in {int, float} else 0.0,
        "bytes": octets if isinstance(octets, list) and all(type(one) is int and 0 <= one < 256 for one in octets) else None,
    }
    if deep:
        top = entry.get("top_logprobs")
        clean["top_logprobs"] = [_entry(one, False) for one in (top if isinstance(top, list) else ())[:20] if isinstance(one, dict)]
    return clean


def _legacy(logprobs: dict[str, Any]) -> dict[str, Any] | None:
    tokens, values, offsets = (logprobs.get(name) for name in ("tokens", "token_logprobs", "text_offset"))
    if not isinstance(tokens, list) or not isinstance(values, list) or not isinstance(offsets, list):
        return None
    top = logprobs.get("top_logprobs")
    return {
        "tokens": [one for one in tokens if isinstance(one, str)],
        "token_logprobs": [one for one in values if one is None or type(one) in {int, float}],
        "text_offset": [one for one in offsets if _count(one)],
        "top_logprobs": [
            {name: value for name, value in one.items() if type(value) in {int, float}}
            for one in (top if isinstance(top, list) else ())
            if isinstance(one, dict)
        ],
    }
