"""What is recorded, redacted and blocked: `content.toml` as plain data, by profile and direction.

Inspection itself is elsewhere. Profiles are ordered by strictness and the order is checked: a profile that stands later must do
at least as much as the one before it in every respect, or the set is refused as incomparable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise

import msgspec

from gateway.evidence import StreamMode
from gateway.policy.cloud_moderation import CloudPolicy, read_cloud, weaker_cloud
from gateway.policy.faults import Fault
from gateway.policy.limit_tiers import read_order
from gateway.policy.patterns import PatternUnfit, longest, may_hold_blanks
from gateway.policy.toml_table import Table, read_table

FILE = "content.toml"

HEADS = ("hate", "sexual", "violence", "self_harm", "harassment", "illicit", "harmful", "attack")
MAX_PHRASES = 10_000
MAX_PHRASE_WORDS = 16
MAX_RECOGNIZERS = 64
RESERVED = frozenset({"SECRET", "BLOCKLIST", "CANARY", "*"})  # types with rules of their own

_ENTITY = re.compile(r"[A-Z][A-Z0-9_]{1,63}|\*")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


class EntityAction(StrEnum):
    """What a finding does, from least to strictest."""

    ALLOW = "allow"
    RECORD = "record"
    PSEUDONYMISE = "pseudonymise"
    REDACT = "redact"
    BLOCK = "block"


class OnInspectorError(StrEnum):
    """What to do when an inspector cannot answer, from least to strictest."""

    ALLOW_FLAGGED = "allow_flagged"  # go on without it, and say so in the record
    LOCAL = "local"  # go on with the built-in inspectors
    BLOCK = "block"  # 503


_ACTIONS = tuple(EntityAction)
_RULE_ACTIONS = ("allow", "record", "block")


class CustomRecognizer(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's own entity: a pattern, or phrases."""

    name: str
    type: str
    pattern: str = ""
    longest: int = 0  # characters of a match at most
    blanks: bool = True  # whether a match may hold one
    ignore_case: bool = False
    whole_words: bool = True
    score: float = 0.9
    phrases: tuple[str, ...] = ()


class DirectionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one profile in one direction. Thresholds are calibrated scores from 0 to 1; a head that is absent never acts."""

    entities: Mapping[str, EntityAction]  # by Presidio's entity names, BLOCKLIST for listed phrases
    entity_default: EntityAction  # `*`
    secrets: EntityAction
    block_at: Mapping[str, float]
    record_at: Mapping[str, float]
    document_attack_block_at: float | None  # the attack head for tool results and documents
    smuggling: EntityAction  # Unicode tags, runs of variation selectors, bidi overrides
    blocklist: tuple[str, ...]  # phrases; found ones are entities of the type BLOCKLIST
    recognizers: tuple[CustomRecognizer, ...] = ()
    allowed: frozenset[str] = frozenset()  # values that are no finding, case-folded; never secrets or listed phrases
    ner: bool
    languages: frozenset[str]
    unsupported_language: EntityAction
    on_inspector_error: OnInspectorError
    deadline_s: float
    second_opinion: bool = False  # the small encoder is asked where the linear model is in doubt
    cloud: CloudPolicy | None = None  # what Azure AI Content Safety is asked, None where moderation is local


class ContentProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One profile. `restore` puts the caller's own values back in place of their pseudonyms in the answer."""

    name: str
    says: str
    restore: bool
    stream_mode: StreamMode
    inbound: DirectionPolicy
    outbound: DirectionPolicy


class ContentRules(msgspec.Struct, frozen=True, kw_only=True):
    """Every profile. `strictness` lists them from the least to the strictest."""

    default: str
    strictness: tuple[str, ...]
    profiles: Mapping[str, ContentProfile]


