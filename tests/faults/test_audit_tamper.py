"""Whoever changes the log is found out: every kind of change to every kind of file of a log of a thousand records."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audit_logs import KEY, ORIGIN, OTHER_KEY, closed, fill, open_log, opened

from gateway.audit.record import base_frame, batch_frame, read_frames
from gateway.audit.recovery import LogRefused
from gateway.audit.tree import Edge, Signer, Tile, leaf_hash, pack_entry, tile_path, unpack_entries
from gateway.audit.verify import Report, verify

OURS = Signer(ORIGIN, KEY)


def check(directory: Path, against: list[bytes] | None = None) -> Report:
    return verify(directory, OURS.verifier_key(), against or [], patience_s=0)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`ended`: closed in order. `killed`: published to the end, then killed. `behind`: killed with nothing published since its start."""
    import asyncio

    async def build() -> dict[str, Path]:
        logs: dict[str, Path] = {}
        for name, interval, exchanges in (("ended", 0.01, 499), ("killed", 0.05, 499), ("behind", 1e9, 30)):
            live = tmp_path_factory.mktemp(f"live-{name}")
            log = open_log(live, segment_bytes=1 << 20, publish_interval_s=interval)
            await log.start()
            await fill(log, exchanges, unclosed=1)
            for i in range(3):
                await log.append(closed("ropen0") if i == 0 else opened(f"last{i}")).wait()
            await asyncio.sleep(0.2)
            if name == "ended":
                await log.close()
            logs[name] = tmp_path_factory.mktemp(name) / "audit"
            shutil.copytree(live, logs[name])
            await log.close()
        return logs

    return asyncio.run(build())


@pytest.fixture
def ended(pristine: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine["ended"], tmp_path / "audit"))


@pytest.fixture
def killed(pristine: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine["killed"], tmp_path / "audit"))


@pytest.fixture
def behind(pristine: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine["behind"], tmp_path / "audit"))


def test_the_untouched_logs_pass(ended: Path, pristine: dict[str, Path]) -> None:
    for name in pristine:
        report = check(pristine[name])
        assert report.ok, (name, report.findings)
    assert check(ended).size > 1000
    assert check(pristine["killed"]).in_flight == 2
    assert (check(pristine["behind"]).published, check(pristine["behind"]).size) == (0, 65)


def places(path: Path) -> Iterator[int]:
    """Positions of every class: all of a small file; of a large one the edges of every entry or hash, and a sample between."""
    data = path.read_bytes()
    size = len(data.rstrip(b"\x00")) if path.suffix == ".wal" else len(data)
    rng = random.Random(path.name)
    if path.parent.suffix == ".p":  # there are many and they are alike
        yield from sorted({0, size - 1, rng.randrange(size), rng.randrange(size)})
        return
    if size <= 400:
        yield from range(size)
        return
    chosen = {0, 1, 2, 3, size - 1, size - 2} | {rng.randrange(size) for _ in range(20)}
    if path.suffix == ".wal":
        for frame in rng.sample(read_frames(data).frames, 3):
            chosen |= {frame.offset + i for i in range(24 + 8)}
    yield from sorted(chosen)


@pytest.mark.parametrize("state", ["ended", "killed", "behind"])
def test_a_flipped_byte_anywhere_is_found(pristine: dict[str, Path], tmp_path: Path, state: str) -> None:
    directory = Path(shutil.copytree(pristine[state], tmp_path / "audit"))
    flips = 0
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.name in ("key.pub", "lock"):  # the key comes from elsewhere; the lock holds nothing
            continue
        good = path.read_bytes()
        for at in places(path):
            for bit in (0x01, 0x80) if at % 7 == 0 else (0x20,):
                path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
                report = check(directory)
                assert not report.ok, (path.relative_to(directory), at)
                flips += 1
        path.write_bytes(good)
    assert flips > 300
    assert check(directory).ok


