"""Shipping decides without I/O, reads only what is signed, and finds a log that is not the one it shipped."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from audit_logs import KEY, ORIGIN, OTHER_KEY, closed, fill, open_log, opened, verifier_key
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import segments, shipping
from gateway.audit.cli import OK
from gateway.audit.log import AuditLog
from gateway.audit.segments import NotASegment
from gateway.audit.shipper import FOLDER, Shipper
from gateway.audit.shipping import Bounds, Cursor, LogDiffers, Standing
from gateway.audit.tail import LogTail
from gateway.audit.tree import Edge, Signer, leaf_hash
from gateway.audit.verify import verify
from gateway.ports import Held, Shipment, SinkRefused, SinkUnavailable
from gateway.providers.local.evidence_directory import EvidenceDirectory

VERIFIER = Signer(ORIGIN, KEY).verifier_key()


class Recorder:
    """A sink that remembers, and fails as told. `askable` False: it only takes."""

    def __init__(self, *, askable: bool = True) -> None:
        self.askable = askable
        self.records: list[bytes] = []
        self.shipments: list[Shipment] = []
        self.faults: list[Exception] = []
        self.hang = False

    async def held(self, origin: str) -> Held | None:
        if self.faults:
            raise self.faults.pop(0)
        if not self.askable:
            return None
        return Held(len(self.records), leaf_hash(self.records[-1]) if self.records else None)

    async def ship(self, shipment: Shipment) -> None:
        if self.hang:
            await asyncio.sleep(60)
        if self.faults:
            raise self.faults.pop(0)
        self.shipments.append(shipment)
        self.records += shipment.records[len(self.records) - shipment.first :] if self.askable else shipment.records

    async def aclose(self) -> None:
        pass


async def published(log: AuditLog, directory: Path) -> None:
    tail = LogTail(directory, VERIFIER)
    for _ in range(200):
        if tail.published()[0].size == log.size:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the log was not published")


async def made(directory: Path, exchanges: int, **options: Any) -> AuditLog:
    log = open_log(directory, **options)
    await log.start()
    await fill(log, exchanges)
    await published(log, directory)
    return log


def shipper(sink: Any, directory: Path, **how: Any) -> Shipper:
    return Shipper("second", sink, directory, VERIFIER, **{"draw": lambda: 0.5, **how})


async def drain(made_by: Shipper) -> float:
    for _ in range(1000):
        pause_s = await made_by.step()
        if pause_s != 0.1:
            return pause_s
    raise AssertionError("no end")


# --- decisions


@pytest.mark.parametrize(
    ("cursor", "held", "expected"),
    [(None, None, 0), (7, None, 7), (None, 5, 5), (7, 5, 5), (5, 7, 7)],
    ids=["new", "only takes", "cursor lost", "the sink lost its end", "killed before the cursor"],
)
def test_where_to_go_on(cursor: int | None, held: int | None, expected: int) -> None:
    known = None if cursor is None else Cursor(ORIGIN, cursor, "")
    assert shipping.start(known, None if held is None else Held(held), 10) == expected


@pytest.mark.parametrize(("cursor", "held"), [(11, None), (None, 11), (3, 11), (11, 3)])
def test_a_log_shorter_than_what_was_shipped_is_a_finding(cursor: int | None, held: int | None) -> None:
    known = None if cursor is None else Cursor(ORIGIN, cursor, "")
    with pytest.raises(LogDiffers, match="cut or rolled back"):
        shipping.start(known, None if held is None else Held(held), 10)


def test_backing_off_doubles_to_a_minute_and_never_comes_sooner_than_asked() -> None:
    assert [shipping.backoff_s(n, 0, 0.999999) for n in (1, 2, 3)] == pytest.approx([1, 2, 4], rel=1e-5)
    assert shipping.backoff_s(500, 0, 0.0) == 30.0
    assert shipping.backoff_s(1, 17.0, 0.0) == 17.0
    assert shipping.backoff_s(1, 1e9, 0.0) == 300.0


@given(failures=st.integers(0, 10**6), asked=st.floats(-10, 1e6), draw=st.floats(0, 0.999999))
def test_backing_off_is_bounded(failures: int, asked: float, draw: float) -> None:
    assert 0.5 <= shipping.backoff_s(failures, asked, draw) <= 300.0


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"origin":"o","end":-1,"root":""}', b'{"origin":"o","end":1,"root":"zz"}', b"\xff" * 9]
)
def test_a_broken_cursor_is_none(data: bytes) -> None:
    assert shipping.decode(data) is None


def test_age_and_backlog() -> None:
    standing = Standing()
    assert (standing.backlog(0), standing.age_s(0, 100.0)) == (0, 0.0)
    standing.oldest_s = 40.0
    assert (standing.backlog(9), standing.age_s(9, 100.0)) == (9, 60.0)
    standing.sent(9, 9)
    assert (standing.backlog(9), standing.age_s(9, 100.0)) == (0, 0.0)


@given(st.text(min_size=1, max_size=40))
def test_a_folder_never_leaves_its_place(origin: str) -> None:
    name = segments.folder(origin)
    assert "/" not in name and name not in ("", ".", "..") and name.isascii()


@given(st.integers(0, 10**9), st.integers(1, 12), st.integers(0, 14))
def test_lines_give_back_the_records(first: int, count: int, skip: int) -> None:
    note = Signer(ORIGIN, KEY).sign(first + count, b"\x00" * 32)
    shipment = Shipment(ORIGIN, first, tuple(closed(f"r{i}", note='"}\n{"index":9') for i in range(count)), note)
    start = min(first + skip, shipment.end - 1)
    data = segments.lines(shipment, start)
    assert list(segments.records(data)) == [(i, shipment.records[i - first]) for i in range(start, shipment.end)]
    assert segments.checkpoints(data) == [note]
    assert segments.held(segments.segment(ORIGIN, "2026/01/01/day", start), data, whole=True) == Held(
        shipment.end, leaf_hash(shipment.records[-1])
    )


@pytest.mark.parametrize("tail", [b'{"index":1,"record":{}}', b"\n", b"x\n", b'{"index":01,"record":{}}\n'])
def test_what_we_did_not_write_is_not_read(tail: bytes) -> None:
    with pytest.raises(NotASegment):
        segments.held(segments.segment(ORIGIN, "2026/01/01/day", 0), tail, whole=True)


# --- reading


async def test_batches_are_bounded_and_lose_nothing(tmp_path: Path) -> None:
    log = await made(tmp_path, 700)
    tail, edge, taken = LogTail(tmp_path, VERIFIER), Edge(), []
    bounds = Bounds(records=300, bytes=20_000)
    while (batch := tail.batch(edge, bounds)) is not None:
        assert batch.shipment.first == edge.size == len(taken)
        assert len(batch.shipment.records) <= 300 and sum(map(len, batch.shipment.records)) <= 20_000
        taken += batch.shipment.records
        edge = batch.edge
    assert len(taken) == log.size == 1401
    assert edge.root() == tail.published()[0].root
    assert all(tail.edge(at).size == at for at in (0, 1, 255, 256, 257, 1400))
    await log.close()


async def test_only_what_the_published_checkpoint_covers_is_read(tmp_path: Path) -> None:
    """Durable but not yet published, or on disk and never signed: neither is evidence yet."""
    log = open_log(tmp_path, publish_interval_s=3600)
    await log.start()
    await fill(log, 10)
    assert log.size == 21
    assert LogTail(tmp_path, VERIFIER).batch(Edge(), Bounds()) is None
    await log.close()


async def test_a_record_changed_on_disk_is_not_shipped(tmp_path: Path) -> None:
    log = await made(tmp_path, 200)
    await log.close()
    bundle = tmp_path / "tile/entries/000"
    data = bundle.read_bytes()
    assert data.count(b"acme") > 50
    bundle.write_bytes(data.replace(b"acme", b"evil", 1))
    sink = Recorder()
    made_by = shipper(sink, tmp_path)
    assert await made_by.step() == 60.0
    assert made_by.standing.differs and not sink.records
    assert "not those the checkpoint was signed over" in made_by.standing.why


async def test_a_checkpoint_of_another_key_is_not_followed(tmp_path: Path) -> None:
    log = await made(tmp_path, 3)
    await log.close()
    made_by = Shipper("second", Recorder(), tmp_path, Signer(ORIGIN, OTHER_KEY).verifier_key())
    assert await made_by.step() == 60.0
    assert made_by.standing.differs


# --- shipping


async def test_all_arrives_in_order_and_the_cursor_stands_in_the_log(tmp_path: Path) -> None:
    log = await made(tmp_path, 600)
    sink = Recorder()
    made_by = shipper(sink, tmp_path, bounds=Bounds(100, 1 << 20))
    assert await drain(made_by) == 1.0
    assert sink.records == [record for _, record in _all(tmp_path)]
    assert made_by.standing.backlog(log.size) == 0
    assert (tmp_path / FOLDER / "second.cursor").stat().st_mode & 0o077 == 0
    await log.close()
    report = verify(tmp_path, verifier_key(tmp_path))
    assert report.ok, report.findings


def _all(directory: Path) -> list[tuple[int, bytes]]:
    tail = LogTail(directory, VERIFIER)
    return [(i, tail.record(i)) for i in range(tail.published()[0].size)]


async def test_a_sink_that_only_takes_goes_on_at_the_cursor(tmp_path: Path) -> None:
    log = await made(tmp_path, 5)
    sink = Recorder(askable=False)
    await drain(shipper(sink, tmp_path))
    await drain(shipper(sink, tmp_path))
    assert len(sink.records) == log.size
    (tmp_path / FOLDER / "second.cursor").unlink()
    await drain(shipper(sink, tmp_path))
    assert len(sink.records) == 2 * log.size  # the cursor is all there is to know by: without it, everything goes again
    await log.close()


async def test_faults_back_off_and_nothing_is_lost(tmp_path: Path) -> None:
    log = await made(tmp_path, 5)
    sink = Recorder()
    made_by = shipper(sink, tmp_path)
    sink.faults = [SinkUnavailable("away"), SinkUnavailable("away", 9.0), SinkRefused("no role")]
    assert [await made_by.step() for _ in range(3)] == [0.75, 9.0, 60.0]
    assert (made_by.standing.failures, made_by.standing.why, made_by.standing.differs) == (3, "no role", False)
    assert made_by.standing.backlog(log.size) == log.size and made_by.standing.oldest_s is not None
    assert await made_by.step() == 1.0
    assert len(sink.records) == log.size and made_by.standing.in_a_row == 0
    await log.close()


async def test_a_hanging_sink_is_given_up_on(tmp_path: Path) -> None:
    log = await made(tmp_path, 5)
    sink = Recorder()
    sink.hang = True
    made_by = shipper(sink, tmp_path, timeout_s=0.05)
    assert await made_by.step() == 0.75
    assert "no answer within" in made_by.standing.why
    await log.close()


async def test_a_fault_nobody_foresaw_is_counted_and_shipping_goes_on(tmp_path: Path) -> None:
    """An SDK raises what no contract names: the task must not end in silence."""
    log = await made(tmp_path, 5)
    sink = Recorder()
    sink.faults = [RuntimeError("planted")]
    made_by = shipper(sink, tmp_path, interval_s=0.05, refused_s=0.05)
    made_by.start()
    for _ in range(100):
        await asyncio.sleep(0.02)
        if sink.records:
            break
    assert (made_by.standing.failures, len(sink.records)) == (1, log.size)
    await made_by.stop(1.0)
    await log.close()


async def test_stopping_ships_the_last_records(tmp_path: Path) -> None:
    log = await made(tmp_path, 5)
    sink = Recorder()
    made_by = shipper(sink, tmp_path, interval_s=60.0)
    made_by.start()
    await asyncio.sleep(0.05)
    await log.append(opened("last")).wait()
    await log.close()
    await made_by.stop(2.0)
    await made_by.stop(2.0)
    assert b'"stop"' in sink.records[-1] and len(sink.records) == len(_all(tmp_path))


async def test_stopping_does_not_wait_for_a_hanging_sink(tmp_path: Path) -> None:
    log = await made(tmp_path, 5)
    sink = Recorder()
    sink.hang = True
    made_by = shipper(sink, tmp_path)
    made_by.start()
    await asyncio.sleep(0.02)
    async with asyncio.timeout(1.0):
        await made_by.stop(0.1)
    await log.close()


# --- tampering shows


async def _rolled_back(tmp_path: Path, *, longer: bool) -> tuple[Path, Path]:
    """Ship a log, put an earlier copy of it back, and let the gateway write on: what root on the host could do."""
    audit, second = tmp_path / "audit", tmp_path / "second"
    second.mkdir()
    log = await made(audit, 50)
    await log.close()
    shutil.copytree(audit, tmp_path / "copy")
    log = await made(audit, 50)
    await drain(shipper(EvidenceDirectory(second), audit))
    await log.close()
    shutil.rmtree(audit)
    shutil.copytree(tmp_path / "copy", audit)
    if longer:
        log = open_log(audit)
        await log.start()
        await fill(log, 200, prefix="forged")
        await published(log, audit)
        await log.close()
    return audit, second


@pytest.mark.parametrize("longer", [False, True], ids=["cut", "cut and written on"])
async def test_a_rolled_back_log_is_found_by_the_next_look(tmp_path: Path, longer: bool) -> None:
    audit, second = await _rolled_back(tmp_path, longer=longer)
    before = {p: p.read_bytes() for p in second.rglob("*") if p.is_file()}
    made_by = shipper(EvidenceDirectory(second), audit)
    assert await made_by.step() == 60.0
    assert made_by.standing.differs
    assert re.search("cut or rolled back|another|not the one the sink holds|not those that were shipped", made_by.standing.why)
    assert {p: p.read_bytes() for p in second.rglob("*") if p.is_file()} == before  # the sink keeps what it has


@pytest.mark.parametrize("kept", ["*.note", "*.jsonl"])
@pytest.mark.parametrize("longer", [False, True], ids=["cut", "cut and written on"])
async def test_verify_finds_it_against_what_was_shipped(
    tmp_path: Path, longer: bool, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from gateway.__main__ import main

    audit, second = await _rolled_back(tmp_path, longer=longer)
    assert verify(audit, verifier_key(audit)).ok  # the directory alone cannot show it
    (shipped,) = second.rglob(kept)
    assert main(["audit", "verify", str(audit), "--key", VERIFIER, "--against", str(shipped)]) == 1
    said = capsys.readouterr().out
    assert ("forked" if longer else "rolled_back") in said and "NOT WHOLE" in said


async def test_verify_is_content_with_the_log_that_was_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.__main__ import main

    second = tmp_path / "second"
    second.mkdir()
    log = await made(tmp_path / "audit", 50)
    await drain(shipper(EvidenceDirectory(second), tmp_path / "audit"))
    await log.close()
    for shipped in (*second.rglob("*.note"), *second.rglob("*.jsonl")):
        assert main(["audit", "verify", str(tmp_path / "audit"), "--key", VERIFIER, "--against", str(shipped)]) == OK
        assert "tail proven" in capsys.readouterr().out
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"index":0,"record":{}}\n')
    assert main(["audit", "verify", str(tmp_path / "audit"), "--key", VERIFIER, "--against", str(empty)]) == 2
