"""Which spans of these texts are names? The models behind the canonical view and the routing by language, as one call.

No model sees a language it does not know: a passage that is clearly written in another one is left out, and is for the profile's rule on
unsupported languages. A passage too short to tell is read. Two disguises are looked through: base64, decoded and read, and a name in
Chinese, Japanese or Korean letters alone among Latin ones, told by its length. Runs inside a worker process; offsets are those of the
original text.
"""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_left
from collections.abc import Sequence

from gateway.content.language import COVERED, passages
from gateway.content.views import View, canonical
from gateway.evidence import Span
from gateway.providers.local.ner_model import LABELS, Name, NamesModel

DETECTOR = "names"
LONGEST = 120  # characters of one name; longer ones are a model gone astray
MAX_CODES = 32  # of a text: more are data, not names
_CODE = re.compile(r"(?<![\w+/=-])[A-Za-z0-9+/]{12,240}={0,2}(?![\w+/=-])")
_READABLE = re.compile(r"[\w .,'\u2019-]{4,}")
_EAST = "\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3"
_EASTERN_NAME = re.compile(f"(?<![{_EAST}\u3000-\u3003])[{_EAST}]{{1,3}}[ \u3000\u30fb]?[{_EAST}]{{1,4}}(?![{_EAST}\u3000-\u3003])")


class NamesFinder:
    """The names in texts. Not safe for several threads."""

    def __init__(self, languages: Sequence[str] = COVERED, kinds: Sequence[str] = LABELS) -> None:
        self._model = NamesModel()
        self._languages = frozenset(languages)
        self._kinds = frozenset(kinds)
        self.version = self._model.version

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return ordered, non-overlapping spans of each text."""
        views = [canonical(text) for text in texts]
        placed: list[tuple[int, int, str, str]] = []
        for at, view in enumerate(views):
            for begin, end, code in _passages(texts[at], view):
                if code in self._languages or code == "und":
                    placed.append((at, begin, view.text[begin:end].encode("utf-8", "replace").decode(), code))
        found = self._model.find([text for _, _, text, _ in placed], [code for *_, code in placed])
        spans: list[list[Span]] = [[] for _ in texts]
        for (at, begin, text, _), names in zip(placed, found, strict=True):
            disguised = self._disguised(text)
            plain = [name for name in names if name.label in self._kinds and _fits(text, name)]
            spans[at] += [_span(views[at], begin, name) for name in _apart([*disguised, *plain])]
        return spans

    def _disguised(self, text: str) -> list[Name]:
        if "PERSON" not in self._kinds:
            return []
        names: list[Name] = []
        if not text.isascii():
            names += [Name(*match.span(), "PERSON", 0.6) for match in _EASTERN_NAME.finditer(text) if len(match.group()) > 1]
        codes = [(match, plain) for match in _CODE.finditer(text) if (plain := _decoded(match.group())) is not None][:MAX_CODES]
        if codes:
            for (match, _), found in zip(codes, self._model.find([plain for _, plain in codes], ["und"] * len(codes)), strict=True):
                names += [Name(*match.span(), name.label, name.score) for name in found if name.label == "PERSON"][:1]
        return names


def _fits(text: str, name: Name) -> bool:
    value = text[name.start : name.end]
    if name.label == "LOCATION":  # a house number or a post code alone names nobody's home unless the model is sure
        return len(value) <= LONGEST and (any(map(str.isalpha, value)) or name.score > 0.8)
    return len(value) <= LONGEST and sum(map(str.isalpha, value)) > 1


def _span(view: View, begin: int, name: Name) -> Span:
    start, end = view.original(begin + name.start, begin + name.end)
    return Span(start, end, name.label, round(name.score, 3), DETECTOR)


def _passages(text: str, view: View) -> list[tuple[int, int, str]]:
    """Return the passages as ranges of the view. Languages are told from the original: accents are evidence that the view lacks."""
    found = passages(text)
    if view.offsets is None:
        return found
    edges = [bisect_left(view.offsets, begin) for begin, _, _ in found] + [len(view.text)]
    return [(begin, end, code) for begin, end, (_, _, code) in zip(edges, edges[1:], found, strict=False)]


def _decoded(code: str) -> str | None:
    """Return what base64 hides if that is a few words."""
    if code.isalpha() and (code.islower() or code.isupper() or code.istitle()):
        return None
    try:
        plain = base64.b64decode(code + "=" * (-len(code) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return plain if _READABLE.fullmatch(plain) and any(map(str.isalpha, plain)) else None


def _apart(names: list[Name]) -> list[Name]:
    """Return the names in order without overlaps; those that stand first in the list keep their place."""
    kept: list[Name] = []
    for name in names:
        if not any(name.start < other.end and other.start < name.end for other in kept):
            kept.append(name)
    return sorted(kept)
