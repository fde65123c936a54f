"""Records: canonical, bounded, safe to print; pseudonyms that do not join tenants; frames that tell a crash from a change."""

from __future__ import annotations

import hashlib
import hmac
import json
import random

import pytest

from gateway.audit import record


def test_equal_fields_give_equal_bytes_with_sorted_keys() -> None:
    one = record.encode({"type": "x", "b": {"z": 1, "a": [1, 2]}, "a": "é"})
    two = record.encode({"a": "é", "b": {"a": [1, 2], "z": 1}, "type": "x"})
    assert one == two == '{"a":"é","b":{"a":[1,2],"z":1},"type":"x"}'.encode()
    assert record.parse(one) == {"type": "x", "b": {"z": 1, "a": [1, 2]}, "a": "é"}


def test_sets_are_sorted_and_no_number_is_nan() -> None:
    data = record.encode({"type": "x", "s": frozenset({"b", "a"}), "n": float("nan"), "i": float("inf")})
    assert json.loads(data) == {"type": "x", "s": ["a", "b"], "n": None, "i": None}


@pytest.mark.parametrize("text", ["\x00", "\x1b[2J", "\n", "\x7f", "\x9b31m", "\u2028", "\u202e", "\u2066", "\u200b", "\ufeff"])
def test_nothing_that_moves_a_cursor_or_reorders_text_stays_raw(text: str) -> None:
    data = record.encode({"type": "x", "subject": f"a{text}b", "é": "é"})
    assert text not in data.decode()
    assert json.loads(data)["subject"] == f"a{text}b"


@pytest.mark.parametrize("value", ["\ud800", b"secret", object(), 1 << 80, {1: 2}, {("a",): 1}, {"\udfff": 1}, [[["\ud800"]]]])
def test_what_json_cannot_hold_is_recorded_all_the_same(value: object) -> None:
    data = record.encode({"type": "x", "value": value})
    assert record.parse(data)["type"] == "x"
    assert b"secret" not in data or value == b"secret" and b"c2VjcmV0" in data


def test_a_loop_or_a_deep_value_is_cut() -> None:
    loop: dict[str, object] = {"type": "x"}
    loop["self"] = loop
    assert b"<deep>" in record.encode(loop)


def test_a_record_never_exceeds_its_bound_and_says_what_was_cut() -> None:
    fields = {
        "type": "refused",
        "request_id": "r1",
        "policy_ids": [f"policy-{i}" for i in range(20_000)],
        "note": "é\u2028" * 60_000,
        "entities": {f"T{i}": i for i in range(9000)},
    }
    data = record.encode(fields)
    assert len(data) <= record.MAX_RECORD_BYTES
    kept = record.parse(data)
    assert kept["cut"] == ["entities", "note", "policy_ids"]
    assert kept["policy_ids"] == [f"policy-{i}" for i in range(64)]
    assert kept["request_id"] == "r1"
    assert data == record.encode(dict(reversed(fields.items())))


def test_even_a_hostile_number_of_fields_keeps_what_matters() -> None:
    fields = {"type": "closed", "request_id": "r1", "outcome": "finished"} | {f"k{i}" * 40: "v" * 50 for i in range(3000)}
    data = record.encode(fields)
    assert len(data) <= record.MAX_RECORD_BYTES
    assert record.parse(data)["type"] == "closed"


def test_a_record_just_at_the_bound_is_whole() -> None:
    size = record.MAX_RECORD_BYTES - len(record.encode({"type": "x", "v": ""}))
    assert len(record.encode({"type": "x", "v": "v" * size})) == record.MAX_RECORD_BYTES
    assert "cut" in record.parse(record.encode({"type": "x", "v": "v" * (size + 1)}))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"type":1}', b"\xff", b"{" * 100_000, b"[" * 60_000, b'{"type":"x"} '[:-1] * 2])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        record.parse(data)


def test_pseudonyms_do_not_join_tenants_or_purposes() -> None:
    names = record.Pseudonymiser(b"0123456789abcdef")
    values = {names.subject("a", "x"), names.subject("b", "x"), names.token("a", "x"), names.content("a", b"x")}
    assert len(values) == 4
    assert all(len(value) == 32 for value in values)
    assert names.subject("a", "x") == record.Pseudonymiser(b"0123456789abcdef").subject("a", "x")
    assert names.subject("a", "x") != record.Pseudonymiser(b"0123456789abcdeg").subject("a", "x")
    key = hmac.digest(b"0123456789abcdef", b"subject\x00a", hashlib.sha256)
    assert names.subject("a", "x") == hmac.digest(key, b"x", hashlib.sha256).hex()[:32]
    with pytest.raises(ValueError, match="16 bytes"):
        record.Pseudonymiser(b"short")


