"""Toy inspectors whose findings can be read off the text: `PII` words, `bad` for harm, names by list."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.content.inspect import FindingCache, Inspection, Inspectors
from gateway.content.rules import Action, DirectionRules, Rules
from gateway.evidence import (
    Asked,
    Dialect,
    Obligations,
    Operation,
    Permit,
    Role,
    Segment,
    Span,
    Use,
    ValidRequest,
)
from gateway.policy.testing import example_subject
from gateway.ports import InspectorUnavailable


class ToyScanner:
    name, version, left_context = "toy", "1", 8

    def __init__(self) -> None:
        self.seen: list[str] = []

    def scan(self, text: str, start: int = 0) -> list[Span]:
        self.seen.append(text)
        return [Span(m.start(), m.end(), "EMAIL_ADDRESS") for m in re.finditer(r"[a-z]+@[a-z]+", text) if m.start() >= start]

    def viable_from(self, text: str, start: int = 0) -> int:
        return len(text)


class ToyModerator:
    name, version = "toy-harm", "1"

    def score(self, text: str, role: Role) -> dict[str, float]:
        return {"violence": 0.9 if "bad words" in text else 0.0, "attack": 0.6 if "ignore all" in text else 0.0}

    def open(self, role: Role) -> object:
        raise NotImplementedError


class ToyNames:
    name, version = "toy-names", "1"

    def __init__(self, away: bool = False) -> None:
        self.away, self.calls = away, 0

    async def detect(self, texts: Sequence[str], deadline_s: float) -> list[list[Span]]:
        self.calls += 1
        if self.away:
            raise InspectorUnavailable("away")
        return [[Span(m.start(), m.end(), "PERSON", 0.9, "toy-names") for m in re.finditer("Anna", text)] for text in texts]


def inspection(names: ToyNames | None = None, scanner: ToyScanner | None = None, version: str = "1", capacity: int = 100) -> Inspection:
    scanner = scanner or ToyScanner()
    scanner.version = version
    inspectors = Inspectors(
        scanner=scanner, moderator=ToyModerator(), ner=names, views=lambda text: [text],  # type: ignore[arg-type]
        smuggling=lambda text: frozenset({"tags"} if "\U000e0041" in text else ()), language=lambda text: "xx" if "zzz" in text else "en",
    )  # fmt: skip
    return Inspection(inspectors, FindingCache(b"k" * 32, capacity))


def side(entity: Action = Action.REDACT, **more: object) -> DirectionRules:
    given: dict[str, object] = {
        "entities": {}, "entity_default": entity, "secrets": Action.REDACT, "block_at": {"violence": 0.7, "attack": 0.7},
        "record_at": {"attack": 0.4}, "document_attack_block_at": 0.5,
    }  # fmt: skip
    return DirectionRules(**{**given, **more})  # type: ignore[arg-type]


def rules(
    inbound: DirectionRules | None = None, outbound: DirectionRules | None = None, *, key: bytes = b"set/profile", restore: bool = False
) -> Rules:
    return Rules(name="profile", key=key, inbound=inbound or side(), outbound=outbound or side(), restore=restore)


def text(value: str, role: Role = Role.USER, use: Use = Use.CONTENT, *path: str | int) -> Segment:
    return Segment(path or ("messages", 0, "content"), value, role, use)


def valid(*segments: tuple[str, Role, Use]) -> ValidRequest:
    """A request whose i-th text stands at `messages[i].content`."""
    subject = example_subject(tenant="t", subject_id="s")
    body = {"messages": [{"content": value} for value, _, _ in segments]}
    asked = Asked(operation=Operation.CHAT, dialect=Dialect.OPENAI, model="m", body={}, body_bytes=2, stream=False, peer="")
    permit = Permit(
        subject=subject, asked=asked, route="m", roles=frozenset(), policy_ids=("p",), policy_digest="sha256:0",
        obligations=Obligations(profile="profile", tier="t"), generation=None,
    )  # fmt: skip
    named = tuple(Segment(("messages", i, "content"), value, role, use) for i, (value, role, use) in enumerate(segments))
    return ValidRequest(permit=permit, body=body, segments=named, stream=False, include_usage=False, input_tokens=1, output_tokens=1)
