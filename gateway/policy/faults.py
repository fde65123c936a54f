"""What is wrong with a policy set, and on which line.

Every fault of a set is reported at once, because its writer fixes them in one sitting. `tomllib` gives values without
positions, so the line of a key is found by a scan of the text; it serves error messages only, never a decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec


class Fault(msgspec.Struct, frozen=True, order=True):
    """One thing to mend. `line` is 0 where a whole file is meant."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class PolicyFaults(Exception):
    """A policy set was refused. `faults` holds every reason, ordered by file and line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(sorted(set(faults)))
        super().__init__("\n".join(str(fault) for fault in self.faults))


Path = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)([^\]\n]+)\]")
_KEY = re.compile(r"""^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_\-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_\-]+))*)\s*=""")
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^."'\s]+))\s*\.?""")


def _parts(dotted: str) -> Path:
    return tuple(a or b or c for a, b, c in _PART.findall(dotted))


def line_of(text: str, path: Path) -> int:
    """Return the line (from 1) of the TOML key or table nearest to `path`, 0 where no part of it is found.

    Members of an array of tables are counted from 0, as in the parsed value. Keys inside an inline table give its line.
    """
    best, best_length = 0, 0
    table: Path = ()
    seen: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            name = _parts(header[2])
            if header[1] == "[[":
                seen[name] = seen.get(name, -1) + 1
                table = (*name, seen[name])
            else:
                table = name
            here = table
        else:
            key = _KEY.match(line)
            if not key:
                continue
            here = (*table, *_parts(key[1]))
        shared = min(len(here), len(path))
        if shared > best_length and here[:shared] == path[:shared] and len(here) <= len(path):
            best, best_length = number, shared
    return best
