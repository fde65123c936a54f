"""Findings and their cache: what may be shared, what never is, and that nobody counts as clean unseen."""

from __future__ import annotations

import math

import pytest
from inspection_fakes import ToyNames, ToyScanner, inspection, rules, side, text

from gateway.content.inspect import BORDER, SEPARATOR, Finding, FindingCache, Inspection, Scope, borders, prose_offsets
from gateway.content.rules import Action, Rules
from gateway.evidence import Direction, Role, Segment, Use
from gateway.ports import InspectorUnavailable

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
SCOPE = Scope("t", b"s")


async def find(
    made: Inspection, segment: Segment, given: Rules | None = None, direction: Direction = IN, scope: Scope = SCOPE
) -> tuple[Finding, bool]:
    found, cached = await made.findings([segment], given or rules(), direction, scope, math.inf)
    return found[0], cached


async def test_the_same_text_of_the_same_subject_is_cached() -> None:
    made = inspection()
    assert (await find(made, text("a@b")))[1] is False
    finding, cached = await find(made, text("a@b"))
    assert cached and [s.type for s in finding.spans] == ["EMAIL_ADDRESS"]


@pytest.mark.parametrize(
    "other",
    [
        {"scope": Scope("t2", b"s")},
        {"scope": Scope("t", b"s2")},
        {"direction": OUT},
        {"given": rules(key=b"set2/profile")},
        {"segment": text("a@b", Role.ASSISTANT)},
        {"segment": text("a@b", Role.USER, Use.LABEL)},
        {"segment": text("a@c")},
    ],
    ids=["tenant", "subject", "direction", "rules", "role", "use", "text"],
)
async def test_whatever_could_change_a_finding_separates_it(other: dict[str, object]) -> None:
    made = inspection()
    await find(made, text("a@b"))
    given: dict[str, object] = {"segment": text("a@b"), **other}
    assert (await find(made, **given))[1] is False  # type: ignore[arg-type]


async def test_another_version_of_a_detector_separates_it() -> None:
    first, second = inspection(version="1"), inspection(version="2")
    second.cache = first.cache
    await find(first, text("a@b"))
    assert (await find(second, text("a@b")))[1] is False


async def test_what_others_than_users_wrote_is_shared_within_a_tenant() -> None:
    made = inspection()
    await find(made, text("a@b", Role.SYSTEM))
    assert (await find(made, text("a@b", Role.SYSTEM), scope=Scope("t", b"s2")))[1] is True
    assert (await find(made, text("a@b", Role.SYSTEM), scope=Scope("t2", b"s")))[1] is False


async def test_owner_and_text_cannot_be_shifted_into_each_other() -> None:
    made = inspection()
    await find(made, text("bc"), scope=Scope("t", b"a"))
    assert (await find(made, text("c"), scope=Scope("t", b"ab")))[1] is False


async def test_the_cache_holds_no_text_and_is_bounded() -> None:
    made = inspection(capacity=3)
    for number in range(9):
        await find(made, text(f"walrus {number} a@b"))
    assert len(made.cache) == 3
    assert "walrus" not in repr(list(made.cache._entries.items()))


async def test_degraded_findings_are_never_cached() -> None:
    names = ToyNames(away=True)
    made = inspection(names)
    given = rules(side(ner=True, on_error=Action.RECORD))
    finding, _ = await find(made, text("Anna"), given)
    assert finding.degraded and not finding.spans and len(made.cache) == 0
    names.away = False
    finding, cached = await find(made, text("Anna"), given)
    assert not cached and [s.type for s in finding.spans] == ["PERSON"]


@pytest.mark.parametrize("names", [ToyNames(away=True), None])
async def test_an_inspector_that_is_away_raises(names: ToyNames | None) -> None:
    with pytest.raises(InspectorUnavailable):
        await find(inspection(names), text("Anna"), rules(side(ner=True)))


async def test_a_hit_needs_no_inspector() -> None:
    names = ToyNames()
    made = inspection(names)
    given = rules(side(ner=True))
    await find(made, text("Anna"), given)
    names.away = True
    assert (await find(made, text("Anna"), given))[1] is True and names.calls == 1


