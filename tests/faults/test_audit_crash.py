"""Crashes lose nothing that was acknowledged: kill -9, torn writes, a full disk, a sync that fails (fault matrix 25 to 28)."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from audit_logs import KEY, ORIGIN, fill, open_log, opened, verifier_key

from gateway.audit.record import read_frames
from gateway.audit.tree import tile_path, unpack_entries
from gateway.audit.verify import verify
from gateway.ports import LogUnavailable

CHILD = Path(__file__).with_name("audit_writer_child.py")
REPOSITORY = CHILD.parents[2]


def all_records(directory: Path, size: int) -> list[bytes]:
    entries: list[bytes] = []
    for number in range(-(-size // 256)):
        width = min(256, size - number * 256)
        entries += unpack_entries((directory / tile_path(None, number, width)).read_bytes())
    return entries


def kill_under_load(directory: Path, run: str, after_s: float) -> dict[int, str]:
    """Run the writer, kill it, and return what it had acknowledged."""
    command = [sys.executable, str(CHILD), str(directory), ORIGIN, KEY.private_bytes_raw().hex(), run]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    lines: list[bytes] = []
    deadline = time.monotonic() + after_s
    while time.monotonic() < deadline:
        lines.append(child.stdout.readline())
    child.kill()
    lines += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    acknowledged = {}
    for line in lines:
        if line.endswith(b"\n"):
            index, name = line.split()
            acknowledged[int(index)] = name.decode()
    return acknowledged


@pytest.mark.slow
async def test_kill_9_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    rng = random.Random(20)
    acknowledged: dict[int, str] = {}
    for run in range(20):
        mine = kill_under_load(directory, f"run{run}", rng.uniform(0.02, 0.3))
        assert mine
        assert not acknowledged.keys() & mine.keys(), "no index was given twice"
        acknowledged |= mine
        report = verify(directory, verifier_key(directory))
        assert report.ok, (run, report.findings)
        assert report.size > max(acknowledged)
    log = open_log(directory)
    await log.start()
    await log.close()
    report = verify(directory, verifier_key(directory))
    assert report.ok, report.findings
    assert (report.runs, report.in_flight) == (21, 0)
    entries = all_records(directory, report.size)
    for index, name in acknowledged.items():
        assert json.loads(entries[index])["request_id"] == name
    unknown = [fields for entry in entries if (fields := json.loads(entry)).get("outcome") == "unknown"]
    assert unknown, "something was in flight when it was killed"
    assert all(json.loads(entries[fields["opened"]])["request_id"] == fields["request_id"] for fields in unknown)


async def killed_copy(tmp_path: Path, **options: object) -> Path:
    log = open_log(tmp_path / "live", **{"publish_interval_s": 1e9, "segment_bytes": 1 << 17, **options})
    await log.start()
    await fill(log, 8)
    for i in range(3):
        await log.append(opened(f"last{i}")).wait()
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    await log.close()
    return tmp_path / "killed"


@pytest.mark.slow
@pytest.mark.parametrize("rest", ["file ends", "zeros follow"])
async def test_a_write_torn_at_any_byte_is_cut_and_nothing_before_it_is_lost(tmp_path: Path, rest: str) -> None:
    killed = await killed_copy(tmp_path)
    (segment,) = (killed / "wal").iterdir()
    data = segment.read_bytes()
    read = read_frames(data)
    last = read.frames[-1]
    for cut in range(last.offset, read.end):
        work = tmp_path / "work"
        shutil.copytree(killed, work)
        (work / "wal" / segment.name).write_bytes(data[:cut] + (b"" if rest == "file ends" else bytes(len(data) - cut)))
        report = verify(work, verifier_key(work), patience_s=0)
        assert report.ok, (cut, report.findings)
        assert report.size == last.first
        assert bool(report.notes and "incomplete last write" in " ".join(report.notes)) == (cut > last.offset)
        log = open_log(work, segment_bytes=1 << 16, sync=lambda fd: None)
        assert log.recovery.size == last.first
        assert (log.recovery.torn_bytes > 0) == (cut > last.offset)
        if cut % 16 == 0:
            await log.start()
        await log.close()
        assert verify(work, verifier_key(work)).ok
        shutil.rmtree(work)


async def test_a_write_that_lacks_a_sector_is_cut(tmp_path: Path) -> None:
    log = open_log(tmp_path / "live", publish_interval_s=1e9, segment_bytes=1 << 17)
    await log.start()
    await log.append(opened("r1")).wait()
    size = log.size
    await log.append(opened("big", padding="x" * 4000)).wait()
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    await log.close()
    (segment,) = (tmp_path / "killed/wal").iterdir()
    data = segment.read_bytes()
    last = read_frames(data).frames[-1]
    for sector in range(last.offset // 512 + 1, last.offset // 512 + 8):
        segment.write_bytes(data[: sector * 512] + bytes(512) + data[sector * 512 + 512 :])
        report = verify(tmp_path / "killed", verifier_key(tmp_path / "killed"), patience_s=0)
        assert report.ok, report.findings
        assert report.size == size


async def test_what_a_power_cut_takes_from_the_published_files_is_put_again(tmp_path: Path) -> None:
    """Published files are synced only when a segment is sealed: until then they may be empty or gone, and the segments hold all."""
    log = open_log(tmp_path / "live", segment_bytes=1 << 20)
    await log.start()
    await fill(log, 300)
    await asyncio.sleep(0.1)
    size = log.size
    shutil.copytree(tmp_path / "live", tmp_path / "cut")
    await log.close()
    cut = tmp_path / "cut"
    for number, path in enumerate(path for path in sorted((cut / "tile").rglob("*")) if path.is_file()):
        path.write_bytes(b"") if number % 2 else path.unlink()
    (cut / "checkpoint").write_bytes(b"")
    assert not verify(cut, verifier_key(cut)).ok
    log = open_log(cut)
    assert log.recovery.size == size
    await log.start()
    await log.close()
    for path in (cut / "tile").rglob("*"):
        if path.is_file() and not path.read_bytes():
            path.unlink()  # partial tiles that full ones have replaced
    report = verify(cut, verifier_key(cut))
    assert report.ok, report.findings


async def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    calls: list[int] = []
    broken = False

    def sync(fd: int) -> None:
        calls.append(fd)
        if broken:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(fd)

    log = open_log(tmp_path, sync=sync)
    await log.start()
    await log.append(opened("before")).wait()
    broken = True
    tickets = [log.append(opened(f"r{i}")) for i in range(3)]
    for ticket in tickets:
        with pytest.raises(LogUnavailable, match="Input/output error"):
            await ticket.wait()
    broken = False
    tried = len(calls)
    assert not log.healthy
    with pytest.raises(LogUnavailable):
        log.append(opened("after"))
    with pytest.raises(LogUnavailable):
        await tickets[0].wait()
    await asyncio.sleep(0.05)
    assert len(calls) == tried, "a sync that failed is never tried again"
    await log.close()
    again = open_log(tmp_path)
    await again.start()
    await again.close()
    assert verify(tmp_path, verifier_key(tmp_path)).ok


async def test_a_failed_sync_of_what_is_published_is_final_too(tmp_path: Path) -> None:
    broken = False

    def sync(fd: int) -> None:
        if broken and not os.readlink(f"/proc/self/fd/{fd}").endswith(".wal") and ".fresh-wal" not in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(fd)

    log = open_log(tmp_path, sync=sync, segment_bytes=32 << 10)
    await log.start()
    broken = True
    with pytest.raises(LogUnavailable):
        await fill(log, 2000)
    assert not log.healthy
    broken = False
    await log.close()


async def test_a_spare_segment_that_cannot_be_made_costs_nothing(tmp_path: Path) -> None:
    failed = []

    def sync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".zeros-wal"):
            failed.append(fd)
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(fd)

    log = open_log(tmp_path, sync=sync, segment_bytes=32 << 10)
    await log.start()
    await fill(log, 400)
    assert len(failed) > 1 and log.healthy
    await log.close()
    assert not {".spare-wal", ".zeros-wal"} & set(os.listdir(tmp_path))
    assert verify(tmp_path, verifier_key(tmp_path)).ok


async def test_a_start_takes_no_spare_that_it_finds(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=32 << 10)
    await log.start()
    await fill(log, 20)
    await log.close()
    planted = b"planted" * 8000
    for name in (".spare-wal", ".zeros-wal"):
        (tmp_path / name).write_bytes(planted)
    log = open_log(tmp_path, segment_bytes=32 << 10)
    await log.start()
    await fill(log, 20)
    assert not any(b"planted" in path.read_bytes() for path in (tmp_path / "wal").iterdir())
    await log.close()
    assert verify(tmp_path, verifier_key(tmp_path)).ok


async def test_a_writer_that_ends_for_any_reason_leaves_nobody_waiting(tmp_path: Path) -> None:
    def sync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    log = open_log(tmp_path)
    log._writer.store.fdatasync = sync
    with pytest.raises(LogUnavailable):
        await log.start()
    assert not log.healthy
    await log.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path) -> None:
    log = open_log(small_disk / "audit", segment_bytes=64 << 10)
    await log.start()
    durable = 0
    with pytest.raises(LogUnavailable, match="No space left"):
        for i in range(5000):
            await log.append(opened(f"r{i}", padding="x" * 500)).wait()
            durable = log.size
    assert not log.healthy
    with pytest.raises(LogUnavailable):
        log.append(opened("after"))
    await log.close()
    report = verify(small_disk / "audit", verifier_key(small_disk / "audit"))
    assert report.ok, report.findings
    assert report.size >= durable > 100
