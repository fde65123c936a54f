"""The rules of the house, read off the source: length, banned words, imports, names, docstrings, and what must be documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

from gateway import refusals, settings
from gateway.content.inspect import Inspection
from gateway.http.reply import render, stream_error
from gateway.refusals import KINDS, Fault, Kind, Refusal
from gateway.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent.parent
GATEWAY = ROOT / "gateway"
MODULES = sorted(GATEWAY.rglob("*.py"))
MAX_FUNCTION_LINES = 100
BANNED_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "data", "misc"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def everywhere(*kinds: type[ast.AST]) -> list[tuple[str, ast.AST]]:
    return [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kinds)]


def test_there_is_something_to_read() -> None:
    assert len(MODULES) > 100
    assert "gateway/pipeline.py" in TREES


def test_no_function_is_too_long() -> None:
    longest = sorted(((lines(f), name, f.name) for name, tree in TREES.items() for f in functions(tree)), reverse=True)
    assert longest[0][0] <= MAX_FUNCTION_LINES, longest[:5]


def test_serve_can_be_read_at_one_glance() -> None:
    (serve,) = [f for f in functions(TREES["gateway/pipeline.py"]) if f.name == "serve"]
    assert lines(serve) <= 40


def test_no_assert_guards_anything() -> None:
    """`python -O` removes asserts."""
    assert [(name, node.lineno) for name, node in everywhere(ast.Assert)] == []  # type: ignore[attr-defined]


def test_broad_excepts_stand_in_one_place() -> None:
    found = []
    for name, node in everywhere(ast.ExceptHandler):
        assert isinstance(node, ast.ExceptHandler)
        if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
            continue  # cleans up and passes everything on
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(c is None or (isinstance(c, ast.Name) and c.id in ("Exception", "BaseException")) for c in caught):
            found.append(name)
    assert found == ["gateway/pipeline.py"]


def test_no_globals_change() -> None:
    assert [(name, node.lineno) for name, node in everywhere(ast.Global)] == []  # type: ignore[attr-defined]


def test_nothing_is_imported_inside_functions() -> None:
    found = []
    for name, tree in TREES.items():
        for function in functions(tree):
            found += [f"{name}:{n.lineno}" for n in ast.walk(function) if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert found == []


def test_modules_are_loaded_by_name_only_by_commands_and_providers() -> None:
    found = {name for name, node in everywhere(ast.Attribute) if isinstance(node, ast.Attribute) and node.attr == "import_module"}
    allowed = {"gateway/__main__.py"}
    outside = {name for name in found - allowed if not name.startswith(("gateway/providers/", "gateway/commands/", "gateway/training/"))}
    assert outside <= {"gateway/loops.py"}


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_module_says_which_question_it_answers(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").strip()
    assert not text or ast.get_docstring(TREES[name])


def test_no_drawer_is_called_miscellaneous() -> None:
    assert [name_of(p) for p in MODULES if p.stem in BANNED_NAMES or p.parent.name in BANNED_NAMES] == []


def test_docstrings_end_and_no_text_says_todo() -> None:
    found = [name for name in TREES if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", (ROOT / name).read_text(encoding="utf-8"))]
    assert found == []


def test_imports_point_inward() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    if not Path(command[0]).exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-1_000:]
    assert " 0 broken" in done.stdout


def test_decisions_do_no_io_even_by_the_back_door() -> None:
    """Beside the import contract: no clock, no chance, no file is reached through a builtin."""
    sans_io = [
        "limits/bucket", "limits/reservation", "limits/concurrency", "limits/quota", "content/stream", "content/rules",
        "content/pseudonyms", "identity/token", "upstream/breaker", "upstream/sse", "audit/tree", "policy/decide",
    ]  # fmt: skip
    for module in sans_io:
        tree = TREES[f"gateway/{module}.py"]
        calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        assert not set(calls) & {"open", "print", "input", "eval", "exec", "__import__"}, module


# --- every no -------------------------------------------------------------------------------------------------------------


def test_the_table_of_refusals_is_complete() -> None:
    named = [value for value in vars(refusals).values() if isinstance(value, Kind)]
    assert len(named) == len(KINDS) and all(kind in KINDS for kind in named)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.status}-{kind.code}")
def test_every_refusal_has_one_shape(kind: Kind) -> None:
    given = Refusal(kind, retry_after_s=1.5, detail="PRIVATE", param="messages[0].content")
    status, headers, body = render(given, [(b"x-request-id", b"r-1")])
    named = dict(headers)
    error = msgspec.json.decode(body)["error"]
    assert status == kind.status
    assert error == {"message": kind.message, "type": kind.type, "param": "messages[0].content", "code": kind.code}
    assert named[b"content-type"] == b"application/json" and int(named[b"content-length"]) == len(body)
    assert named[b"x-request-id"] == b"r-1" and named[b"cache-control"] == b"no-store"
    assert (b"www-authenticate" in named) is (status == 401)
    assert (named.get(b"x-should-retry") == b"false") is (kind.should_retry is False)
    assert (b"retry-after" in named) is (kind.should_retry is not False)
    assert b"PRIVATE" not in body + b"".join(named.values())
    assert stream_error(given) == b"data: " + body + b"\n\n"
    assert kind.message[0].islower() != kind.message.endswith(".") or kind.code == "DeploymentNotFound"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.status}-{kind.code}")
def test_the_status_says_whose_fault_it_is(kind: Kind) -> None:
    assert (400 <= kind.status < 500) is (kind.fault is Fault.CALLER)
    assert (kind.status in (502, 504)) is (kind.fault is Fault.THEM)


def test_a_code_has_one_status_but_for_backends() -> None:
    statuses: dict[str, set[int]] = {}
    for kind in KINDS:
        statuses.setdefault(kind.code, set()).add(kind.status)
    assert {code: seen for code, seen in statuses.items() if len(seen) > 1} == {"backend_unavailable": {502, 504}}


# --- what must be documented ----------------------------------------------------------------------------------------------


def test_every_metric_is_named_once_and_marked_alerts_say_when() -> None:
    source = inspect.getsource(Metrics)
    names = re.findall(r'(?:Counter|Gauge|Histogram)\(\s*"([a-z0-9_]+)"', source)
    assert len(names) == len(set(names)) > 15
    assert all(name.startswith("gateway_") for name in names)
    alerts = re.findall(r"# ALERT(.*)", source)
    assert alerts and all(re.fullmatch(r": \S.*", alert) for alert in alerts)


def test_operations_names_only_metrics_that_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    names = set(re.findall(r'"(gateway_[a-z0-9_]+)"', inspect.getsource(Metrics)))
    assert set(re.findall(r"`(gateway_[a-z0-9_]+)`", text)) <= names


def test_every_alert_of_the_source_is_in_operations() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    gauges = re.findall(r'Gauge\(\s*"(gateway_[a-z0-9_]+)".*# ALERT', inspect.getsource(Metrics))
    missing = [name for name in gauges if name not in text]
    assert missing in ([], ["gateway_active_exchanges"])


def setting_keys() -> list[str]:
    made = []
    for section, cls in {**settings._SINGLE, **settings._MANY, "prices.MODEL": settings.Price}.items():
        for key, hint in get_type_hints(cls).items():
            nested = [a for a in (hint, *getattr(hint, "__args__", ())) if isinstance(a, type) and issubclass(a, settings._Section)]
            made += [f"{section}.{key}.{k}" for n in nested for k in n.__struct_fields__] if nested else [f"{section}.{key}"]
    return made


@pytest.mark.parametrize("key", setting_keys())
def test_every_setting_is_documented(key: str) -> None:
    assert f"`{key}`" in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_no_setting_is_documented_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert documented and set(documented) == set(setting_keys())


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        pytest.skip("not a checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_registry_and_no_machine_is_named() -> None:
    """Files name no place a package came from and no folder of the machine they were written on."""
    banned = re.compile(
        rb"files\.python" + rb"hosted|pypi\.or" + rb"g/simple|--index"
        + rb"-url +h|--extra-index" + rb"-url|/" + rb"work/(?:main|shared)|/home/[a-z]+/"
    )
    found = [name_of(path) for path in tracked() if banned.search(path.read_bytes())]
    assert [name for name in found if not name.endswith("test_house_rules.py")] == []


def test_no_secret_lies_in_the_tree() -> None:
    key = re.compile(rb"-----BEGIN (?:RSA |EC )?PRIVATE KEY-----\n[A-Za-z0-9+/]{40}")
    assert [name_of(path) for path in tracked() if key.search(path.read_bytes())] == []


# --- order is evidence ----------------------------------------------------------------------------------------------------

RIGHT = """
from gateway.evidence import ScreenedRequest
from gateway.exchange import Exchange
from gateway.house import House
from gateway.pipeline import Inbound, Opened, forward

