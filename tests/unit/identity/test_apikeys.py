"""Gateway keys: digests only on disk, whole files only, and the same work for a key that exists and one that does not."""

from __future__ import annotations

import argparse
import hmac
import json
import os
from pathlib import Path
from typing import Any

import pytest
from issuer_fixture import NOW

from gateway.identity import apikeys, cli

RANDOM = bytes(range(42))


def make(path: Path, **more: Any) -> tuple[apikeys.KeyRecord, str]:
    return apikeys.create(path, **({"name": "ci", "now_s": NOW, "random": RANDOM} | more))


def test_created_key_verifies_and_is_kept_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    record, key = make(path, roles=["analyst"])
    assert apikeys.KeyRing(apikeys.load(path)).verify(key, NOW) == record
    stored = path.read_text()
    assert key not in stored and key.rpartition("_")[2] not in stored
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys.jsonl", "keys.jsonl.lock"]


def test_pepper_is_needed_where_it_was_used(tmp_path: Path) -> None:
    path = tmp_path / "k"
    record, key = make(path, pepper=b"pepper")
    records = apikeys.load(path)
    assert apikeys.KeyRing(records, b"pepper").verify(key, NOW) == record
    assert apikeys.KeyRing(records, b"other").verify(key, NOW) is None
    assert apikeys.KeyRing(records).verify(key, NOW) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda k: "",
        lambda k: k[:-1],
        lambda k: k + "A",
        lambda k: k + "\n",
        lambda k: k.upper(),
        lambda k: k[:-1] + ("A" if k[-1] != "A" else "B"),
        lambda k: k.replace("gwk_", "gwk-"),
        lambda k: "gwk_" + "a" * 16 + k[20:],
        lambda k: "gwk__" + k[21:],
        lambda k: "é" * len(k),
        lambda k: k[:21] + "' OR '1'='1",
    ],
)
def test_wrong_key(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "k"
    _, key = make(path)
    assert apikeys.KeyRing(apikeys.load(path)).verify(spoil(key), NOW) is None


def test_expired_and_revoked(tmp_path: Path) -> None:
    path = tmp_path / "k"
    record, key = make(path, expires_s=NOW + 10)
    ring = apikeys.KeyRing(apikeys.load(path))
    assert ring.verify(key, NOW + 9) is not None
    assert ring.verify(key, NOW + 10) is None
    apikeys.revoke(path, record.id, NOW + 1)
    again = apikeys.revoke(path, record.id, NOW + 5)
    assert again.revoked_s == NOW + 1
    assert apikeys.KeyRing(apikeys.load(path)).verify(key, NOW + 2) is None
    with pytest.raises(KeyError):
        apikeys.revoke(path, "a" * 16, NOW)


def test_every_outcome_takes_one_constant_time_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2026-42208 and its like: no lookup by secret, and no way out before the comparison."""
    path = tmp_path / "k"
    record, key = make(path)
    make(path, random=bytes(42), expires_s=NOW + 1)
    ring = apikeys.KeyRing(apikeys.load(path))
    compared: list[tuple[int, int]] = []

    def counting(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return original(one, other)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", counting)
    for presented in (key, key[:-1] + "A", f"gwk_{'a' * 16}_{'A' * 43}", "", "gwk_", "x" * 100):
        ring.verify(presented, NOW + 5)
    assert compared == [(64, 64)] * 6


def test_the_digest_of_nobody_opens_nothing() -> None:
    ring = apikeys.KeyRing([])
    assert ring.verify("", NOW) is None
    assert ring.verify(f"gwk_{'a' * 16}_{'A' * 43}", NOW) is None


def test_same_id_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "k")
    with pytest.raises(ValueError, match="taken"):
        make(tmp_path / "k")


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"not json",
        b"\xff",
        b"[]",
        json.dumps({"id": "A", "name": "n", "digest": "0" * 64, "peppered": False, "created_s": 1}).encode(),
        json.dumps({"id": "a" * 16, "name": "n", "digest": "0", "peppered": False, "created_s": 1}).encode(),
        json.dumps({"id": "a" * 16, "name": "n\n", "digest": "0" * 64, "peppered": False, "created_s": 1}).encode(),
        json.dumps({"id": "a" * 16, "name": "n", "digest": "0" * 64, "peppered": False, "created_s": 1, "admin": True}).encode(),
        json.dumps({"id": "a" * 16, "name": "n", "digest": "0" * 64, "peppered": False, "created_s": 9, "expires_s": 8}).encode(),
        json.dumps({"id": "a" * 16, "name": "n", "digest": "0" * 64, "peppered": False, "created_s": 1, "roles": ["a b"]}).encode(),
    ],
)
def test_broken_file_is_refused_and_never_replaces_a_good_ring(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "k"
    _, key = make(path)
    keys = apikeys.ApiKeys(path)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(apikeys.KeyFileInvalid, match="line 2"):
        apikeys.load(path)
    assert not keys.reload() and not keys.healthy
    assert keys.ring.verify(key, NOW) is not None


def test_file_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k"
    make(path)
    path.chmod(0o620)
    with pytest.raises(apikeys.KeyFileInvalid, match="owner"):
        apikeys.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "k"
    make(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        make(path, random=bytes(42))
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["k", "k.lock"]


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser.add_subparsers(required=True))

    def run(*words: str) -> tuple[int, str]:
        arguments = parser.parse_args(["key", *words, "--file", str(tmp_path / "keys.jsonl")])
        code = arguments.run(arguments)
        return code, capsys.readouterr().out

    code, out = run("create", "--name", "ci", "--role", "analyst", "--json")
    made = json.loads(out)
    assert code == 0 and made["key"].startswith(f"gwk_{made['id']}_")
    code, out = run("list")
    assert code == 0 and made["id"] in out and "active" in out and made["key"] not in out
    assert run("revoke", made["id"])[0] == 0
    code, out = run("list", "--json")
    assert json.loads(out)["state"] == "revoked" and "digest" not in json.loads(out)
    assert run("revoke", "a" * 16)[0] == 1
    assert run("create", "--name", "ci", "--days", "9999")[0] == 2
    assert run("create", "--name", "a\nb")[0] == 2
