"""Is the Dockerfile what its linter and a security review ask for?"""

from __future__ import annotations

import json
import re
from pathlib import Path

from chart_tools import ROOT, program, run

DOCKERFILE = ROOT / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")


def test_hadolint_finds_nothing() -> None:
    done = run(program("hadolint"), "--format", "json", DOCKERFILE)
    assert done.returncode == 0 and json.loads(done.stdout) == [], done.stdout + done.stderr
    assert "hadolint ignore" not in TEXT


def test_hadolint_would_find_a_fault(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd / && sudo ls\n", encoding="utf-8")
    done = run(program("hadolint"), "--format", "json", bad)
    assert done.returncode != 0 and {"DL3007", "DL3004"} <= {one["code"] for one in json.loads(done.stdout)}


def test_checkov_finds_nothing_in_it() -> None:
    done = run(program("checkov"), "--framework", "dockerfile", "--skip-download", "--compact", "--quiet", "-o", "json", "-f", DOCKERFILE)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 10 and report["summary"]["parsing_errors"] == 0
    # The base is an argument, which this linter does not resolve: its default has a tag, and a build gives a digest.
    assert {c["check_id"] for c in report["results"]["failed_checks"]} <= {"CKV_DOCKER_7"}
    assert re.findall(r"^ARG BASE=(\S+)$", TEXT, re.MULTILINE) == ["python:3.13-slim-bookworm"]


def test_it_is_two_stages_by_an_argument_and_runs_as_a_number() -> None:
    assert re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE) == ["${BASE}", "${BASE}"]
    last = TEXT.split("\nFROM ")[-1]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE) and "RUN " not in last and "ADD " not in TEXT
    assert len(re.findall(r"pip install(?! --require-hashes| --no-deps --no-build-isolation)", TEXT)) == 0


def test_only_what_the_image_is_made_from_goes_to_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    sources = [word for line in re.findall(r"^COPY (?!--from)(.*)$", TEXT, re.MULTILINE) for word in line.split()[:-1]]
    copied = {source.removeprefix("./").rstrip("/") for source in sources}
    assert {line[1:].rstrip("/") for line in lines if line.startswith("!")} == copied
