"""Our numbers and those of the public scoring scripts, on the same predictions: equal to three decimals."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from gateway.evaluation import measures, scores, sets, spans
from gateway.evaluation.measures import Judged
from gateway.evaluation.sets import Document, Labelled, Manifest
from gateway.evidence import Role

ROOT = Path(__file__).parent.parent.parent.parent
SCORE = Path(os.environ.get("GATEWAY_SCORE", ROOT.parent / "shared" / "score"))
OWN = ROOT / "tests" / "data" / "evaluation"
DATA = Path(os.environ.get("GATEWAY_DATA", ROOT.parent / "shared" / "data"))


def _script(name: str) -> Path:
    path = SCORE / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the checkout (GATEWAY_SCORE)")
    return path


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    path = _script("moderation.py")
    for needed in ("sklearn", "scipy"):
        pytest.importorskip(needed, reason=f"`{needed}` is not installed: the public scorer needs it")
    spec = importlib.util.spec_from_file_location("public_moderation_scorer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _guesses(documents: list[Document], seed: int) -> dict[str, list[tuple[int, int, str]]]:
    """Marked spans, some cut, grown, renamed, dropped, and some invented."""
    draw = random.Random(seed)
    out: dict[str, list[tuple[int, int, str]]] = {}
    for document in documents:
        found = []
        for start, end, kind in document.marks:
            chance = draw.random()
            if chance < 0.15:
                continue
            if chance < 0.35 and end - start > 4:
                end -= draw.randint(1, 3)
            elif chance < 0.5:
                end = min(len(document.text), end + draw.randint(1, 6))
            elif chance < 0.6:
                kind = draw.choice(["ORGANIZATION", "DATE_TIME", "GPE", "SSN"])
            found.append((start, end, kind))
        if draw.random() < 0.3 and len(document.text) > 12:
            at = draw.randrange(len(document.text) - 8)
            found.append((at, at + draw.randint(2, 8), draw.choice(["PERSON", "LOCATION"])))
        out[document.id] = found
    return out


def _unlike(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, tuple[float, float]]:
    assert ours.keys() == theirs.keys()
    return {name: (ours[name], theirs[name]) for name in ours if abs(ours[name] - theirs[name]) > 0.0005 + 1e-9}


def _compare_spans(documents: list[Document], tmp_path: Path, seed: int) -> int:
    gold, predicted, report = tmp_path / "gold.jsonl", tmp_path / "predicted.jsonl", tmp_path / "report.json"
    guesses = _guesses(documents, seed)
    rows = [
        {
            "id": d.id, "source": d.source, "lang": d.lang, "text": d.text, "types": sorted(d.types),
            "spans": [{"start": s, "end": e, "type": t} for s, e, t in d.marks],
        }
        for d in documents
    ]  # fmt: skip
    gold.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf8")
    said = [{"id": key, "spans": [{"start": s, "end": e, "type": t} for s, e, t in found]} for key, found in guesses.items()]
    predicted.write_text("\n".join(map(json.dumps, said)) + "\n", encoding="utf8")
    command = [sys.executable, str(_script("pii.py")), "--gold", str(gold), "--pred", str(predicted), "--json", str(report)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    theirs = json.loads(report.read_text())
    counted = spans.SpanScores()
    for document in documents:
        counted.add(document, guesses[document.id])
    compared = 0
    for source, expected in theirs["sources"].items():
        name, lang = source.split("/")
        assert not _unlike(
            {"over": counted.outside(lambda s, of, name=name, lang=lang: s == name and of == lang).over}, {"over": expected["over"]}
        )
        for kind, row in expected["types"].items():
            tally = counted.tallies[name, lang, kind]
            ours, wanted = _flat(tally), {
                f"{how}.{what}": row[how][what] for how in ("strict", "partial", "token") for what in ("P", "R", "F1", "F2")
            }  # fmt: skip
            if tally.inside:
                ours["leak"], wanted["leak"] = tally.leak, row["leak"]
            assert not _unlike(ours, wanted), (source, kind)
            compared += len(wanted)
    return compared


def _flat(tally: spans.Tally) -> dict[str, float]:
    out = {}
    for how, rates in (("strict", tally.by_strict), ("partial", tally.by_partial), ("token", tally.by_token)):
        out |= {f"{how}.P": rates.precision, f"{how}.R": rates.recall, f"{how}.F1": rates.f1, f"{how}.F2": rates.f2}
    return out


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_spans_are_counted_as_the_public_scorer_counts_them(seed: int, tmp_path: Path) -> None:
    assert _compare_spans(list(sets.read(OWN).documents), tmp_path, seed) > 300


def test_spans_of_the_public_sets_are_counted_alike(tmp_path: Path) -> None:
    if not (DATA / "pii").is_dir():
        pytest.skip("the public sets are not beside the checkout (GATEWAY_DATA)")
    known = {"en", "de", "es", "fr"}  # the public scorer puts other languages into one row
    documents = [d for d in sets.read(DATA, only="pii", most=60).documents if d.lang in known]
    assert _compare_spans(documents, tmp_path, 4) > 600


def _labelled(seed: int) -> list[Judged]:
    """Rows of the public sources' names with scores that overlap and tie."""
    draw = random.Random(seed)
    out = []
    everywhere = dict.fromkeys(measures.HEADS, 0)
    plan: list[tuple[str, dict[str, int], float]] = [
        ("dolly", everywhere, 0.15), ("mtbench", everywhere, 0.2), ("wildchat_benign", {"harmful": 0}, 0.3), ("c4", everywhere, 0.2),
        ("advbench", {"harmful": 1, "attack": 0}, 0.7), ("harmbench", {"harmful": 1, "attack": 0}, 0.45),
        ("xstest_safe", everywhere, 0.35), ("xstest_unsafe", {"harmful": 1, "attack": 0}, 0.6), ("notinject", everywhere, 0.3),
        ("itw_jailbreak", {"attack": 1}, 0.8), ("cyberseceval_pi", {"attack": 1}, 0.5),
        ("aegis_test", {"harmful": 1}, 0.6), ("aegis_test", {"harmful": 0}, 0.4), ("slabs_test", {"attack": 1}, 0.7),
        ("slabs_test", {"attack": 0}, 0.3), ("hatecheck", {"hate": 1}, 0.6), ("hatecheck", {"hate": 0}, 0.5),
        ("openai_moderation_eval", {"hate": 1, "sexual": 0, "harmful": 1}, 0.6),
        ("openai_moderation_eval", {"hate": 0, "sexual": 1, "violence": 1, "harmful": 1}, 0.6),
        ("openai_moderation_eval", {"hate": 0, "sexual": 0, "violence": 0, "self_harm": 0, "harmful": 0}, 0.3),
        ("openai_moderation_eval", {"self_harm": 1}, 0.5),
    ]  # fmt: skip
    for source, labels, centre in plan:
        for _ in range(90):
            said = {head: round(min(1.0, max(0.0, draw.gauss(centre, 0.2))), 2) for head in measures.HEADS}
            out.append(Judged(Labelled(source, "x", Role.USER, labels), said))
    for _ in range(40):
        severity = draw.random()
        said = {head: round(min(1.0, max(0.0, severity + draw.gauss(0, 0.3))), 2) for head in measures.HEADS}
        out.append(Judged(Labelled("pyrit_harm_violence", "x", Role.ASSISTANT, {"violence": int(severity > 0.5)}, severity), said))
    return out


