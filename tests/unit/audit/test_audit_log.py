"""The log as the pipeline uses it: order, durability, restart, refusal to open what is not its own."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest
from audit_logs import KEY, ORIGIN, OTHER_KEY, fill, open_log, opened, verifier_key

from gateway.audit.log import file_sink
from gateway.audit.recovery import LogRefused
from gateway.audit.store import DirectoryInUse
from gateway.audit.tree import Signer, TreeError, Verifier, unpack_entries
from gateway.audit.verify import verify
from gateway.ports import LogUnavailable, RecordLog, Ticket


async def test_an_index_is_known_at_once_and_durable_after_the_wait(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    port: RecordLog = log
    assert not port.healthy
    assert await log.start({"version": "1"}) == 0
    assert port.healthy
    tickets: list[Ticket] = [port.append(opened(f"r{i}")) for i in range(5)]
    assert [ticket.index for ticket in tickets] == [1, 2, 3, 4, 5]
    assert await tickets[4].wait() == 5
    assert await asyncio.gather(*(ticket.wait() for ticket in tickets)) == [1, 2, 3, 4, 5]
    assert (log.size, log.backlog) == (6, 0)
    await log.close()
    await log.close()
    assert not log.healthy
    with pytest.raises(LogUnavailable):
        log.append(b"{}")


async def test_a_record_nobody_waits_for_is_committed_within_the_linger(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    await log.start()
    log.append(opened("r1"), soon=False)
    assert log.backlog == 1
    for _ in range(200):
        if log.size == 2:
            break
        await asyncio.sleep(0.01)
    assert log.size == 2
    assert await asyncio.wait_for(log.append(opened("r2"), soon=False).wait(), 5) == 2
    await log.close()


async def test_a_cancelled_wait_takes_nothing_back(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    await log.start()
    ticket = log.append(opened("r1"))
    first, second = asyncio.ensure_future(ticket.wait()), asyncio.ensure_future(ticket.wait())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    await log.close()


async def test_the_queue_is_bounded_in_records_and_bytes(tmp_path: Path) -> None:
    log = open_log(tmp_path, max_queue=4)
    await log.start()
    for i in range(4):
        log.append(opened(f"r{i}"), soon=False)
    with pytest.raises(LogUnavailable, match="full"):
        log.append(opened("r5"))
    assert log.healthy
    await log.close()
    log = open_log(tmp_path, max_queue_bytes=100_000)
    await log.start()
    log.append(b"x" * 60_000, soon=False)
    with pytest.raises(LogUnavailable, match="full"):
        log.append(b"x" * 60_000)
    with pytest.raises(ValueError, match="too long"):
        log.append(b"x" * 65_536)
    await log.close()


async def test_the_directory_is_a_tiled_log_that_others_can_read(tmp_path: Path) -> None:
    log = open_log(tmp_path / "audit")
    await log.start()
    await fill(log, 150)
    await log.close()
    where = tmp_path / "audit"
    checkpoint = Verifier(verifier_key(where)).open((where / "checkpoint").read_bytes())
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, 302)
    entries = unpack_entries((where / "tile/entries/000").read_bytes()) + unpack_entries((where / "tile/entries/001.p/46").read_bytes())
    assert [json.loads(entry)["type"] for entry in (entries[0], entries[1], entries[-1])] == ["start", "opened", "stop"]
    for path in where.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE(where.stat().st_mode) == 0o700


async def test_one_origin_survives_restarts_and_every_start_is_a_record(tmp_path: Path) -> None:
    for run in range(3):
        log = open_log(tmp_path)
        assert log.recovery.created == (run == 0)
        await log.start()
        await fill(log, 100, prefix=f"run{run}-")
        await log.close()
    report = verify(tmp_path, verifier_key(tmp_path))
    assert report.ok, report.findings
    assert (report.runs, report.size, report.in_flight) == (3, 3 * 202, 0)


async def test_exchanges_open_at_a_close_are_closed_as_unknown(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    await log.start()
    indices = await fill(log, 3, unclosed=2)
    await log.close()
    report = verify(tmp_path, verifier_key(tmp_path))
    assert report.ok, report.findings
    last = unpack_entries((tmp_path / f"tile/entries/000.p/{log.size}").read_bytes())[-3:]
    closing = [json.loads(entry) for entry in last]
    assert [fields["type"] for fields in closing] == ["closed", "closed", "stop"]
    assert [fields.get("opened") for fields in closing[:2]] == indices[-2:]
    assert {fields["outcome"] for fields in closing[:2]} == {"unknown"}
    assert closing[0]["tenant"] == "acme"


async def test_a_running_directory_is_held_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(DirectoryInUse):
        open_log(tmp_path)
    await log.close()
    again = open_log(tmp_path)
    await again.close()


async def test_another_key_or_origin_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    await log.start()
    await log.close()
    with pytest.raises(LogRefused, match="another origin or key"):
        open_log(tmp_path, key=OTHER_KEY)
    with pytest.raises(LogRefused, match="another origin or key"):
        open_log(tmp_path, origin="gateway.example/other")
    with pytest.raises(TreeError, match="origin"):
        open_log(tmp_path / "x", origin="has space")


async def test_an_empty_directory_is_not_a_log_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(LogRefused, match="mounted"):
        open_log(tmp_path, create=False)
    await open_log(tmp_path).close()
    await open_log(tmp_path, create=False).close()


async def test_segments_rotate_are_sealed_and_dropped(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 << 10)
    await log.start()
    await fill(log, 1500)
    held = list((tmp_path / "wal").iterdir())
    assert len(held) < 12, "old segments are dropped while running"
    assert all(path.stat().st_size <= 80 << 10 for path in held)
    assert verify(tmp_path, verifier_key(tmp_path)).ok
    await log.close()
    assert len(list((tmp_path / "wal").iterdir())) == 1
    report = verify(tmp_path, verifier_key(tmp_path))
    assert report.ok, report.findings
    assert report.size == 3002


async def test_a_long_open_exchange_is_found_without_reading_the_log_anew(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 << 10)
    await log.start()
    await log.append(opened("long")).wait()
    await fill(log, 1000)
    await asyncio.sleep(0.05)
    log._writer.discard()  # as a kill would leave it
    log._writer.store.release()
    again = open_log(tmp_path)
    assert again.recovery.unclosed == 1
    await again.start()
    await again.close()
    report = verify(tmp_path, verifier_key(tmp_path))
    assert report.ok, report.findings


async def test_checkpoints_leave_and_a_failing_sink_is_counted(tmp_path: Path) -> None:
    async def broken(note: bytes) -> None:
        raise OSError("no route")

    kept = tmp_path / "elsewhere"
    log = open_log(tmp_path / "audit", checkpoint_sinks=[file_sink(kept), broken])
    await log.start()
    await fill(log, 2)
    await log.close()
    assert Verifier(Signer(ORIGIN, KEY).verifier_key()).open(kept.read_bytes()).size == log.size
    assert log.sink_failures >= 1
    assert verify(tmp_path / "audit", verifier_key(tmp_path / "audit"), [kept.read_bytes()]).tail_proven


async def test_a_log_can_be_verified_while_it_is_written(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 << 10, publish_interval_s=0.002)
    await log.start()
    key = verifier_key(tmp_path)

    async def load() -> None:
        for i in range(40):
            await fill(log, 40, prefix=f"l{i}-")

    writing = asyncio.ensure_future(load())
    checks = 0
    while not writing.done():
        report = await asyncio.to_thread(verify, tmp_path, key)
        assert report.ok, report.findings
        checks += 1
    await writing
    await log.close()
    assert checks >= 2