def _blocklists(root: Table, files: Mapping[str, bytes]) -> dict[str, tuple[str, ...]]:
    lists: dict[str, tuple[str, ...]] = {}
    for name, table in root.table("blocklists").tables():
        table.known("says", "phrases", "file")
        table.string("says")
        phrases = list(table.strings("phrases"))
        if "file" in table.data:
            path = table.string("file")
            content = files.get(path) if path.startswith("blocklists/") else None
            if content is None:
                table.fault(f"`{path}` is no file of this set under blocklists/", "file")
            else:
                lines = content.decode("utf-8", "replace").splitlines()
                phrases += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not phrases:
            table.fault(f"the blocklist `{name}` is empty")
        if len(phrases) > MAX_PHRASES or any(len(phrase.split()) > MAX_PHRASE_WORDS for phrase in phrases):
            table.fault(f"the blocklist `{name}` has over {MAX_PHRASES} phrases or one of over {MAX_PHRASE_WORDS} words")
        if any(not any(map(str.isalnum, phrase)) for phrase in phrases):
            table.fault(f"the blocklist `{name}` holds a phrase without letters or digits")
        lists[name] = tuple(phrases)
    return lists


def _recognizers(root: Table) -> dict[str, CustomRecognizer]:
    made: dict[str, CustomRecognizer] = {}
    for name, table in root.table("recognizers").tables():
        table.known("says", "type", "pattern", "phrases", "ignore_case", "whole_words", "score")
        table.string("says")
        kind = table.string("type")
        if not _ENTITY.fullmatch(kind) or kind in RESERVED:
            table.fault(f"`{kind}` is no name for an entity of your own: use capitals such as EMPLOYEE_NUMBER", "type")
        pattern, phrases = table.string("pattern", default=""), table.strings("phrases")
        if bool(pattern) == bool(phrases):
            table.fault(f"the recognizer `{name}` needs either a `pattern` or `phrases`")
        if any(not any(map(str.isalnum, phrase)) or len(phrase.split()) > MAX_PHRASE_WORDS for phrase in phrases):
            table.fault(f"each phrase must have a letter or digit and at most {MAX_PHRASE_WORDS} words", "phrases")
        size = 0
        if pattern:
            try:
                size = longest(pattern)
            except PatternUnfit as unfit:
                table.fault(f"the pattern of `{name}` {unfit}", "pattern")
        made[name] = CustomRecognizer(
            name=name,
            type=kind,
            pattern=pattern,
            longest=size,
            blanks=may_hold_blanks(pattern),
            ignore_case=table.boolean("ignore_case", default=False),
            whole_words=table.boolean("whole_words", default=True),
            score=table.number("score", 0.01, 1.0, default=0.9),
            phrases=phrases,
        )
    if len(made) > MAX_RECOGNIZERS:
        root.fault(f"there are over {MAX_RECOGNIZERS} recognizers", "recognizers")
    return made


def _allowlists(root: Table) -> dict[str, tuple[str, ...]]:
    lists: dict[str, tuple[str, ...]] = {}
    for name, table in root.table("allowlists").tables():
        table.known("says", "values")
        table.string("says")
        lists[name] = tuple(value.casefold() for value in table.strings("values", default=...))
        if len(lists[name]) > MAX_PHRASES:
            table.fault(f"the allowlist `{name}` has over {MAX_PHRASES} values")
    return lists


class _Own(msgspec.Struct, frozen=True):
    """What a set defines for its profiles to choose from."""

    lists: Mapping[str, tuple[str, ...]]
    recognizers: Mapping[str, CustomRecognizer]
    allowed: Mapping[str, tuple[str, ...]]


def _chosen(table: Table, key: str, known: Mapping[str, object], word: str) -> tuple[str, ...]:
    chosen = table.strings(key)
    for name in chosen:
        if name not in known:
            table.fault(f"there is no {word} `{name}`", key)
    return tuple(name for name in chosen if name in known)


def _entities(table: Table, outbound: bool) -> dict[str, EntityAction]:
    entities: dict[str, EntityAction] = {}
    for key in table.data:
        if not _ENTITY.fullmatch(key):
            table.fault(f'`{key}` is no entity name: use capitals such as EMAIL_ADDRESS, or "*" for all others', key)
        if key == "SECRET":
            table.fault("secrets have their own rule: use `secrets`", key)
        action = EntityAction(table.choice(key, _ACTIONS))
        if outbound and action is EntityAction.PSEUDONYMISE:
            table.fault("`pseudonymise` is for what users send: use `redact` for what models answer", key)
        entities[key] = action
    if "*" not in entities:
        table.fault('"*" is missing: say what happens to entities that are not named')
    return entities


