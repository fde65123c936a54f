"""What did the last published measurement say? A file of numbers, the rows they were measured on, and the versions they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.evaluation.measures import Measure

STORED = Path(__file__).parent / "baseline.json"
DIGITS = 4


class Entry(msgspec.Struct, frozen=True):
    """One measurement. `rows` names the sets byte for byte, so that numbers of other rows are never compared with these."""

    name: str
    rows: str
    versions: tuple[str, ...]
    measured: dict[str, tuple[float, int]]  # measure -> value, n


class Baseline(msgspec.Struct, frozen=True):
    entries: tuple[Entry, ...] = ()

    def of(self, rows: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.rows == rows), None)

    def named(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def having(self, entry: Entry) -> Baseline:
        """Return a baseline in which `entry` stands for its name and its rows."""
        others = [one for one in self.entries if one.name != entry.name and one.rows != entry.rows]
        return Baseline(tuple(sorted([*others, entry], key=lambda one: one.name)))


class BaselineInvalid(Exception):
    """The file is no baseline."""


def entry_of(name: str, rows: str, versions: Sequence[str], measured: Sequence[Measure]) -> Entry:
    return Entry(name, rows, tuple(versions), {one.name: (round(one.value, DIGITS), one.n) for one in measured})


def load(path: Path = STORED) -> Baseline:
    """Return what is stored. Raises `BaselineInvalid`, `OSError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Baseline)
    except msgspec.DecodeError as fault:
        raise BaselineInvalid(f"`{path}` is no baseline: {str(fault)[:120]}") from fault


def save(baseline: Baseline, path: Path = STORED) -> None:
    """Write it, a measure a line, so that a change can be read in a review."""
    raw = msgspec.json.encode({"entries": [_sorted(entry) for entry in baseline.entries]})
    path.write_bytes(
        msgspec.json.format(raw, indent=1).replace(b"[\n     ", b"[").replace(b",\n     ", b", ").replace(b"\n    ]", b"]") + b"\n"
    )


def _sorted(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "rows": entry.rows,
        "versions": list(entry.versions),
        "measured": dict(sorted(entry.measured.items())),
    }
