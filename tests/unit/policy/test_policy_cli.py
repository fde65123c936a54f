"""`gateway policy`: exit codes, prose and JSON."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
from policy_sets import STARTER, files, write

from gateway.policy.cli import add_arguments


@pytest.fixture
def run(capsys):
    def call(*words: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        add_arguments(parser.add_subparsers())
        arguments = parser.parse_args(["policy", *map(str, words)])
        code = arguments.handler(arguments)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def changed(tmp_path):
    directory = tmp_path / "changed"
    shutil.copytree(STARTER, directory, ignore=shutil.ignore_patterns("bad"))
    path = directory / "access" / "analyst.cedar"
    text = path.read_text().replace('    Gateway::Model::"slow"\n', '    Gateway::Model::"embed"\n')
    path.write_text(text.replace('@profile("echo-restore")', '@profile("echo")'))
    tests = directory / "tests" / "access.toml"
    tests.write_text(tests.read_text().replace('"hostile", "slow"]', '"hostile"]', 1))
    return directory


def test_the_starter_set_passes(run):
    code, out, _ = run("test", STARTER)
    assert code == 0
    assert "every test passed" in out
    assert json.loads(run("test", STARTER, "--json")[1])["ok"] is True


def test_faults_are_findings(run, tmp_path):
    code, out, err = run("test", write(tmp_path, files("permit")))
    assert code == 1
    assert "access/a.cedar:1: not Cedar" in err
    assert out == "1 fault\n"
    code, out, _ = run("test", tmp_path, "--json")
    assert code == 1
    assert json.loads(out)["faults"][0]["file"] == "access/a.cedar"


def test_a_bad_set_that_is_accepted_is_a_finding(run, tmp_path):
    directory = write(tmp_path, files('@id("p") @says("x") @owner("x") permit (principal, action, resource);'))
    write(directory, {"tests/bad/harmless/expect.toml": b'says = "x"\nmessage = "never"\n'})
    code, _, err = run("test", directory)
    assert code == 1
    assert "tests/bad/harmless: this set must be refused but was accepted" in err


def test_explaining_a_denial_names_the_policies_and_who_may(run):
    code, out, _ = run("explain", STARTER, "--role", "analyst", "--action", "chat", "--model", "restricted")
    assert code == 0
    assert out.startswith("chat on `restricted` by analyst: denied\n")
    assert "  The model for restricted data is for operators alone.  [restricted-is-for-operators, data-protection, access/" in out
    assert "roles that may: operator" in out


def test_explaining_a_permit_names_its_obligations(run):
    out = run("explain", STARTER, "--role", "developer", "--action", "chat", "--model", "assistant")[1]
    assert "permitted" in out
    assert "tier: normal" in out
    assert "grants: seed" in out
    words = ("--role", "operator", "--action", "chat", "--model", "restricted", "--zone", "external", "--json")
    found = json.loads(run("explain", STARTER, *words)[1])
    assert found["decision"] == "deny"
    assert [policy["id"] for policy in found["policies"]] == ["restricted-data-stays-inside"]


def test_explaining_what_is_not_seen(run):
    out = run("explain", STARTER, "--action", "chat", "--model", "assistant")[1]
    assert "by a subject without a role: answered as if the model did not exist" in out


@pytest.mark.parametrize("words", [("--role", "nobody", "--model", "assistant"), ("--role", "analyst", "--model", "nothing"), ()])
def test_unknown_names_are_usage(run, words):
    code, _, err = run("explain", STARTER, "--action", "chat", *words)
    assert code == 2
    assert "known are" in err


def test_diff_shows_the_cells_that_change(run, changed):
    assert run("diff", STARTER, STARTER)[:2] == (0, "no decision changes\n")
    code, out, _ = run("diff", STARTER, changed)
    assert code == 1
    assert "analyst: chat on `slow` from loopback: permit -> deny" in out
    assert "analyst: chat on `embed` from external: deny -> permit" in out
    assert "analyst: chat on `echo-restore` from external: permit, profile echo-restore -> permit, profile echo\n" in out
    assert "developer" not in out
    found = json.loads(run("diff", STARTER, changed, "--json")[1])
    change = {"role": "analyst", "action": "chat", "model": "slow", "zone": "loopback", "before": "permit", "after": "deny"}
    assert change in found["changes"]


def test_replay_decides_records_again(run, changed, tmp_path):
    def record(**fields: object) -> str:
        base = {"type": "opened", "time": "2027-01-20T12:00:00.000Z", "decision": "permit", "peer": "127.0.0.1"}
        return json.dumps({**base, "action": "chat.completions", **fields})

    refused = {"type": "refused", "action": "chat.completions", "roles": ["analyst"]}
    lines = [
        record(request_id="r1", resource="slow", roles=["analyst"]),
        record(request_id="r2", resource="assistant", roles=["analyst"]),
        record(request_id="r3", resource="assistant"),
        json.dumps({"index": 3, "record": json.loads(record(request_id="r4", resource="slow", roles=["developer"]))}),
        record(request_id="r5", resource="restricted", roles=["operator"], peer="203.0.113.1"),
        record(request_id="r6", type="closed", resource="slow", roles=["analyst"]),
        json.dumps({**refused, "resource": "embed", "refusal": "policy_denied"}),
        json.dumps({**refused, "resource": "slow", "refusal": "invalid_json"}),
        "not json",
        "[1]",
    ]
    records = tmp_path / "records.jsonl"
    records.write_text("\n".join(lines))
    code, out, _ = run("replay", changed, records)
    assert code == 1
    assert "line 1 r1: chat on `slow`: permit -> deny (no policy permits it)" in out
    assert "line 5 r5: chat on `restricted`: permit -> deny (forbidden by restricted-data-stays-inside)" in out
    assert "line 7 : chat on `embed`: deny -> permit (analyst-chat)" in out
    assert "r2" not in out
    assert "r4" not in out
    assert out.endswith("5 decisions replayed, 3 change, 1 records do not say enough\n")
    assert run("replay", STARTER, tmp_path / "none")[0] == 2
