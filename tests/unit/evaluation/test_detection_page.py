"""Does the page on detection show the stored baseline, and name what exists?"""

from __future__ import annotations

import re
from pathlib import Path

from gateway.evaluation import baseline, evasions, measures, tables
from gateway.evaluation.floors import FLOORS
from gateway.evaluation.measures import Measure

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")


def test_the_table_is_the_baseline() -> None:
    """Renew it with `gateway evaluate --write-docs docs/detection.md`."""
    assert tables.with_block(PAGE, tables.document_block(baseline.load())) == PAGE


def test_both_measurements_are_stored() -> None:
    stored = baseline.load()
    assert stored.named("public") is not None
    assert stored.named("self-made") is not None


def test_every_floor_has_a_value_or_is_a_set_that_nobody_has() -> None:
    stored = {name for entry in baseline.load().entries for name in entry.measured}
    without = {name for name in FLOORS if name not in stored}
    assert without <= {
        "moderation.harmful.cnn_news.fpr_1pct",
        "moderation.attack.tensortrust_extract.recall_1pct",
        "pii.adversarial.IBAN_CODE.recall",
        "pii.adversarial.CREDIT_CARD.recall",
    }


def test_the_page_explains_every_kind_of_number() -> None:
    kinds = (
        {name.rpartition(".")[2] for name in FLOORS}
        | measures.LOWER_IS_BETTER
        | {"recall_half", "fpr_half", "kept", "kept_by_score", "rho"}
    )
    explained = kinds - {"recall", "precision", "unanswered", "count", "worst_kept"}
    assert [kind for kind in explained if f"`{kind}`" not in PAGE and not re.search(rf"`[a-z_.*]*\.{kind}`", PAGE)] == []


def test_modules_and_groups_the_page_names_exist() -> None:
    for path in re.findall(r"`((?:content|providers)/[a-z_/]+\.py)`", PAGE):
        assert (ROOT / "gateway" / path).is_file(), path
    assert len(evasions.LOSSLESS) == 12
    assert len(evasions.ENCODINGS) == 6


def test_missed_floors_are_said_to_be_missed() -> None:
    for entry in baseline.load().entries:
        section = PAGE[PAGE.index(f"({entry.rows})") :].split("###")[0]
        for name, (value, n) in entry.measured.items():
            floor = FLOORS.get(name)
            if floor is None:
                continue
            worse = value > floor.at if Measure(name, value, n).lower_is_better else value < floor.at
            row = next(line for line in section.splitlines() if f"`{name}`" in line)
            assert ("**missed**" in row) is worse, name