async def program(prompt: ScreenedRequest, opened: Opened, inbound: Inbound, house: House, exchange: Exchange) -> None:
    await forward(prompt, opened, inbound, house, exchange)
"""
WRONG = {
    "who asks is no screened request": ("prompt: ScreenedRequest", "prompt: Subject"),
    "a valid request is not yet screened": ("prompt: ScreenedRequest", "prompt: ValidRequest"),
    "an index is no proof of durability": ("opened: Opened", "opened: int"),
    "the proof cannot be left out": ("forward(prompt, opened, inbound", "forward(prompt, inbound"),
}


@pytest.mark.slow
def test_a_skipped_step_does_not_type_check(tmp_path: Path) -> None:
    header = "from gateway.evidence import Subject, ValidRequest\n"
    (tmp_path / "right.py").write_text(header + RIGHT)
    for number, (old, new) in enumerate(WRONG.values()):
        assert old in RIGHT
        (tmp_path / f"wrong{number}.py").write_text(header + RIGHT.replace(old, new))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent", "--no-error-summary"]
    files = [str(path) for path in sorted(tmp_path.glob("*.py"))]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    said = done.stdout + done.stderr
    assert "right.py" not in said, said
    for number, why in enumerate(WRONG):
        assert f"wrong{number}.py" in said, f"{why}: {said}"
        (line,) = [line for line in said.splitlines() if f"wrong{number}.py" in line and "error:" in line]
        assert "arg-type" in line or "call-arg" in line or "Argument" in line, line


def test_only_the_steps_make_their_evidence() -> None:
    """Grep what the type checker cannot: who constructs the values that open the next door."""
    makers: dict[str, set[str]] = {}
    for name, node in everywhere(ast.Call):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            makers.setdefault(node.func.id, set()).add(name)
    assert makers["ScreenedRequest"] == {"gateway/content/inbound.py", "gateway/pipeline.py"}
    assert "Opened" not in {name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                            for name in (alias.name for alias in node.names)}  # fmt: skip
    assert makers["Permit"] == {"gateway/policy/decide.py"}
    assert makers["ValidRequest"] == {"gateway/schema/validate.py"}
    assert makers["Lease"] <= {"gateway/limits/reservation.py", "gateway/providers/redis/counters.py"}


def test_inspection_has_no_way_round() -> None:
    """Every finding comes from the cache or from `_one`, after the scanner: there is no branch that says clean unseen."""
    source, one = inspect.getsource(Inspection), inspect.getsource(Inspection._one)
    assert source.count("Finding(") == one.count("Finding(") == 2
    assert one.index("self.scan(self.inspectors.scanner") < one.index("if _is_run(segment)") < one.index("Finding(")
    assert one.index("Finding(tuple(spans))") > one.index("_is_run"), "only a second reading of texts that are judged by themselves"
    assert importlib.import_module("gateway.content.inbound").__doc__
