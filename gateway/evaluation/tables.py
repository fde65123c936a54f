"""How do measures stand against floors, aims and the stored baseline? Verdicts and the tables that show them; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from gateway.evaluation.baseline import Baseline, Entry
from gateway.evaluation.floors import FLOORS, Floor
from gateway.evaluation.measures import Measure

TOLERANCE = 0.01  # what a measure may fall below the baseline: on the same rows with the same models nothing moves at all
BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"
_SLACK = 1e-9


class Standing(StrEnum):
    """What a measure's value means."""

    MISSED = "below floor"
    FELL = "below baseline"
    REACHED = "ok"
    AIM = "aim"
    SHOWN = ""

    @property
    def bad(self) -> bool:
        return self in (Standing.MISSED, Standing.FELL)


class Row(msgspec.Struct, frozen=True):
    """One line of the table."""

    measure: Measure
    floor: Floor | None
    stored: float | None
    standing: Standing


def floors_of(given: Mapping[str, float | None]) -> dict[str, Floor]:
    """Return the product's floors with those of a folder's manifest in their place."""
    floors = dict(FLOORS)
    for name, at in given.items():
        known = floors.pop(name, None)
        if at is not None:
            floors[name] = Floor(at, None, known.says if known else "")
    return floors


def compared(measured: Sequence[Measure], floors: Mapping[str, Floor], stored: Entry | None, *, tolerance: float = TOLERANCE) -> list[Row]:
    """Return a row for each measure, those with a floor first."""
    rows = []
    for one in measured:
        floor = floors.get(one.name)
        held = stored.measured.get(one.name) if stored is not None else None
        rows.append(Row(one, floor, held[0] if held else None, _standing(one, floor, held[0] if held else None, tolerance)))
    return sorted(rows, key=lambda row: row.floor is None)


def _standing(one: Measure, floor: Floor | None, stored: float | None, tolerance: float) -> Standing:
    sign = -1.0 if one.lower_is_better else 1.0
    value = sign * one.value
    if floor is not None and value < sign * floor.at - _SLACK:
        return Standing.MISSED
    # A measure nobody states a floor for is shown, not enforced: a source of twelve texts moves by more than any tolerance.
    if floor is not None and stored is not None and value < sign * stored - tolerance - _SLACK:
        return Standing.FELL
    if floor is None:
        return Standing.SHOWN
    return Standing.AIM if floor.aim is not None and value >= sign * floor.aim - _SLACK else Standing.REACHED


def absent(floors: Mapping[str, float | None], measured: Iterable[Measure]) -> list[str]:
    """Return the measures a folder states a floor for that were not made: a floor nobody stands on is not met."""
    made = {one.name for one in measured}
    return sorted(name for name, at in floors.items() if at is not None and name not in made)


def text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    lines = [f"{'measure':58} {'n':>7} {'value':>7} {'floor':>7} {'aim':>6} {'stored':>7} {'change':>7}"]
    for row in rows:
        one, floor = row.measure, row.floor
        change = f"{round(one.value - row.stored, 3) + 0.0:+7.3f}" if row.stored is not None else " " * 7
        bound = "<=" if one.lower_is_better else ">="
        at = f"{bound}{_short(floor.at)}" if floor else ""
        aim = _short(floor.aim) if floor and floor.aim is not None else ""
        stored = _short(row.stored) if row.stored is not None else ""
        lines.append(f"{one.name:58} {one.n:7} {_short(one.value):>7} {at:>7} {aim:>6} {stored:>7} {change} {row.standing}".rstrip())
    return "\n".join(lines)


def markdown(entry: Entry) -> str:
    """Return the table for the documentation: every measure of an entry that the product states a floor for."""
    lines = [
        f"Measured by: {', '.join(f'`{version}`' for version in entry.versions)}.",
        "",
        "| measure | what it is | n | value | floor | aim | standing |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, floor in FLOORS.items():
        held = entry.measured.get(name)
        if held is None:
            continue
        one = Measure(name, held[0], held[1])
        bound = "≤" if one.lower_is_better else "≥"
        standing = {Standing.MISSED: "**missed**", Standing.AIM: "aim met", Standing.REACHED: "met"}[_standing(one, floor, None, 0.0)]
        aim = _short(floor.aim) if floor.aim is not None else ""
        lines.append(f"| `{name}` | {floor.says} | {one.n:,} | {_short(one.value)} | {bound} {_short(floor.at)} | {aim} | {standing} |")
    return "\n".join(lines)


def document_block(stored: Baseline) -> str:
    """Return the generated part of the documentation: each stored entry with its table."""
    parts = [f"### On the rows of `{entry.name}` ({entry.rows})\n\n{markdown(entry)}" for entry in stored.entries]
    return "\n\n".join(["", *parts, ""]) if parts else "\nNothing is stored yet.\n"


def with_block(document: str, block: str) -> str:
    """Return a document whose generated block is `block`. Raises `ValueError` where it has no markers."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(document):
        raise ValueError(f"the document has no `{BEGIN}` and `{END}`")
    return pattern.sub(lambda _: f"{BEGIN}\n{block}\n{END}", document, count=1)


def _short(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) > 1 else f"{value:.3f}"
