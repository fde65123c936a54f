"""Findings are shared by the exchanges of one process: never over tenants, of a user's words not over subjects, and never as another's."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest
from poured_streams import inspectors, starter_rules

from gateway.content.inspect import FindingCache, Inspection, Scope
from gateway.content.pseudonyms import Pseudonyms
from gateway.content.review import Review, judged_before, review
from gateway.content.rules import Rules
from gateway.content.stream import Findings
from gateway.evidence import Direction, Role, Segment, Use

SECRET = "AKIA" + "Q3EXAMPLE7XK2MPL"
TEXTS = [
    "The weather is fine today.", "Write to jane.roe@example.com please.", "How do I bake bread?", "a", f"key {SECRET}",
    "4111 1111 1111 1111",
]  # fmt: skip
PLACES = [("messages", 0, "content"), ("messages", 1, "content"), ("stop", 0), ("arguments",)]


def cache() -> Inspection:
    return Inspection(inspectors(), FindingCache(b"k" * 32))


async def look(
    inspection: Inspection, segments: Sequence[Segment], scope: Scope, direction: Direction = Direction.INBOUND, rules: Rules | None = None
) -> Review:
    given = rules or starter_rules("echo")
    key, known = judged_before(inspection, segments, given, direction, scope)
    if known is not None:
        return Review({}, [], None, True, False)
    return await review(inspection, segments, given, direction, scope, float("inf"), Pseudonyms("k7f3"), Findings(), key)


def drawn(draw: random.Random) -> list[Segment]:
    return [
        Segment((*draw.choice(PLACES), at), draw.choice(TEXTS), draw.choice(list(Role)), draw.choice(list(Use)))
        for at in range(draw.randrange(1, 4))
    ]


@pytest.mark.slow
async def test_ten_thousand_attempts_at_another_tenants_findings() -> None:
    """One tenant and its subject ask whatever was asked before by all others: nothing of it is known."""
    inspection, draw = cache(), random.Random(7)
    names = ["acme", "acme2", "acm", "", "acme\x00s", "acme|s", "ACME"]
    asked: list[tuple[list[Segment], Direction]] = []
    for _ in range(1_430):
        segments, direction = drawn(draw), draw.choice(list(Direction))
        asked.append((segments, direction))
        for name in names[:2]:
            await look(inspection, segments, Scope(name, b"s"), direction)
    tried = 0
    inspection.cache.hits = 0
    for segments, direction in asked:
        for name in names:
            other = Scope(f"other-{name}-{tried}", draw.choice([b"s", b"", b"s\x00"]))
            result = await look(inspection, segments, other, direction)
            tried += 1
            assert not result.cached
        assert inspection.cache.hits == 0
        assert (await look(inspection, segments, Scope("acme", b"s"), direction)).cached, "and what is one's own is known"
        inspection.cache.hits = 0
    assert tried >= 10_000


async def test_a_users_words_are_known_to_no_other_subject() -> None:
    """Not by the text itself, nor by a window over a border that reaches over it: time would tell what another wrote."""
    inspection = cache()
    said = [
        Segment(("messages", 0, "content"), "my pin is 1234", Role.USER, Use.CONTENT),
        Segment(("messages", 1, "content"), "ok", Role.ASSISTANT, Use.CONTENT),
        Segment(("messages", 2, "content"), "noted", Role.ASSISTANT, Use.CONTENT),
        Segment(("stop", 0), "END", Role.USER, Use.LABEL),
        Segment(("stop", 1), "STOP", Role.USER, Use.LABEL),
    ]
    await look(inspection, said, Scope("t", b"ann"))
    inspection.cache.hits = 0
    await look(inspection, said, Scope("t", b"bob"))
    assert inspection.cache.hits == 2, "what the assistant said, twice, and nothing else"


@pytest.mark.parametrize("direction", Direction)
async def test_a_harmless_arrangement_vouches_for_no_other(direction: Direction) -> None:
    """The same texts in other places are read together in another way."""
    parts = [SECRET[:9], "object", SECRET[9:], "string"]

    def at(*places: tuple[str, int]) -> list[Segment]:
        return [Segment(place, part, Role.USER, Use.LABEL) for place, part in zip(places, parts, strict=True)]

    inspection = cache()
    harmless = at(("a", 0), ("b", 0), ("c", 0), ("d", 0))
    harmful = at(("stop", 0), ("type", 0), ("stop", 1), ("type", 1))
    assert not (await look(inspection, harmless, Scope("t", b"s"), direction)).blocked
    assert "SECRET" in (await look(inspection, harmful, Scope("t", b"s"), direction)).blocked


async def test_other_rules_other_versions_other_findings() -> None:
    inspection, scope = cache(), Scope("t", b"s")
    segment = [Segment(("m",), "jane.roe@example.com", Role.USER, Use.CONTENT)]
    await look(inspection, segment, scope)
    for rules in (starter_rules("open"), msgspec.structs.replace(starter_rules("echo"), key=b"another set")):
        inspection.cache.hits = 0
        await look(inspection, segment, scope, rules=rules)
        assert inspection.cache.hits == 0
    assert (await look(inspection, segment, scope, rules=starter_rules("open"))).texts == {}
    assert (await look(inspection, segment, scope)).texts == {0: "<EMAIL_ADDRESS>"}