def _theirs(report: dict[str, Any]) -> dict[str, float]:
    out = {}
    for head, row in report["openai_moderation"].items():
        out |= {f"moderation.{head}.openai_moderation_eval.{kind}": row[kind] for kind in ("auprc", "auroc")}
    for head in measures.SCREENS:
        for source, row in report[head].items():
            if not isinstance(row, dict):
                continue
            kind, _, name = source.rpartition(":")
            names = {"": ("recall@1.0%", "recall_1pct"), "FPR": ("fpr@1%thr", "fpr_1pct"), "MIX": ("auprc", "auprc")}
            there, here = names[kind]
            if there in row:
                out[f"moderation.{head}.{name}.{here}"] = row[there]
            if kind != "MIX" and "recall@0.5" in row:
                out[f"moderation.{head}.{name}.recall_half"] = row["recall@0.5"]
    out |= {f"moderation.hate.hatecheck.{kind}": report["hatecheck"][kind] for kind in ("auprc", "auroc")}
    out |= {f"moderation.{head}.severity.rho": row["spearman"] for head, row in report["severity_pyrit"].items()}
    return out


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_harm_and_attacks_are_scored_as_the_public_scorer_scores_them(reference: ModuleType, seed: int) -> None:
    judged = _labelled(seed)
    rows = [{"source": j.row.source, "labels": j.row.labels, "severity": j.row.severity} for j in judged]
    theirs = _theirs(reference.evaluate(rows, [dict(j.scores) for j in judged]))
    ours = {one.name: one.value for one in measures.moderation(judged, Manifest())}
    shared = theirs.keys() & ours.keys()
    assert len(shared) >= 30, sorted(theirs.keys() - ours.keys())
    assert {n for n in theirs if n not in ours} <= {f"moderation.harmful.XSTest safe-vs-unsafe.{k}" for k in ("auprc", "auroc")}
    assert not _unlike({n: ours[n] for n in shared}, {n: theirs[n] for n in shared})
    at = measures.thresholds(judged, Manifest())
    report = reference.evaluate(rows, [dict(j.scores) for j in judged])
    assert at == pytest.approx({head: report[head]["threshold@1%FPR"] for head in measures.SCREENS})


@pytest.mark.parametrize("seed", range(5))
def test_ranking_measures_equal_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="`sklearn` is not installed")
    draw = random.Random(seed)
    labels = [int(draw.random() < 0.3) for _ in range(200)] + [0, 1]
    values = [round(draw.random() * 0.6 + 0.3 * label, draw.choice([1, 2])) for label in labels]
    assert scores.average_precision(labels, values) == pytest.approx(metrics.average_precision_score(labels, values))
    assert scores.auroc(labels, values) == pytest.approx(metrics.roc_auc_score(labels, values))


def test_rows_survive_the_way_through_the_public_format(tmp_path: Path) -> None:
    """What the comparison writes for the other scorer is what we read."""
    document = sets.read(OWN).documents[0]
    folder = tmp_path / "pii"
    folder.mkdir()
    row = {
        "id": document.id, "source": document.source, "lang": document.lang, "types": sorted(document.types), "text": document.text,
        "spans": [{"start": s, "end": e, "type": t, "label": t} for s, e, t in document.marks],
    }  # fmt: skip
    (folder / "one.jsonl").write_bytes(msgspec.json.encode(row) + b"\n")
    assert sets.read(tmp_path).documents == (document,)