def _thresholds(table: Table) -> dict[str, float]:
    table.known(*HEADS, "attack_in_documents")
    return {key: table.number(key, 0.0, 1.0) for key in table.data if key in HEADS or key == "attack_in_documents"}


def _languages(table: Table) -> frozenset[str]:
    languages = table.strings("languages", default=...)
    for language in languages:
        if not _LANGUAGE.fullmatch(language):
            table.fault(f"`{language}` is no language code such as `en`", "languages")
    return frozenset(languages)


def _direction(table: Table, own: _Own, outbound: bool) -> DirectionPolicy:
    table.known(
        "entities", "secrets", "block_at", "record_at", "smuggling", "blocklists", "recognizers", "allowlists", "ner", "languages",
        "unsupported_language", "on_inspector_error", "deadline_ms", "moderation", "azure",
        "second_opinion",
    )  # fmt: skip
    entities = _entities(table.table("entities"), outbound)
    chosen = _chosen(table, "blocklists", own.lists, "blocklist")
    recognizers = tuple(own.recognizers[name] for name in _chosen(table, "recognizers", own.recognizers, "recognizer"))
    allowed = frozenset(value for name in _chosen(table, "allowlists", own.allowed, "allowlist") for value in own.allowed[name])
    if chosen and "BLOCKLIST" not in entities:
        entities["BLOCKLIST"] = EntityAction.BLOCK
    if outbound:
        entities.setdefault("CANARY", EntityAction.BLOCK)
    block_at = _thresholds(table.table("block_at"))
    record_at = _thresholds(table.table("record_at"))
    if record_at.pop("attack_in_documents", None) is not None:
        table.table("record_at").fault("`attack_in_documents` belongs to `block_at` alone", "attack_in_documents")
    for head in sorted(block_at.keys() & record_at.keys()):
        if record_at[head] > block_at[head]:
            table.fault(f"`{head}` is recorded only above the score that blocks it", "record_at", head)
    languages = _languages(table)
    return DirectionPolicy(
        cloud=read_cloud(table, block_at, languages, outbound=outbound),
        entity_default=entities.pop("*", EntityAction.BLOCK),
        entities=entities,
        secrets=EntityAction(table.choice("secrets", [a for a in _ACTIONS if a is not EntityAction.PSEUDONYMISE])),
        document_attack_block_at=block_at.pop("attack_in_documents", None),
        block_at=block_at,
        record_at=record_at,
        smuggling=EntityAction(table.choice("smuggling", _RULE_ACTIONS)),
        blocklist=tuple(dict.fromkeys(phrase for name in chosen for phrase in own.lists[name])),
        recognizers=recognizers,
        allowed=allowed,
        ner=table.boolean("ner"),
        languages=languages,
        unsupported_language=EntityAction(table.choice("unsupported_language", _RULE_ACTIONS, default="block")),
        on_inspector_error=OnInspectorError(table.choice("on_inspector_error", tuple(OnInspectorError), default="block")),
        deadline_s=table.integer("deadline_ms", 10, 60_000) / 1000,
        second_opinion=table.boolean("second_opinion", default=False),
    )


