"""How do the words of `content.toml` become the rules that inspection runs on? A translation, made once a generation and profile.

The two rooms do not know each other: policy reads and checks what people wrote, content acts on plain data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.content.blocklist import Blocklist
from gateway.content.cascade import Acts, CloudRules, Mode
from gateway.content.custom import CustomPattern, Together
from gateway.content.rules import Action, DirectionRules, Rules
from gateway.policy.cloud_moderation import CloudPolicy
from gateway.policy.content_profiles import ContentProfile, DirectionPolicy, EntityAction, OnInspectorError
from gateway.ports import SpanDetector

_ACTIONS = {
    EntityAction.ALLOW: Action.ALLOW,
    EntityAction.RECORD: Action.RECORD,
    EntityAction.PSEUDONYMISE: Action.PSEUDONYMISE,
    EntityAction.REDACT: Action.REDACT,
    EntityAction.BLOCK: Action.BLOCK,
}
_ON_ERROR = {OnInspectorError.BLOCK: Action.BLOCK, OnInspectorError.LOCAL: Action.ALLOW, OnInspectorError.ALLOW_FLAGGED: Action.RECORD}
_KEPT_GENERATIONS = 4


def cloud_rules(policy: CloudPolicy) -> CloudRules:
    """Translate what Azure AI Content Safety is asked."""
    return CloudRules(
        mode=Mode(policy.mode),
        block_at=dict(policy.block_at),
        record_at=dict(policy.record_at),
        uncertain=policy.uncertain,
        shield=Acts(policy.shield),
        protected=Acts(policy.protected_material),
        blocklists=policy.blocklists,
        eight_levels=policy.levels == 8,
    )


def own_detector(policy: DirectionPolicy, version: str) -> SpanDetector | None:
    """Return what a set brings to look for, None where it brings nothing."""
    detectors: list[SpanDetector] = []
    if policy.blocklist:
        detectors.append(Blocklist(policy.blocklist, version=version))
    for item in policy.recognizers:
        if item.phrases:
            detectors.append(Blocklist(item.phrases, version=version, kind=item.type))
        else:
            detectors.append(
                CustomPattern(
                    item.name,
                    item.type,
                    item.pattern,
                    item.longest,
                    score=item.score,
                    ignore_case=item.ignore_case,
                    whole_words=item.whole_words,
                    blanks=item.blanks,
                    version=version,
                )
            )
    if len(detectors) == 1:
        return detectors[0]
    return Together(detectors, version) if detectors else None


def direction_rules(policy: DirectionPolicy, *, ner_enabled: bool, second_opinion: bool = False, digest: str) -> DirectionRules:
    """Translate one direction. What settings switch off the rules do not ask for: the composition root says so in the log."""
    return DirectionRules(
        entities={type_: _ACTIONS[action] for type_, action in policy.entities.items()},
        entity_default=_ACTIONS[policy.entity_default],
        secrets=_ACTIONS[policy.secrets],
        block_at=dict(policy.block_at),
        record_at=dict(policy.record_at),
        document_attack_block_at=policy.document_attack_block_at,
        smuggling=_ACTIONS[policy.smuggling],
        blocklist=own_detector(policy, digest[:23]),
        allowed=policy.allowed,
        ner=policy.ner and ner_enabled,
        second_opinion=policy.second_opinion and second_opinion,
        languages=policy.languages,
        unsupported_language=_ACTIONS[policy.unsupported_language],
        on_error=_ON_ERROR[policy.on_inspector_error],
        cloud=cloud_rules(policy.cloud) if policy.cloud is not None else None,
        deadline_s=policy.deadline_s,
    )


def compile_rules(profile: ContentProfile, digest: str, *, ner_enabled: bool, second_opinion: bool = False) -> Rules:
    """Translate a profile of the generation `digest`. The last two say what settings allow."""
    return Rules(
        name=profile.name,
        key=f"{digest}/{profile.name}/{int(ner_enabled)}{int(second_opinion)}".encode(),
        inbound=direction_rules(profile.inbound, ner_enabled=ner_enabled, second_opinion=second_opinion, digest=digest),
        outbound=direction_rules(profile.outbound, ner_enabled=ner_enabled, second_opinion=second_opinion, digest=digest),
        restore=profile.restore,
    )


def rules_source(*, ner_enabled: bool, second_opinion: bool = False) -> Callable[[Any, str], Rules]:
    """Return `rules(generation, profile name)`; the rules of the last few generations are kept compiled."""
    compiled: dict[tuple[str, str], Rules] = {}

    def rules(generation: Any, name: str) -> Rules:
        key = (generation.digest, name)
        found = compiled.get(key)
        if found is None:
            profile = generation.profile(name)
            if len(compiled) >= _KEPT_GENERATIONS * 32:
                compiled.clear()
            found = compiled[key] = compile_rules(
                profile, generation.digest, ner_enabled=ner_enabled, second_opinion=second_opinion
            )
        return found

    return rules
