"""JSON documents inside strings: what counts as one, which strings it holds, how they are replaced."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content import documents
from gateway.content.documents import KeyAt

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', '{"a": NaN}', "[Infinity]", "[-Infinity]", "{'a': 1}", "[1,]", "[" * 100_000],
)
def test_what_is_not_strict_is_no_document(text: str) -> None:
    assert documents.parse(text) is None


def test_depth_is_bounded() -> None:
    assert documents.parse("[" * 64 + "]" * 64) is not None
    assert documents.parse("[" * 66 + "]" * 66) is None


def test_every_string_key_and_long_number_is_inspected_decoded() -> None:
    document = documents.parse(r'{"a\u0040b": ["x\u0040y", 4111111111111111, 12, true, null]}')
    assert documents.strings(document) == [((KeyAt("a@b"),), "a@b"), (("a@b", 0), "x@y"), (("a@b", 1), "4111111111111111")]
    assert isinstance(documents.strings(document)[0][0][-1], KeyAt)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("[4111, 1111, 1111, 1111]", "4111 1111 1111 1111"),
        ('["4111", 1111, "1111", 1111]', "4111 1111 1111 1111"),
        ("[4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
        ("[1, 2, 3]", None),
        ("[4111, 1111, 1111, 1111.5]", None),
        ("[4111, true, 1111, 1111, 1111]", None),
        ("[1001, 1002, 1003, 1004, 1005]", None),
    ],
)
def test_a_number_in_parts_is_inspected_as_one(text: str, number: str | None) -> None:
    found = documents.strings(documents.parse(text))
    assert [value for path, value in found if path == ()] == ([number] if number else [])


@given(DOCUMENTS)
def test_what_is_written_is_what_was_read(document: object) -> None:
    assert json.loads(documents.dump(document)) == document


@given(DOCUMENTS)
def test_every_value_can_be_replaced_and_the_rest_stays(document: object) -> None:
    for path, text in documents.strings(document):
        if not path or not isinstance(path[-1], KeyAt):
            document = documents.replace(document, path, f"<{len(text)}>")
    values = [text for path, text in documents.strings(document) if not path or not isinstance(path[-1], KeyAt)]
    assert all(text.startswith("<") for text in values)
    json.loads(documents.dump(document))


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        (r"anna\u0040example.com", "anna@example.com"), (r"a\nb", "a\nb"), (r"\ud83d\ude00", "\U0001f600"), (r"\u00", "u00"), ("\\", "\\"),
        (r"\q", "q"), ("plain", "plain"), (r"\ud800", "\ufffd"),
    ],
)  # fmt: skip
def test_broken_json_is_read_as_a_lenient_reader_would(text: str, reading: str) -> None:
    assert documents.unescaped(text) == reading
