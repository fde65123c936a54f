"""The estimate against the real vocabulary, and the exact tokenizer's edges."""

from __future__ import annotations

import gzip
import importlib
import json
import os
from pathlib import Path

import pytest

from gateway.providers.local.tokenizer import BpeTokenizer
from gateway.schema.tokens import estimate

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("GATEWAY_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="module")
def o200k() -> BpeTokenizer:
    pytest.importorskip("bpe_openai", reason="the `tokens` extra is not installed")
    return BpeTokenizer("o200k_base")


LANGUAGES = (
    "ar",
    "cs",
    "da",
    "de",
    "el",
    "en",
    "es",
    "fi",
    "fr",
    "he",
    "hi",
    "hu",
    "id",
    "it",
    "nb",
    "nl",
    "pl",
    "pt",
    "ro",
    "ru",
    "sv",
    "tr",
)
MORE_LANGUAGES = ("uk", "vi", "zh", "bg", "ca", "fa", "hr", "lt", "sk", "sl", "sr", "ta", "te")


@pytest.mark.parametrize("language", LANGUAGES + MORE_LANGUAGES)
def test_prose_in_many_languages(o200k: BpeTokenizer, language: str) -> None:
    examples = pytest.importorskip(f"spacy.lang.{language}.examples", reason="no sample sentences without the `presidio` extra")
    text = "\n".join(examples.sentences)
    assert estimate(text) >= 0.95 * o200k.count(text)
    assert estimate(text) <= 3 * o200k.count(text)


@pytest.mark.parametrize("pattern", ["gateway/**/*.py", "tests/**/*.py", "gateway/**/*.md", "docs/**/*.md", "*.md", "*.toml"])
def test_code_and_documents(o200k: BpeTokenizer, pattern: str) -> None:
    text = "".join(path.read_text() for path in sorted(ROOT.glob(pattern)))[:400_000]
    if not text:
        pytest.skip("no such files yet")
    assert 0.95 * o200k.count(text) <= estimate(text) <= 2 * o200k.count(text)


@pytest.mark.parametrize("name", ["pii/dev/wikineural_de", "pii/dev/wikineural_fr", "pii/dev/wikineural_es", "moderation/dev/dolly"])
def test_samples_of_ordinary_text(o200k: BpeTokenizer, name: str) -> None:
    file = DATA / f"{name}.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"{name} is not beside the checkout (GATEWAY_DATA)")
    with gzip.open(file, "rt") as lines:
        texts = [str(row.get("text") or row.get("prompt") or "") for row in map(json.loads, lines)][:600]
    batches = ["\n".join(texts[at : at + 6]) for at in range(0, len(texts), 6)]
    shares = sorted(estimate(text) / o200k.count(text) for text in batches if len(text) > 150)
    assert shares[0] >= 0.95
    assert shares[len(shares) // 2] <= 1.6


def test_it_never_gives_less_than_one_for_a_text_and_nothing_for_none() -> None:
    assert estimate("") == 0
    for text in ("a", " ", "\n", "é", "中", "😀", "\ud800", "!", "7"):
        assert estimate(text) >= 1


def test_long_runs_cost_more_than_words() -> None:
    assert estimate("abcdefgh" * 100) > 1.3 * estimate("abcdefg " * 100)


def test_decoding_inverts_encoding() -> None:
    library = pytest.importorskip("bpe_openai", reason="the `tokens` extra is not installed")
    tokenizer = BpeTokenizer()
    assert tokenizer.name == "cl100k_base"
    text = "Grüße, 世界! <|endoftext|> 😀"
    tokens = library.get_encoding("cl100k_base").encode_ordinary(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.count(text) == len(tokens)
    assert tokenizer.decode([]) == ""


# -1 is the last id and True is 1 to the library underneath; special tokens would be spelled out; 128 is half a character.
@pytest.mark.parametrize("token", [-1, 100_257, 100_276, 100_256, 100_261, 100_277, 2**31, 2**64, True, 1.0, "1", None, 128])
def test_ids_that_are_no_text(token: object) -> None:
    pytest.importorskip("bpe_openai", reason="the `tokens` extra is not installed")
    assert BpeTokenizer().decode([token]) is None  # type: ignore[list-item]


def test_texts_beyond_the_librarys_bound_are_counted(o200k: BpeTokenizer) -> None:
    assert o200k.count("word " * 250_000) == pytest.approx(250_000, rel=0.01)


def test_the_library_is_loaded_only_by_its_adapter() -> None:
    module = importlib.import_module("gateway.providers.local.tokenizer")
    assert "bpe_openai" not in vars(module)