@pytest.mark.parametrize("state", ["ended", "killed"])
def test_a_missing_emptied_or_shortened_file_is_found(pristine: dict[str, Path], tmp_path: Path, state: str) -> None:
    directory = Path(shutil.copytree(pristine[state], tmp_path / "audit"))
    size = check(directory).size
    needed = {tile_path(None, size // 256, size % 256), tile_path(0, size // 256, size % 256), "checkpoint"}
    needed |= {tile_path(level, n) for level in (None, 0) for n in range(size // 256)}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if not path.is_file() or name in ("key.pub", "lock"):
            continue
        good = path.read_bytes()
        if name in needed:
            path.unlink()
            assert not check(directory).ok, name
        path.write_bytes(b"")
        assert not check(directory).ok, name
        if not name.startswith("wal"):
            path.write_bytes(good[:-1])
            assert not check(directory).ok, name
            path.write_bytes(good + b"\x00")
            assert not check(directory).ok, name
        path.write_bytes(good)
    assert check(directory).ok


def records_of(directory: Path) -> list[bytes]:
    entries: list[bytes] = []
    number = 0
    while (path := directory / tile_path(None, number)).exists():
        entries += unpack_entries(path.read_bytes())
        number += 1
    rest = max(path.parent.glob(path.name + ".p/*"), key=lambda part: int(part.name), default=None)
    return entries + (unpack_entries(rest.read_bytes()) if rest else [])


def rewrite(directory: Path, entries: list[bytes], signer: Signer, note: bytes | None = None) -> None:
    """What an attacker with write access does: all files anew, consistent with one another, signed by `signer` or with an old note."""
    shutil.rmtree(directory / "tile")
    shutil.rmtree(directory / "wal")
    edge, bundle = Edge(), []
    for index, entry in enumerate(entries):
        edge.append(leaf_hash(entry))
        bundle.append(pack_entry(entry))
        if index % 256 == 255:
            put(directory, tile_path(None, index // 256), b"".join(bundle))
            bundle.clear()
    if bundle:
        put(directory, tile_path(None, edge.size // 256, len(bundle)), b"".join(bundle))
    tiles: list[Tile] = edge.full + edge.partial()
    for tile in tiles:
        put(directory, tile_path(tile.level, tile.number, tile.width), tile.hashes)
    signed = note or signer.sign(edge.size, edge.root())
    put(directory, "checkpoint", signed)
    put(directory, f"wal/{edge.size:020d}.wal", base_frame(edge.size, edge.size, signed))


def put(directory: Path, name: str, data: bytes) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data)


def drop(entries: list[bytes], at: int) -> list[bytes]:
    return entries[:at] + entries[at + 1 :]


def insert(entries: list[bytes], at: int) -> list[bytes]:
    return [*entries[:at], opened("forged"), *entries[at:]]


def swap(entries: list[bytes], at: int) -> list[bytes]:
    other = (at + 1) % len(entries)
    changed = list(entries)
    changed[at], changed[other] = changed[other], changed[at]
    return changed


@pytest.mark.parametrize("change", [drop, insert, swap])
def test_records_dropped_inserted_or_swapped_with_every_tile_rebuilt_are_found(
    ended: Path, change: Callable[[list[bytes], int], list[bytes]]
) -> None:
    entries, note = records_of(ended), (ended / "checkpoint").read_bytes()
    rewrite(ended, entries, OURS)
    assert check(ended).ok, "the rebuilding itself is sound"
    thief = Signer(ORIGIN, OTHER_KEY)
    for at in sorted({0, 1, 255, 256, 257, 511, 512, len(entries) - 1, *random.Random(1).sample(range(len(entries)), 15)}):
        rewrite(ended, change(entries, at), OURS, note)
        assert not check(ended).ok, at
        rewrite(ended, change(entries, at), thief)
        assert "unsigned" in {finding.code for finding in check(ended).findings}, at


def test_an_edited_record_is_named(ended: Path) -> None:
    path = ended / "tile/entries/001"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"request_id":"r150"', b'"request_id":"r951"'))
    report = check(ended)
    named = {finding.index for finding in report.findings if finding.index is not None}
    assert named
    assert all(b"r150" in records_of(ended)[i] or b"r951" in records_of(ended)[i] for i in named)


@pytest.mark.slow
def test_a_log_cut_below_its_checkpoint_is_found_at_every_offset_of_the_last_records(killed: Path) -> None:
    (segment,) = (killed / "wal").iterdir()
    data = segment.read_bytes()
    read = read_frames(data)
    for cut in range(read.frames[-3].offset, read.end):
        segment.write_bytes(data[:cut])
        assert not check(killed).ok, cut
        if cut % 8 == 0:
            segment.write_bytes(data[:cut] + bytes(read.end - cut))
            assert not check(killed).ok, cut
        if cut % 64 == 0:
            with pytest.raises(LogRefused):
                open_log(killed)


def test_a_cut_past_the_checkpoint_is_reported_and_found_with_a_checkpoint_kept_elsewhere(behind: Path) -> None:
    (segment,) = (behind / "wal").iterdir()
    data = segment.read_bytes()
    read = read_frames(data)
    kept = read.frames[-1].note
    borders = {frame.offset for frame in read.frames}
    for cut in range(read.frames[-3].offset, read.end):
        segment.write_bytes(data[:cut])
        report = check(behind)
        if cut not in borders:
            assert not report.ok or any("incomplete last write" in note for note in report.notes), cut
        assert not report.tail_proven
        assert {finding.code for finding in check(behind, [kept]).findings} == {"rolled_back"}


def test_a_forged_frame_of_the_write_ahead_log_is_found(behind: Path) -> None:
    (segment,) = (behind / "wal").iterdir()
    data = segment.read_bytes()
    read = read_frames(data)
    last = read.frames[-1]
    thief = Signer(ORIGIN, OTHER_KEY)
    for frame in (
        batch_frame(last.first, [opened("forged")], last.note),
        batch_frame(last.first, last.records, read.frames[-2].note),
        batch_frame(last.first, last.records, thief.sign(last.first + 1, bytes(32))),
        batch_frame(last.first + 1, last.records, last.note),
    ):
        segment.write_bytes(data[: last.offset] + frame)
        assert not check(behind).ok
        with pytest.raises(LogRefused):
            open_log(behind)
    segment.write_bytes(data)
    open_log(behind)._writer.store.release()


def test_a_base_that_hides_open_exchanges_is_found(ended: Path) -> None:
    (segment,) = (ended / "wal").iterdir()
    base = read_frames(segment.read_bytes()).frames[0]
    segment.write_bytes(base_frame(base.first, base.scan_from - 1, base.note))
    assert not check(ended).ok


async def test_a_roll_back_is_found_with_a_checkpoint_kept_elsewhere(tmp_path: Path) -> None:
    log = open_log(tmp_path / "audit")
    await log.start()
    await fill(log, 100)
    await log.close()
    shutil.copytree(tmp_path / "audit", tmp_path / "old")
    first = log.checkpoint
    log = open_log(tmp_path / "audit")
    await log.start()
    await fill(log, 100)
    await log.close()
    assert check(tmp_path / "audit", [first, log.checkpoint]).tail_proven
    alone = check(tmp_path / "old")
    assert (alone.ok, alone.tail_proven) == (True, False), "one directory cannot show that it is old"
    held = check(tmp_path / "old", [log.checkpoint])
    assert {finding.code for finding in held.findings} == {"rolled_back"}
    shutil.copy(tmp_path / "old/checkpoint", tmp_path / "audit/checkpoint")
    assert not check(tmp_path / "audit").ok, "the checkpoint alone rolled back"


async def test_a_fork_is_found_with_the_checkpoint_of_the_other_branch(tmp_path: Path) -> None:
    log = open_log(tmp_path / "one")
    await log.start()
    await fill(log, 50)
    await log.close()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    checkpoints = []
    for branch in ("one", "two"):
        log = open_log(tmp_path / branch)
        await log.start()
        await fill(log, 20, prefix=branch)
        await log.close()
        checkpoints.append(log.checkpoint)
    assert check(tmp_path / "one", [checkpoints[0]]).tail_proven
    assert {finding.code for finding in check(tmp_path / "one", [checkpoints[1]]).findings} == {"forked"}


def test_stray_files_and_links_are_found(ended: Path) -> None:
    for name, make in (
        ("tile/0/999.p/3", lambda path: path.write_bytes(bytes(96))),
        ("tile/entries/0x1", lambda path: path.write_bytes(b"")),
        ("notes.txt", lambda path: path.write_bytes(b"")),
        ("wal/x", lambda path: path.write_bytes(b"")),
        ("tile/0/zzz", lambda path: path.symlink_to("/etc/passwd")),
    ):
        path = ended / name
        path.parent.mkdir(exist_ok=True)
        make(path)
        assert not check(ended).ok, name
        path.unlink()
        if path.parent.name.endswith(".p"):
            path.parent.rmdir()
    assert check(ended).ok


def test_garbage_is_a_finding_and_never_a_traceback(ended: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    files = [path for path in sorted(ended.rglob("*")) if path.is_file()]
    for path in files:
        good = path.read_bytes()
        for junk in (b"\xff" * 40, rng.randbytes(9000), b"\n\n\xe2\x80\x94 a b\n", b"[" * 5000, b"\x00" * 9000):
            path.write_bytes(junk)
            assert not check(ended).ok or path.name in ("key.pub", "lock") or (path.suffix == ".wal" and not junk.strip(b"\x00")), path
        path.unlink()
        path.mkdir()
        check(ended)
        path.rmdir()
        path.write_bytes(good)
    assert not check(tmp_path / "nothing-here").ok
    assert not check(files[0]).ok, "a file is not a log"
    shutil.rmtree(ended / "wal")
    assert check(ended).notes == ["no write-ahead log: only what is published was checked"]
