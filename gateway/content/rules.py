"""What a content profile asks for, in the form inspection runs on: plain data, compiled once a policy generation.

Made by the composition root from `policies/content.toml`; nothing here reads files. `Action` is ordered: the strictest of
several findings decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import msgspec

from gateway.content.cascade import CloudRules
from gateway.evidence import Role, Span
from gateway.ports import SpanDetector

HEADS = ("hate", "sexual", "violence", "self_harm", "harassment", "illicit", "harmful", "attack")

# The first step of the path of what is read over the borders of texts. SECURITY: no field of a body can bear a name with a control
# character in it, so no text of a body is ever taken for such a reading, which is judged by less.
READ_OVER = "\x1fborder"
BLOCKLIST = "BLOCKLIST"  # the entity type of listed phrases; blocked unless the profile says otherwise
CANARY = "CANARY"  # marks of the system prompt in an answer (`gateway.content.canaries`); blocked unless the profile says otherwise
NER_TYPES = frozenset({"PERSON", "LOCATION", "ORGANIZATION", "NRP"})


_LISTED = frozenset({BLOCKLIST, CANARY})
_NEVER_ALLOWED = frozenset({"SECRET", BLOCKLIST, CANARY})


class Action(IntEnum):
    """What a finding does, least to strictest."""

    ALLOW = 0
    RECORD = 1
    PSEUDONYMISE = 2
    REDACT = 3
    BLOCK = 4


class DirectionRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one profile in one direction."""

    entities: Mapping[str, Action]
    entity_default: Action
    secrets: Action
    block_at: Mapping[str, float]  # head -> calibrated score; a head that is absent never blocks
    record_at: Mapping[str, float]
    document_attack_block_at: float | None = None  # threshold of the attack head for tool and document texts
    smuggling: Action = Action.BLOCK
    blocklist: SpanDetector | None = None  # phrases and the customer's own recognizers
    allowed: frozenset[str] = frozenset()  # case-folded values that are no finding
    ner: bool = False
    languages: frozenset[str] = frozenset({"en"})
    unsupported_language: Action = Action.BLOCK
    on_error: Action = Action.BLOCK  # of an inspector: BLOCK refuses, ALLOW goes on with the local ones, RECORD goes on and flags the text
    second_opinion: bool = False  # a slower model is asked where the moderator is in doubt
    cloud: CloudRules | None = None  # what a remote moderator is asked; None: nothing
    deadline_s: float = 2.0

    def action_for(self, span: Span) -> Action:
        """Return what to do with one entity. SECRET has its own rule and is never restorable."""
        if span.type == "SECRET":
            return Action.REDACT if self.secrets is Action.PSEUDONYMISE else self.secrets
        if span.type in _LISTED:
            return self.entities.get(span.type, Action.BLOCK)
        return self.entities.get(span.type, self.entity_default)

    def passes(self, span: Span, text: str) -> bool:
        """Tell whether what the span covers is on an allowlist. A secret or a listed phrase never is."""
        return bool(self.allowed) and span.type not in _NEVER_ALLOWED and text[span.start : span.end].casefold() in self.allowed

    def blocked_heads(self, scores: Mapping[str, float], role: Role) -> list[str]:
        """Return the heads at or over their block threshold, in the order of `HEADS`."""
        hit = []
        for head, at in self.block_at.items():
            if head == "attack" and self.document_attack_block_at is not None and role in (Role.TOOL, Role.DOCUMENT):
                at = self.document_attack_block_at
            if scores.get(head, 0.0) >= at:
                hit.append(head)
        return hit

    def recorded_heads(self, scores: Mapping[str, float]) -> list[str]:
        return [head for head, at in self.record_at.items() if scores.get(head, 0.0) >= at]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """One content profile of one policy generation. `key` names both and goes into cache keys, as does what one request adds (`asked`)."""

    name: str
    key: bytes
    asked: bytes = b""
    inbound: DirectionRules
    outbound: DirectionRules
    restore: bool = False  # towards the caller, their own values come back in place of pseudonyms
