"""What do the detectors say of the public sets of personal data? `python -m gateway.training.pii_spans DATA_FOLDER [--unseen] > FILE`.

Writes one JSON object a line, `{"id", "spans": [{"start", "end", "type", "score"}]}`, offsets in code points of the original text: the
format that scorers of such sets read. `--unseen` leaves out the documents that the names head was trained on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.content.union import united
from gateway.evidence import Span
from gateway.providers.local.ner_names import NamesFinder
from gateway.providers.local.scanner import PatternScanner

KINDS = {
    "PER": "PERSON", "PERSON_NAME": "PERSON", "GIVEN_NAME": "PERSON", "SURNAME": "PERSON", "NAME": "PERSON", "GPE": "LOCATION",
    "LOC": "LOCATION", "FAC": "LOCATION", "ADDRESS": "LOCATION", "STREET_ADDRESS": "LOCATION", "CITY": "LOCATION", "STATE": "LOCATION",
    "ZIP_CODE": "LOCATION", "COUNTRY": "LOCATION", "ORG": "ORGANIZATION",
}  # fmt: skip


SETS = ("germeval2014", "wnut17", "presidio_", "pii_anon", "meddocan")  # CC BY 4.0, MIT, CC0; never WikiNEuRal (NC) nor EWT (SA)


class Document(NamedTuple):
    """One annotated text; `types` are those its source annotates."""

    id: str
    source: str
    lang: str
    text: str
    types: tuple[str, ...]
    spans: list[tuple[int, int, str]]


def documents(folder: Path) -> Iterator[Document]:
    """Yield the documents of every set in a folder of `*.jsonl.gz`, secrets aside."""
    for path in sorted(folder.glob("*.jsonl*")):
        if "secrets" in path.name:
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in content.decode().splitlines():
            item = json.loads(line)
            spans = [(s["start"], s["end"], s["type"]) for s in item["spans"]]
            yield Document(item["id"], item["source"], item["lang"], item["text"], tuple(item["types"]), spans)


def template(document: Document) -> bytes:
    """Return a digest of the text around the names, so that texts made from one template are one."""
    parts: list[str] = []
    last = 0
    for start, end, _ in sorted(document.spans):
        if start >= last:
            parts += [document.text[last:start], "<>"]
            last = end
    parts.append(document.text[last:])
    key = re.sub(r"\d+", "0", "".join(parts).lower())[:60]
    return hashlib.sha256(key.encode()).digest()


def seen_in_training(document: Document) -> bool:
    """Tell whether a development document is on the half that the head was trained on."""
    return document.source.startswith(SETS) and template(document)[0] & 1 == 0


def predictions(
    texts: Iterable[tuple[str, str]], names: Callable[[list[str]], list[list[Span]]] | None
) -> Iterator[tuple[str, list[Span]]]:
    """Yield (id, spans) for (id, text): patterns united with names, or patterns alone."""
    scanner = PatternScanner(urls=True, dates=True)
    for key, text in texts:
        found = names([text])[0] if names is not None else []
        yield key, united(scanner.scan(text), found, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--no-ner", action="store_true")
    arguments = parser.parse_args()
    chosen = [(d.id, d.text) for d in documents(arguments.data) if not (arguments.unseen and seen_in_training(d))]
    finder = None if arguments.no_ner else NamesFinder()
    for key, spans in predictions(chosen, finder.find if finder is not None else None):
        rows = [{"start": s.start, "end": s.end, "type": s.type, "score": round(s.score, 3)} for s in spans]
        sys.stdout.write(json.dumps({"id": key, "spans": rows}) + "\n")


if __name__ == "__main__":
    main()