def _profile(name: str, table: Table, own: _Own) -> ContentProfile:
    table.known("says", "restore", "stream_mode", "inbound", "outbound")
    restore = table.boolean("restore", default=False)
    for part in ("inbound", "outbound"):
        if part not in table.data:
            table.fault(f"the profile `{name}` says nothing about {part} text")
    inbound = _direction(table.table("inbound"), own, outbound=False)
    outbound = _direction(table.table("outbound"), own, outbound=True)
    mode = StreamMode(table.choice("stream_mode", (StreamMode.WINDOW, StreamMode.STRICT), default="window"))
    if outbound.cloud is not None and mode is not StreamMode.STRICT:
        # SECURITY: what has left before its verdict cannot be taken back.
        table.fault('answers judged by Content Safety are held until its verdict: set stream_mode = "strict"', "stream_mode")
    if restore and EntityAction.PSEUDONYMISE not in (*inbound.entities.values(), inbound.entity_default):
        table.fault("`restore` needs something that is pseudonymised in inbound text", "restore")
    return ContentProfile(
        name=name,
        says=table.string("says"),
        restore=restore,
        stream_mode=mode,
        inbound=inbound,
        outbound=outbound,
    )


def _document_attack(rules: DirectionPolicy) -> float:
    at = rules.document_attack_block_at
    return rules.block_at.get("attack", 2.0) if at is None else at


def _weaker(strict: DirectionPolicy, loose: DirectionPolicy) -> list[str]:
    """Name each rule in which `strict` does less than `loose`."""
    rank = _ACTIONS.index
    bad: list[str] = []
    types = sorted(strict.entities.keys() | loose.entities.keys())
    for key in types:
        if rank(strict.entities.get(key, strict.entity_default)) < rank(loose.entities.get(key, loose.entity_default)):
            bad.append(f"entities.{key}")
    if rank(strict.entity_default) < rank(loose.entity_default):
        bad.append('entities."*"')
    bad += [key for key in ("secrets", "smuggling", "unsupported_language") if rank(getattr(strict, key)) < rank(getattr(loose, key))]
    bad += [f"block_at.{head}" for head, at in loose.block_at.items() if strict.block_at.get(head, 2.0) > at]
    for head, at in loose.record_at.items():
        if min(strict.record_at.get(head, 2.0), strict.block_at.get(head, 2.0)) > at:
            bad.append(f"record_at.{head}")
    if _document_attack(strict) > _document_attack(loose):
        bad.append("block_at.attack_in_documents")
    if list(OnInspectorError).index(strict.on_inspector_error) < list(OnInspectorError).index(loose.on_inspector_error):
        bad.append("on_inspector_error")
    bad += weaker_cloud(strict.cloud, loose.cloud, loose.block_at)
    if loose.ner and not strict.ner:
        bad.append("ner")
    if strict.second_opinion is not loose.second_opinion and (loose.second_opinion or loose.block_at):
        bad.append("second_opinion")  # it lowers scores as it raises them: with and without are comparable only where nothing blocks
    if not set(loose.blocklist) <= set(strict.blocklist):
        bad.append("blocklists")
    if not set(loose.recognizers) <= set(strict.recognizers):
        bad.append("recognizers")
    if not strict.allowed <= loose.allowed:
        bad.append("allowlists")
    return bad


def _check_order(root: Table, order: tuple[str, ...], profiles: Mapping[str, ContentProfile]) -> None:
    for loose, strict in pairwise(order):
        for part in ("inbound", "outbound"):
            for rule in _weaker(getattr(profiles[strict], part), getattr(profiles[loose], part)):
                message = f"the profile `{strict}` is listed as stricter than `{loose}` but does less: `{part}.{rule}`"
                root.fault(message, "profiles", strict, part, *rule.split("."))


def read_content(content: bytes, files: Mapping[str, bytes], faults: list[Fault]) -> ContentRules:
    """Read `content.toml`; `files` holds the blocklists of the set."""
    root = read_table(FILE, content, faults)
    root.known("default", "strictness", "blocklists", "recognizers", "allowlists", "profiles")
    own = _Own(_blocklists(root, files), _recognizers(root), _allowlists(root))
    profiles = {name: _profile(name, table, own) for name, table in root.table("profiles").tables()}
    order = read_order(root, profiles, "profile")
    if not faults:  # a half-read profile would be compared with what its writer did not mean
        _check_order(root, order, profiles)
    if not profiles:
        root.fault("no profile is defined")
    default = root.choice("default", tuple(profiles)) if profiles else ""
    return ContentRules(default=default, strictness=order, profiles=profiles)
