"""The auditor's commands, as a shell would call them: output, exit codes, and what they say when something is wrong."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
from audit_logs import KEY, ORIGIN, OTHER_KEY, closed, fill, open_log, opened, verifier_key

from gateway.audit import record
from gateway.audit.cli import add_arguments
from gateway.audit.query import Filter, LogReader, check_proof
from gateway.audit.tree import Signer, Verifier


def gateway(*arguments: object) -> int:
    parser = argparse.ArgumentParser(prog="gateway")
    add_arguments(parser.add_subparsers(required=True))
    try:
        parsed = parser.parse_args(["audit", *map(str, arguments)])
        code: int = parsed.handler(parsed)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return code


@pytest.fixture(scope="module")
def log_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import asyncio

    async def build(directory: Path) -> None:
        log = open_log(directory)
        await log.start()
        await fill(log, 200)
        for fields in (
            {
                "type": "refused",
                "request_id": "no",
                "tenant": "beta",
                "refusal": "policy_denied",
                "decision": "forbid",
                "policy_ids": ["p1"],
            },
            {"type": "summary", "counts": {"invalid_token": 41}},
        ):
            log.append(record.encode({**fields, "time": "2026-11-23T10:00:00.000Z"}))
        log.append(opened("blocked", tenant="beta", route="echo", time="2026-11-23T10:00:01.000Z"))
        usage = {"reserved_tokens": 50, "input_tokens": 3, "output_tokens": 4}
        await log.append(
            closed("blocked", tenant="beta", outcome="blocked", usage=usage, peer="10.1.2.0/24", time="2026-11-23T10:00:02.000Z")
        ).wait()
        await log.close()

    directory = tmp_path_factory.mktemp("cli") / "audit"
    asyncio.run(build(directory))
    return directory


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_verify_says_ok_and_that_the_tail_is_not_proven(log_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway("verify", log_directory) == 0
    out = capsys.readouterr().out
    assert "tail not proven" in out
    assert "the key came from the log's own directory" in out
    assert gateway("verify", log_directory, "--key", verifier_key(log_directory), "--against", log_directory / "checkpoint") == 0
    out = capsys.readouterr().out
    assert "tail proven" in out
    assert "not proven" not in out


def test_verify_exits_1_on_a_finding_and_names_it_for_a_machine(
    log_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(log_directory, tmp_path / "audit")
    path = tmp_path / "audit/tile/entries/000"
    path.write_bytes(path.read_bytes().replace(b'"request_id":"r7"', b'"request_id":"r8"'))
    assert gateway("verify", tmp_path / "audit", "--json") == 1
    (report,) = lines(capsys)
    assert (report["ok"], report["tail_proven"]) == (False, False)
    assert gateway("verify", log_directory, "--key", Signer(ORIGIN, OTHER_KEY).verifier_key()) == 1


@pytest.mark.parametrize(
    "arguments", [("verify",), ("verify", "/nonexistent"), ("prove", "x"), ("query", ".", "--since", "soon"), ("nothing",)]
)
def test_wrong_use_exits_2(arguments: tuple[str, ...]) -> None:
    assert gateway(*arguments) == 2


def test_a_bad_key_or_checkpoint_file_exits_2(log_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"\xff junk")
    assert gateway("verify", log_directory, "--key", tmp_path / "junk") == 2
    assert gateway("verify", log_directory, "--against", tmp_path / "missing") == 2
    assert gateway("verify", log_directory, "--against", tmp_path / "junk") == 1


@pytest.mark.parametrize("command", ["verify", "query", "tail", "prove", "export", "report"])
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway(command, "--help") == 0
    assert f"example: gateway audit {command}" in capsys.readouterr().out


def test_query_filters_and_looks_up(log_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway("query", log_directory, "--request-id", "r150", "--json") == 0
    found = lines(capsys)
    assert [(fields["index"], fields["type"]) for fields in found] == [(301, "opened"), (302, "closed")]
    assert gateway("query", log_directory, "--tenant", "beta", "--outcome", "blocked", "--json") == 0
    assert [fields["request_id"] for fields in lines(capsys)] == ["blocked"]
    assert gateway("query", log_directory, "--tenant", "beta", "--since", "2026-11-23T10:00:01Z", "--json") == 0
    assert len(lines(capsys)) == 2
    assert gateway("query", log_directory, "--index", 301) == 0
    assert lines(capsys)[0]["request_id"] == "r150"
    assert gateway("query", log_directory, "--index", 10**9) == 1
    capsys.readouterr()
    assert gateway("query", log_directory, "--limit", 3) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_tail_prints_the_end(log_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway("tail", log_directory, "-n", 3, "--json") == 0
    assert [fields["type"] for fields in lines(capsys)] == ["opened", "closed", "stop"]
    assert gateway("tail", log_directory, "-n", 2, "--type", "start", "--json") == 0
    assert [fields["index"] for fields in lines(capsys)] == [0]


async def test_following_sees_records_as_they_become_durable(tmp_path: Path) -> None:
    log = open_log(tmp_path, publish_interval_s=1e9)
    await log.start()
    reader = LogReader(tmp_path, Verifier(verifier_key(tmp_path)))
    looks = 0

    def pause() -> bool:
        nonlocal looks
        looks += 1
        return looks < 2

    seen = reader.follow(Filter(type="opened"), 0, pause=pause)
    await log.append(opened("r1")).wait()
    assert next(seen).fields["request_id"] == "r1"
    assert list(seen) == []
    await log.close()


def test_a_proof_holds_and_a_changed_one_does_not(log_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verifier = Verifier(Signer(ORIGIN, KEY).verifier_key())
    size = LogReader(log_directory, verifier).checkpoint.size
    for index in (0, 1, 255, 256, 301, size - 1):
        assert gateway("prove", log_directory, index) == 0
        (proof,) = lines(capsys)
        assert (proof["index"], proof["tree_size"]) == (index, size)
        assert check_proof(proof, verifier) == ""
        assert check_proof({**proof, "index": (index + 1) % size}, verifier)
        assert check_proof({**proof, "record": str(proof["record"]) + " "}, verifier)
        assert check_proof({**proof, "tree_size": size - 1}, verifier)
        assert check_proof({**proof, "proof": []}, verifier)
        assert check_proof({**proof, "checkpoint": "x"}, verifier)
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    assert gateway("prove", log_directory, "--check", tmp_path / "proof.json") == 0
    (tmp_path / "proof.json").write_text(json.dumps({**proof, "index": 3}))
    assert gateway("prove", log_directory, "--check", tmp_path / "proof.json") == 1
    for junk in (b"", b"[1]", b"\xff", b"[" * 100_000, b'{"proof":["\xc3\xa9"]}'):
        (tmp_path / "proof.json").write_bytes(junk)
        assert gateway("prove", log_directory, "--check", tmp_path / "proof.json") == 1
    assert gateway("prove", log_directory, size) == 1


def test_the_report_counts_and_verifies(log_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway("report", log_directory, "--json") == 0
    (report,) = lines(capsys)
    assert report["counts"]["outcome"] == {"blocked": 1, "finished": 200, "refused": 1}
    assert report["counts"]["refusal"] == {"invalid_token": 41, "policy_denied": 1}
    assert report["counts"]["tenant"] == {"acme": 200, "beta": 2}
    assert report["integrity"]["ok"]


@pytest.mark.parametrize("form", ["ocsf", "asim", "ecs"])
def test_every_record_has_an_event_in_each_schema(log_directory: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert gateway("export", log_directory, "--format", form) == 0
    events = lines(capsys)
    assert len(events) == 406
    blocked = next(
        event
        for event in events
        if "blocked" in json.dumps(event) and "output" in json.dumps(event).lower().replace("completion", "output")
    )
    if form == "ocsf":
        assert (blocked["class_uid"], blocked["type_uid"], blocked["disposition_id"], blocked["time"]) == (6003, 600399, 2, 1795428002000)
        assert blocked["message_context"]["completion_tokens"] == 4
        assert {event["class_uid"] for event in events} == {6002, 6003}
    elif form == "asim":
        assert (blocked["EventSchema"], blocked["EventResult"], blocked["SrcIpAddr"], blocked["OutputTokensUsed"]) == (
            "AgentEvent",
            "Failure",
            "10.1.2.0",
            4,
        )
    else:
        assert (blocked["event"]["outcome"], blocked["gen_ai"]["usage"]["output_tokens"]) == ("failure", 4)


def test_a_terminal_is_not_driven_by_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    async def build() -> None:
        log = open_log(tmp_path)
        await log.start()
        await log.append(record.encode({"type": "refused", "tenant": "\x1b[2J\x9b\u202e"})).wait()
        await log.close()

    asyncio.run(build())
    for arguments in (("query", tmp_path), ("query", tmp_path, "--json")):
        assert gateway(*arguments) == 0
        out = capsys.readouterr().out
        assert not any(c in out for c in "\x1b\x9b\u202e"), arguments
