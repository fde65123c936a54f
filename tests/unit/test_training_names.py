"""Practice text and predictions: spans are where the names are, and the same seed writes the same texts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from gateway.training.names_text import LANGUAGES, Writer
from gateway.training.pii_spans import Document, documents, predictions, seen_in_training, template


def test_practice_text_is_seeded_and_its_spans_hold_names() -> None:
    texts = Writer(3).write(140)
    assert texts == Writer(3).write(140)
    assert {text.code for text in texts} == set(LANGUAGES)
    for text in texts:
        for start, end, kind in text.spans:
            assert kind in {"PERSON", "LOCATION", "ORGANIZATION"}
            assert text.text[start:end].strip() == text.text[start:end] != ""
            assert "{" not in text.text


def document(text: str, spans: list[tuple[int, int, str]], source: str = "wnut17") -> Document:
    return Document("1", source, "en", text, ("PERSON",), spans)


def test_texts_of_one_template_are_on_one_side() -> None:
    first = document("My name is Ann, born 1980.", [(11, 14, "PERSON")])
    second = document("My name is Oliver, born 2001.", [(11, 17, "PERSON")])
    assert template(first) == template(second)
    assert not seen_in_training(document("x", [], source="wikineural"))
    assert not seen_in_training(document("x", [], source="uner_en_ewt"))


def test_predictions_of_a_folder(tmp_path: Path) -> None:
    row = {"id": "a", "source": "s", "lang": "en", "types": ["PERSON"], "text": "mail ann@example.com", "spans": []}
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    (tmp_path / "secrets.jsonl.gz").write_bytes(b"not read")
    [read] = documents(tmp_path)
    [(key, spans)] = predictions([(read.id, read.text)], None)
    assert (key, [(span.start, span.end, span.type) for span in spans]) == ("a", [(5, 20, "EMAIL_ADDRESS")])
