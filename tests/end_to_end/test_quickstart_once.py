"""`gateway quickstart --once`: the table as a machine reads it, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_serve import free_ports

SCENES = 13


def once(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    names = ("data", "control", "ops", "issuer", "simulator")
    ports = [word for name, port in zip(names, free_ports(len(names)), strict=True) for word in (f"--{name}-port", str(port))]
    command = [sys.executable, "-m", "gateway", "quickstart", "--once", "--state", str(folder / "state"), *ports, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_table_is_json_where_it_is_asked_for(tmp_path: Path) -> None:
    done = once(tmp_path, "--json", "--no-ner")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is True and len(told["outcomes"]) == SCENES and all(row["good"] for row in told["outcomes"])
    by_name = {row["what"]: row for row in told["outcomes"]}
    assert by_name["personal data redacted both ways"]["expected"] == "placeholders, names stay", "without names it says so"
    assert "never for production" in done.stderr and "loopback only" in done.stderr
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
