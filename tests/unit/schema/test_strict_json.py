"""What strict JSON refuses beyond RFC 8259, and that it never says which text it was."""

from __future__ import annotations

import json

import pytest

from gateway.refusals import INVALID_JSON, TOO_LARGE, Kind, Refusal
from gateway.schema import strict_json

told: dict[tuple[Kind, str], str] = {}


def reason(body: bytes, **more: int) -> str:
    with pytest.raises(Refusal) as caught:
        strict_json.parse(body, more.pop("max_bytes", 100_000), **more)
    assert caught.value.kind in {INVALID_JSON, TOO_LARGE}
    told.setdefault((caught.value.kind, caught.value.detail), caught.value.message)
    assert caught.value.message == told[caught.value.kind, caught.value.detail], "the class decides what is said, never the text"
    assert caught.value.message.startswith(caught.value.kind.message)
    assert caught.value.param is None
    return caught.value.detail


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "syntax"),
        (b"[1]", "not_object"),
        (b'"model"', "not_object"),
        (b"null", "not_object"),
        (b"{} {}", "syntax"),
        (b"\xef\xbb\xbf{}", "syntax"),
        ("{}".encode("utf-16"), "syntax"),
        (b'{"a":NaN}', "syntax"),
        (b'{"a":-Infinity}', "syntax"),
        (b'{"a":1e400}', "number"),
        (b'{"a":[-1e400]}', "number"),
        (b'{"a":1e99999999999999999999}', "number"),
        (b'{"a":9223372036854775808}', "number"),
        (b'{"a":-9223372036854775809}', "number"),
        (b'{"a":"\\ud800"}', "syntax"),
        (b'{"a":"\\udc00\\ud800"}', "syntax"),
        (b'{"a":"\xed\xa0\x80"}', "syntax"),
        (b'{"a":"\xff"}', "syntax"),
        (b'{"\\u0000":1}', "key"),
        (b'{"a\\u0085b":1}', "key"),
        (b'{"model":1,"model":2}', "duplicate_key"),
        (b'{"model":1,"\\u006dodel":2}', "duplicate_key"),
        (b'{"model":1,"Model":2}', "duplicate_key"),
        (b'{"x":[{"MODEL":1,"model":2}]}', "duplicate_key"),
        ('{"model":1,"ｍｏｄｅｌ":2}'.encode(), "duplicate_key"),
        ('{"straße":1,"STRASSE":2}'.encode(), "duplicate_key"),
        ('{"K":1,"\u212a":2}'.encode(), "duplicate_key"),
        ('{"\u00e9":1,"e\u0301":2}'.encode(), "duplicate_key"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "depth"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "depth"),
        (b"[" * 100_000, "depth"),
        (b'{"a":' * 30_000, "depth"),
        (b'{"a":' + b"1" * 5_000 + b"}", "syntax"),
    ],
)
def test_refused_with_a_class_of_reason(body: bytes, why: str) -> None:
    assert reason(body, max_bytes=200_000) == why


def test_size_is_looked_at_first() -> None:
    assert reason(b"{" * 100, max_bytes=99) == "too_large"


def test_a_refusal_never_names_the_key() -> None:
    with pytest.raises(Refusal) as caught:
        strict_json.parse(b'{"hunter2":1,"hunter2":2}', 1000)
    shown = repr(vars(caught.value)) + str(caught.value) + repr(caught.value.__cause__)
    assert "hunter2" not in shown


@pytest.mark.parametrize("depth", [1, 63])
def test_depth_up_to_the_bound_is_accepted(depth: int) -> None:
    assert strict_json.parse(b'{"a":' + b"[" * depth + b"]" * depth + b"}", 1000)


def test_the_bounds_of_integers_are_accepted() -> None:
    assert strict_json.parse(b'{"a":[9223372036854775807,-9223372036854775808,1e308,1e-999]}', 1000) == {
        "a": [2**63 - 1, -(2**63), 1e308, 0.0]
    }


def test_keys_that_skip_the_folding_fold_to_different_names() -> None:
    keys = strict_json._PLAIN_KEYS
    assert len({strict_json.fold(key) for key in keys}) == len(keys)
    assert all(key.isascii() and key.isprintable() for key in keys)


def test_dump_writes_what_was_parsed() -> None:
    body = b'{"b":[1,2.5,true,null,"\\u00e9\\ud83d\\ude00\\u0000"],"a":{}}'
    assert json.loads(strict_json.dump(strict_json.parse(body, 1000))) == json.loads(body)


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a":1,"A":2}', "\ud800", '"\ud800"', "[1e999]", "", "{", "['a']", "\ufeff{}"])
def test_documents_in_strings_follow_the_same_rules(text: str) -> None:
    with pytest.raises(Refusal):
        strict_json.parse_document(text)


@pytest.mark.parametrize(("text", "value"), [("1", 1), ('"a"', "a"), ("[]", []), ('{"a":null}', {"a": None}), ("null", None)])
def test_documents_may_be_of_any_type(text: str, value: object) -> None:
    assert strict_json.parse_document(text) == value


def test_what_costs_more_than_its_size_is_bounded() -> None:
    assert reason(b'{"a":[' + b"{}," * 70_000 + b"1]}", max_bytes=1_000_000) == "containers"
    assert reason(('{"' + "\ufdfa" * 20_000 + '":1}').encode(), max_bytes=1_000_000) == "key"
    many = {f"\u00e9{number}": 1 for number in range(5_000)}
    assert reason(json.dumps(many, ensure_ascii=False).encode(), max_bytes=1_000_000) == "key"


def test_a_caller_is_told_the_class_of_the_fault() -> None:
    with pytest.raises(Refusal) as caught:
        strict_json.parse(b'{"secret-name":1,"SECRET-NAME":2}', 1_000)
    assert caught.value.message == "the body is not strict JSON: a key stands twice in one object, regardless of case and form"
    with pytest.raises(Refusal) as caught:
        strict_json.parse(b"[]", 1_000)
    assert caught.value.message == "the body is not strict JSON: it is not an object"
