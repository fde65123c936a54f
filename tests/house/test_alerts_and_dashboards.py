"""Alerts, their tests, their pages and the dashboard hold together, and name only what the gateway shows."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import absent
from prometheus_client.metrics_core import Metric

from gateway.__main__ import parser_for
from gateway.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/alerts/gateway.rules.yaml"
TESTS = sorted((ROOT / "deploy/alerts/tests").glob("*.yaml"))
DASHBOARD = ROOT / "deploy/dashboards/gateway.json"
RUNBOOKS = ROOT / "docs/runbooks"

GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
RECORDS = [rule for group in GROUPS for rule in group["rules"] if "record" in rule]
NAMES = [rule["alert"] for rule in ALERTS]
CASES = [case for path in TESTS for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]]


def promtool() -> str:
    """Return the command: `GATEWAY_PROMTOOL`, or on PATH."""
    given = os.environ.get("GATEWAY_PROMTOOL")
    found = given if given and Path(given).exists() else shutil.which("promtool")
    if found is None:
        absent("promtool is not installed: set GATEWAY_PROMTOOL or put it on PATH (Debian has it in `prometheus`)")
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool(), *map(str, command)], capture_output=True, text=True, timeout=100, check=False)


def shown() -> dict[str, set[str]]:
    """Return each series the gateway can show with its labels, as the registry of the code has them."""
    metrics = Metrics()
    made: dict[str, set[str]] = {}
    for collector in {id(c): c for c in metrics.registry._names_to_collectors.values()}.values():
        for metric in collector.describe() if hasattr(collector, "describe") else []:
            assert isinstance(metric, Metric)
            labels = set(getattr(collector, "_labelnames", ()))
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
            for suffix in suffixes:
                made[metric.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    for line in metrics.render().decode().splitlines():
        if line.startswith("process_"):
            made.setdefault(line.split(" ")[0], set())
    return made


SHOWN = shown()
NOT_OURS = {"up"}
ADDED = {"job", "instance"}  # by the scrape


def series(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:gateway|process)_[a-z0-9_]+", expression))


def expressions() -> list[tuple[str, str]]:
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in (*ALERTS, *RECORDS)]
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found + [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]


def test_the_registry_was_read() -> None:
    assert {"gateway_exchanges_total", "gateway_overhead_seconds_bucket", "process_resident_memory_bytes"} <= set(SHOWN)
    assert SHOWN["gateway_refusals_total"] == {"code"}


@pytest.mark.parametrize(("where", "expression"), expressions(), ids=lambda v: v[:40])
def test_an_expression_names_only_what_the_gateway_shows(where: str, expression: str) -> None:
    recorded = {rule["record"] for rule in RECORDS}
    assert set(re.findall(r"\bgateway:[a-z0-9_:]+", expression)) <= recorded
    plain = re.sub(r"\bgateway:[a-z0-9_:]+", "", expression)
    assert series(plain) <= set(SHOWN), where
    for name, matchers in re.findall(r"\b((?:gateway|process)_[a-z0-9_]+)\{([^}]*)\}", plain):
        assert set(re.findall(r"([a-z_]+)\s*=~?", matchers)) <= SHOWN[name] | ADDED, where
    grouped = {label.strip() for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", plain) for label in labels.split(",")}
    assert grouped <= set().union(ADDED, *(SHOWN[name] for name in series(plain))), where


def test_codes_in_rules_are_codes_of_refusals() -> None:
    from gateway.refusals import KINDS

    codes = {kind.code for kind in KINDS}
    named = {code for _, text in expressions() for codes_ in re.findall(r'code=~?"([^"]+)"', text) for code in codes_.split("|")}
    assert named and named <= codes
    ours = {kind.code for kind in KINDS if kind.status >= 500}
    assert {code for rule in RECORDS for code in re.search(r'code=~"([^"]+)"', rule["expr"])[1].split("|")} == ours  # type: ignore[index]


# --- alerts


def test_alerts_are_named_once() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 25


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_an_alert_says_what_how_bad_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"] == {"severity": rule["labels"]["severity"]} and rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert 20 < len(rule["annotations"]["summary"]) < 160 and not rule["annotations"]["summary"].endswith(".")
    assert re.fullmatch(r"[0-9]+[mh]", rule["for"])


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_a_firing_and_a_quiet_test(name: str) -> None:
    tests = [rule for case in CASES for rule in case.get("alert_rule_test", []) if rule["alertname"] == name]
    assert [t for t in tests if t["exp_alerts"]], "no firing test"
    assert [t for t in tests if not t["exp_alerts"]], "no quiet test"


def test_series_in_tests_exist() -> None:
    """A quiet test over a misspelt series would be quiet for ever."""
    for case in CASES:
        for given in case["input_series"]:
            name, _, labels = given["series"].partition("{")
            assert name in SHOWN or name in NOT_OURS, given
            named = set(re.findall(r"([a-z_]+)=", labels))
            assert name in NOT_OURS or (named == SHOWN[name] | ADDED), given


def test_quiet_tests_have_the_series_their_alert_reads() -> None:
    records = {rule["record"]: rule["expr"] for rule in RECORDS}
    for rule in ALERTS:
        read = series(rule["expr"].replace("absent(", "(")) | {n for r, e in records.items() if r in rule["expr"] for n in series(e)}
        for case in CASES:
            if any(t["alertname"] == rule["alert"] and not t["exp_alerts"] for t in case["alert_rule_test"]):
                given = {s["series"].partition("{")[0] for s in case["input_series"]}
                assert given & read, rule["alert"]


def test_rules_are_rules() -> None:
    done = run("check", "rules", RULES)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS) + len(RECORDS)} rules found" in done.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.stem)
def test_alerts_fire_and_keep_quiet(path: Path) -> None:
    done = run("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


# --- pages


def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    assert sorted(p.stem for p in RUNBOOKS.glob("*.md")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_answers_the_same_five_questions(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == ["What it means", "First look", "Likely causes", "What to do", "When to escalate"]
    assert "```sh\n" in text
    assert set(re.findall(r"\bGateway[A-Z][A-Za-z]+", text)) <= set(NAMES)
    assert series(text) <= set(SHOWN) | {n.removesuffix("_total") for n in SHOWN} | _prefixes(text)


def _prefixes(text: str) -> set[str]:
    """What a page greps for may be the beginning of names."""
    return {found for found in series(text) if any(name.startswith(found) for name in SHOWN)}


def commands() -> list[tuple[str, str]]:
    found = []
    for path in sorted(RUNBOOKS.glob("*.md")):
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                found += [(path.stem, part.strip()) for part in re.split(r"[|;]|\s-- ", line) if part.strip().startswith("gateway ")]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_in_a_page_is_one_of_ours(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    try:
        parser_for(words).parse_args(words)
    except SystemExit as exit_:
        assert not exit_.code, f"{page}: `{command}` is not understood: {capsys.readouterr().err}"


# --- the dashboard


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) > 20
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["At a glance", "Traffic", "Refusals", "Inspection", "Streams and backends", "Tokens and cost", "Audit integrity"]
    for panel in board["panels"]:
        targets = [target["refId"] for target in panel.get("targets", [])]
        assert panel["type"] == "row" or (targets and targets == list("ABCDEFG")[: len(targets)])
        grid = panel["gridPos"]
        assert 0 <= grid["x"] and grid["x"] + grid["w"] <= 24


def test_no_panel_overlaps_another() -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        grid = panel["gridPos"]
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]


def test_the_data_source_is_chosen_by_the_reader() -> None:
    text = DASHBOARD.read_text(encoding="utf-8")
    sources = re.findall(r'"datasource": \{\s*"type": "([^"]+)",\s*"uid": "([^"]+)"', text)
    assert sources and set(sources) == {("prometheus", "${datasource}")}


def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    filled = [re.sub(r"\$(job|instance)", ".*", text.replace("$__rate_interval", "5m")) for text in texts]
    assert not [text for text in filled if "$" in text]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(filled)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = run("check", "rules", tmp_path / "panels.yaml")
    assert done.returncode == 0, done.stderr