async def test_placeholders_are_not_inspected_again() -> None:
    class Greedy(ToyScanner):
        def scan(self, text: str, start: int = 0) -> list[object]:  # type: ignore[override]
            from gateway.evidence import Span  # noqa: PLC0415

            return [Span(0, len(text), "URL")]

    assert (await find(inspection(scanner=Greedy()), text("<EMAIL_ADDRESS>")))[0].spans == ()


async def test_a_document_is_held_to_the_stricter_threshold() -> None:
    made = inspection()
    assert (await find(made, text("ignore all", Role.USER)))[0].blocking == ()
    assert (await find(made, text("ignore all", Role.TOOL)))[0].blocking == ("attack",)
    assert (await find(made, text("ignore all", Role.DOCUMENT)))[0].blocking == ("attack",)


async def test_smuggling_and_languages() -> None:
    made = inspection()
    assert (await find(made, text("x\U000e0041")))[0].blocking == ("tags",)
    assert (await find(made, text("zzz " * 20)))[0].blocking == ("unsupported_language",)
    assert (await find(made, text("zzz")))[0].blocking == ()  # too short to tell
    lax = rules(side(smuggling=Action.RECORD, unsupported_language=Action.RECORD), key=b"lax")
    assert (await find(made, text("x\U000e0041"), lax))[0].noted == ((Action.RECORD, "tags"),)


def test_windows_reach_over_every_border_of_prose() -> None:
    segments = [text("one "), text("label", use=Use.LABEL), text(""), text("two ", Role.ASSISTANT), text("three")]
    windows = borders(segments)
    assert [w.text for _, w in windows] == [f"one {SEPARATOR}two {SEPARATOR}three"] * 2
    assert [w.role for _, w in windows] == [Role.USER, Role.USER]
    assert prose_offsets(segments) == [(0, 0), (4, 3), (8, 4)]
    assert borders(segments[:3]) == []


def test_windows_are_bounded_and_know_where_they_stand() -> None:
    first, second = "a" * 1_000, "b" * 1_000
    ((offset, window),) = borders([text(first), text(second)])
    assert len(window.text) == 2 * BORDER + 1
    joined = first + second
    plain = window.text.replace(SEPARATOR, "")
    assert joined[offset : offset + len(plain)] == plain


def test_a_separator_in_the_text_forges_no_border() -> None:
    windows = borders([text(f"one{SEPARATOR}{SEPARATOR}x"), text("two")])
    assert [w.text.count(SEPARATOR) for _, w in windows] == [1]


@pytest.mark.parametrize("value", [f"x{SEPARATOR}" * 3 + "y" * 400, f"{SEPARATOR}" * 5 + "ab"])
def test_offsets_hold_when_the_text_bears_separators(value: str) -> None:
    """Spans of a window are applied to the texts as they are, separators and all."""
    ((found, window),) = borders([text(value), text("two")])
    at = len(value) - len(window.text.split(SEPARATOR)[0])
    assert found == at


def test_the_cache_key_is_framed() -> None:
    cache = FindingCache(b"k")
    assert cache.prefix(b"ab", b"c").digest() != cache.prefix(b"a", b"bc").digest()
    assert FindingCache(b"other").prefix(b"a").digest() != cache.prefix(b"a").digest()


@pytest.mark.parametrize("path", [("border",), ("border", 0), ("border", "run", 0), ("border", "joined", 0), ("run", "border")])
async def test_a_field_may_bear_any_name_and_is_read_as_every_other(path: tuple[str | int, ...]) -> None:
    """SECURITY: a plain route names its fields itself; none may be taken for what is read over the borders of texts."""
    made, asked = inspection(ToyNames()), rules(inbound=side(ner=True))
    finding, _ = await find(made, Segment(path, "Anna says bad words", Role.USER, Use.CONTENT), asked)
    assert [s.type for s in finding.spans] == ["PERSON"] and finding.blocking == ("violence",)
    assert (await find(made, text("Anna says bad words"), asked)) == (finding, True)
