"""A card that a JSON document holds in pieces is redacted, and the document stays JSON."""

from __future__ import annotations

import json

import pytest

from gateway.content import documents
from gateway.providers.local.scanner import PatternScanner


@pytest.mark.parametrize(
    "parts", [[4111, 1111, 1111, 1111], ["4111", "1111", "1111", "1111"], [int(digit) for digit in "4111111111111111"]]
)
def test_a_card_in_a_list_of_numbers(parts: list[object]) -> None:
    document = documents.parse(json.dumps({"card": parts, "sizes": [10, 20, 30]}))
    scanner = PatternScanner()
    for path, text in documents.strings(document):
        for span in reversed(scanner.scan(text)):
            text = text[: span.start] + f"<{span.type}>" + text[span.end :]
            document = documents.replace(document, path, text)
    assert json.loads(documents.dump(document)) == {"card": "<CREDIT_CARD>", "sizes": [10, 20, 30]}