def test_times_are_rfc_3339_with_milliseconds() -> None:
    assert record.rfc3339(1_790_000_000.0) == "2026-09-21T14:13:20.000Z"
    assert record.rfc3339(0.1239) == "1970-01-01T00:00:00.123Z"


def test_builders_name_their_type_and_time() -> None:
    for data, kind in (
        (record.start(now_s=1, instance="i", recovery={"torn_bytes": 0}, extra={"type": "forged", "version": "1"}), "start"),
        (record.stop(now_s=1, instance="i"), "stop"),
        (record.summary(now_s=1, instance="i", period_s=1, counts={"invalid_token": 9}), "summary"),
        (record.policy_change(now_s=1, instance="i", old="sha256:a", new="sha256:b", outcome="refused", reasons=["x"]), "policy_change"),
    ):
        fields = record.parse(data)
        assert (fields["type"], fields["time"], fields["instance"]) == (kind, "1970-01-01T00:00:01.000Z", "i")


def test_an_unknown_end_keeps_who_and_what_of_its_beginning() -> None:
    opened = record.encode({"type": "opened", "request_id": "r", "tenant": "t", "subject": "s", "obligations": {}})
    fields = record.parse(record.unknown(opened, 7, now_s=1, instance="i", reason="crash"))
    assert fields == {
        "type": "closed",
        "request_id": "r",
        "tenant": "t",
        "subject": "s",
        "opened": 7,
        "outcome": "unknown",
        "reason": "crash",
        "instance": "i",
        "time": "1970-01-01T00:00:01.000Z",
    }


def test_a_callers_text_cannot_pose_as_the_type_of_a_record() -> None:
    held = record.OpenExchanges()
    assert held.see(0, record.encode({"type": "refused", "note": '"type":"opened"', "x": '","type":"opened","request_id":"r'}))
    assert len(held) == 0
    assert held.see(1, record.encode({"type": "opened", "request_id": "r1", "application": '"request_id":"r2"'}))
    assert held.see(2, record.encode({"type": "opened", "request_id": "r1"}))
    assert (len(held), held.low_water(9)) == (2, 1)
    assert held.see(3, record.encode({"type": "closed", "request_id": "r1"}))
    assert [index for index, _ in held] == [2]
    assert held.see(4, record.encode({"type": "closed", "request_id": "r1"}))
    assert not held.see(5, record.encode({"type": "closed", "request_id": "r1"}))
    assert held.low_water(9) == 9


def segment() -> tuple[bytes, list[int]]:
    note = b"origin\n1\nroot\n\nsignature\n"
    parts = [record.base_frame(5, 3, note)]
    for i in range(3):
        parts.append(record.batch_frame(5 + 2 * i, [b'{"type":"a"}' * 50, b'{"type":"b"}'], note))
    borders = [sum(map(len, parts[:i])) for i in range(len(parts) + 1)]
    return b"".join(parts), borders


def test_frames_round_trip() -> None:
    data, borders = segment()
    for padding in (b"", bytes(5000)):
        read = record.read_frames(data + padding)
        assert (read.end, read.tail, len(read.frames)) == (len(data), "", 4)
        assert (read.frames[0].first, read.frames[0].scan_from) == (5, 3)
        assert [frame.first for frame in read.frames[1:]] == [5, 7, 9]
        assert read.frames[3].records == [b'{"type":"a"}' * 50, b'{"type":"b"}']
    assert [frame.offset for frame in read.frames] == borders[:-1]


def test_a_segment_cut_anywhere_keeps_its_whole_frames() -> None:
    data, borders = segment()
    for cut in range(len(data)):
        whole = max(i for i, border in enumerate(borders) if border <= cut)
        for rest in (b"", bytes(4096)):
            read = record.read_frames(data[:cut] + rest)
            assert len(read.frames) == whole
            assert read.tail == ("" if cut in borders else "torn"), cut


def test_a_byte_changed_anywhere_is_damage_and_not_a_crash() -> None:
    data, borders = segment()
    for at in range(borders[1], len(data) - 1):
        read = record.read_frames(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :] + bytes(512))
        assert read.tail == "damaged", at


def test_frames_of_noise_are_damage_and_never_an_error() -> None:
    rng = random.Random(3)
    data, _ = segment()
    for _ in range(300):
        noise = bytearray(data)
        for _ in range(rng.randrange(1, 30)):
            noise[rng.randrange(len(noise))] = rng.randrange(256)
        assert len(record.read_frames(bytes(noise)).frames) <= 4
    assert record.read_frames(rng.randbytes(5000)).tail == "damaged"
    assert record.read_frames(b"").tail == ""


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1234:5678::9", "2001:db8:1234::/48"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("::1", "::/48"),
        ("", ""),
        ("unix:", ""),
    ],
)
def test_a_peer_is_recorded_as_its_network(address: str, network: str) -> None:
    assert record.peer_network(address) == network
