"""What comes with a yes: the annotations of the permits that applied, merged into one set of obligations (XACML's word).

The strictest wins. A permit that is silent about something demands the default, so adding a permit never loosens an
obligation of another one. Grants are the exception by nature: one satisfied permit must give a grant, and none of them may
withhold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.evidence import Obligations, StreamMode

DEFAULT_CAP = 1024
DEFAULT_OUTPUT = 256
MAX_OUTPUT = 1_000_000  # no model answers longer; a larger figure is a slip of the key

# What is refused unless a policy grants it, and why it is refused.
GRANTS: Mapping[str, str] = {
    "content_capture": "keep prompts and answers, encrypted, where the user consented",
    "data_sources": "let the backend read attached search indexes that the gateway cannot inspect",
    "hosted_tools": "use tools that run at the backend, outside the gateway's sight",
    "logit_bias": "steer token probabilities; with logprobs it lets a caller copy a model, so the two are never granted together",
    "logprobs": "see token probabilities; they also carry text beside the answer",
    "moderation_scores": "see numeric moderation scores; they tell an attacker how near the threshold a text is",
    "n": "ask for several answers at once; each is inspected and paid for",
    "remote_media": "name images and files by URL, which the backend would fetch",
    "seed": "ask for repeatable sampling",
    "store": "let the backend keep the exchange",
    "uninspected": "send parts no inspector can read: images, audio, files, tensors",
    "web_search_options": "let the backend search the web with the prompt",
}

PERMIT_ANNOTATIONS = frozenset(
    {"profile", "tier", "output_tokens_cap", "output_tokens_default", "grant", "withhold", "stream_mode", "regions"}
)
ANNOTATIONS = frozenset({"id", "says", "owner", "tell", "requires_auth_context"}) | PERMIT_ANNOTATIONS


class Stated(msgspec.Struct, frozen=True, kw_only=True):
    """What one permit says. None and empty mean that it is silent, except `regions`, where None alone does."""

    profile: str | None = None
    tier: str | None = None
    output_tokens_cap: int | None = None
    output_tokens_default: int | None = None
    grants: frozenset[str] = frozenset()
    withheld: frozenset[str] = frozenset()
    stream_mode: StreamMode | None = None
    regions: frozenset[str] | None = None


class Standards(msgspec.Struct, frozen=True, kw_only=True):
    """What a silent permit demands, and which profile and tier is stricter than which (least strict first)."""

    profile: str
    tier: str
    profiles: tuple[str, ...]
    tiers: tuple[str, ...]
    strict_profiles: frozenset[str] = frozenset()  # profiles that judge a whole answer before any of it leaves


def _listed(value: str) -> frozenset[str]:
    return frozenset(part.strip() for part in value.split(",") if part.strip())


def _count(name: str, annotations: Mapping[str, str], problems: list[str]) -> int | None:
    value = annotations.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:8]) <= MAX_OUTPUT and len(value) <= 7):
        problems.append(f"@{name} must be a whole number from 1 to {MAX_OUTPUT}")
        return None
    return int(value)


def _named(name: str, annotations: Mapping[str, str], known: Sequence[str], file: str, problems: list[str]) -> str | None:
    value = annotations.get(name)
    if value is not None and value not in known:
        problems.append(f"@{name} names `{value}`, which {file} does not define")
        return None
    return value


def _granted(name: str, annotations: Mapping[str, str], problems: list[str]) -> frozenset[str]:
    if name not in annotations:
        return frozenset()
    names = _listed(annotations[name])
    if not names:
        problems.append(f"@{name} names nothing")
    problems.extend(f"@{name} names `{grant}`, which is no grant: known are {', '.join(GRANTS)}" for grant in sorted(names - GRANTS.keys()))
    return names & GRANTS.keys()


def read_stated(annotations: Mapping[str, str], standards: Standards, problems: list[str]) -> Stated:
    """Read a permit's annotations; what is wrong with them goes to `problems`."""
    cap = _count("output_tokens_cap", annotations, problems)
    default = _count("output_tokens_default", annotations, problems)
    if default is not None and default > (cap or DEFAULT_CAP):
        problems.append(f"@output_tokens_default is over the cap of {cap or DEFAULT_CAP}")
    grants = _granted("grant", annotations, problems)
    if {"logprobs", "logit_bias"} <= grants:
        problems.append("@grant gives logprobs and logit_bias together, which lets a caller copy the model")
    mode = annotations.get("stream_mode")
    if mode is not None and mode not in {m.value for m in StreamMode}:
        problems.append(f"@stream_mode is `{mode}`: use one of {', '.join(StreamMode)}")
        mode = None
    regions = _listed(annotations["regions"]) if "regions" in annotations else None
    if regions is not None and not regions:
        problems.append("@regions names nothing")
    return Stated(
        profile=_named("profile", annotations, standards.profiles, "content.toml", problems),
        tier=_named("tier", annotations, standards.tiers, "limits.toml", problems),
        output_tokens_cap=cap,
        output_tokens_default=default,
        grants=grants,
        withheld=_granted("withhold", annotations, problems),
        stream_mode=StreamMode(mode) if mode else None,
        regions=regions,
    )


def merge(stated: Iterable[Stated], standards: Standards) -> Obligations | None:
    """Merge what the satisfied permits state. None where their regions exclude one another: no backend could serve both."""
    permits = tuple(stated)
    cap = min((p.output_tokens_cap or DEFAULT_CAP for p in permits), default=DEFAULT_CAP)
    default = min((p.output_tokens_default or DEFAULT_OUTPUT for p in permits), default=DEFAULT_OUTPUT)
    profile = max((p.profile or standards.profile for p in permits), key=standards.profiles.index, default=standards.profile)
    tier = max((p.tier or standards.tier for p in permits), key=standards.tiers.index, default=standards.tier)
    given = frozenset().union(*(p.grants for p in permits)) - frozenset().union(*(p.withheld for p in permits))
    if "logprobs" in given:
        given -= {"logit_bias"}  # SECURITY: together they reveal a model's last layer (arXiv 2403.06634)
    regions: frozenset[str] | None = None
    for permit in permits:
        if permit.regions is not None:
            regions = permit.regions if regions is None else regions & permit.regions
    if regions is not None and not regions:
        return None
    modes = {p.stream_mode or StreamMode.WINDOW for p in permits}
    mode = StreamMode.ASYNC if modes == {StreamMode.ASYNC} else StreamMode.WINDOW  # every permit must ask to release at once
    if profile in standards.strict_profiles or StreamMode.STRICT in modes:
        mode = StreamMode.STRICT
    return Obligations(
        profile=profile,
        tier=tier,
        output_tokens_cap=cap,
        output_tokens_default=min(default, cap),
        grants=given,
        regions=regions,
        stream_mode=mode,
    )
