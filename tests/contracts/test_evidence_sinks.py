"""What `ports.EvidenceSink` promises, of every adapter: a directory, append blobs on a real blob service, a Logs Ingestion emulator.

The Azure ones are asked through their real SDKs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_logs import KEY, ORIGIN, closed
from azurite_server import AzuriteServer
from logs_ingestion_emulator import RULE, STREAM, EmulatorCredential, LogsIngestionEmulator

from gateway.audit import segments
from gateway.audit.tree import Edge, Signer, Verifier, leaf_hash
from gateway.ports import EvidenceSink, Held, Shipment, SinkRefused, SinkUnavailable
from gateway.providers.azure.append_blobs import AppendBlobs
from gateway.providers.azure.logs_ingestion import LogsIngestion
from gateway.providers.local.evidence_directory import EvidenceDirectory

NOW = 1_790_000_000.0
DAY = 86_400.0
SIGNER = Signer(ORIGIN, KEY)


def has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def record(index: int, **more: Any) -> bytes:
    return closed(f"r{index}", time="2026-09-21T14:13:20.000Z", **more)


def shipment(first: int, end: int, **more: Any) -> Shipment:
    """Records of one log: what an index holds depends on nothing but the index, unless `more` says otherwise."""
    edge = Edge()
    for index in range(end):
        edge.append(leaf_hash(record(index)))
    return Shipment(ORIGIN, first, tuple(record(i, **more) for i in range(first, end)), SIGNER.sign(end, edge.root()))


class World:
    """One place and the sinks that write to it."""

    exact = True  # the sink can be asked what it holds, so nothing is ever doubled

    def __init__(self) -> None:
        self.now = NOW

    def sink(self) -> EvidenceSink:
        raise NotImplementedError

    async def indices(self) -> list[int]:
        raise NotImplementedError

    async def notes(self) -> list[bytes]:
        raise NotImplementedError


class DirectoryWorld(World):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def sink(self, **how: Any) -> EvidenceDirectory:
        return EvidenceDirectory(self.folder, now=lambda: self.now, **how)

    def files(self) -> dict[str, bytes]:
        return {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in sorted(self.folder.rglob("*.jsonl"))}

    async def segments(self) -> dict[str, bytes]:
        return self.files()

    async def sealed(self) -> list[str]:
        return [name for name in self.files() if (self.folder / name).stat().st_mode & 0o200 == 0]

    async def beside(self) -> list[bytes]:
        return [p.read_bytes() for p in sorted(self.folder.rglob("*.note"))]

    async def indices(self) -> list[int]:
        return [index for data in (await self.segments()).values() for index, _ in segments.records(data)]

    async def notes(self) -> list[bytes]:
        return [note for data in (await self.segments()).values() for note in segments.checkpoints(data)]


class BlobWorld(DirectoryWorld):
    def __init__(self, server: AzuriteServer, container: str) -> None:
        World.__init__(self)
        self.server = server
        self.container = container

    def sink(self, **how: Any) -> AppendBlobs:  # type: ignore[override]
        return AppendBlobs(container=self.container, connection=self.server.connection, now=lambda: self.now, **how)

    def client(self) -> Any:
        from azure.storage.blob.aio import ContainerClient

        return ContainerClient.from_connection_string(self.server.connection, self.container)

    async def _all(self, suffix: str) -> list[tuple[str, bytes, bool]]:
        async with self.client() as client:
            found = [b async for b in client.list_blobs() if b.name.endswith(suffix)]
            return [(b.name, await (await client.download_blob(b.name)).readall(), bool(b.is_append_blob_sealed)) for b in found]

    async def segments(self) -> dict[str, bytes]:
        return {name: data for name, data, _ in await self._all(".jsonl")}

    async def sealed(self) -> list[str]:
        return [name for name, _, sealed in await self._all(".jsonl") if sealed]

    async def beside(self) -> list[bytes]:
        return [data for _, data, _ in await self._all(".note")]


class IngestionWorld(World):
    exact = False

    def __init__(self, service: LogsIngestionEmulator) -> None:
        super().__init__()
        self.service = service

    def sink(self, **how: Any) -> LogsIngestion:
        how = {"connection_verify": self.service.ca_file} | how
        return LogsIngestion(endpoint=self.service.url, rule=RULE, stream=STREAM, credential=EmulatorCredential(), **how)

    async def indices(self) -> list[int]:
        kept = [row for row in self.service.rows if row["EventType"] != "checkpoint"]
        assert {row["EventOriginalUid"].rpartition("/")[0] for row in kept} <= {ORIGIN}
        return [int(row["EventOriginalUid"].rpartition("/")[2]) for row in kept]

    async def notes(self) -> list[bytes]:
        return [row["AdditionalFields"]["Checkpoint"].encode() for row in self.service.rows if row["EventType"] == "checkpoint"]


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzuriteServer]:
    if not has("azure.storage.blob"):
        pytest.skip("azure-storage-blob is not installed")
    server = AzuriteServer(tmp_path_factory.mktemp("azurite"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def blobs(azurite: AzuriteServer, request: pytest.FixtureRequest) -> BlobWorld:
    made = BlobWorld(azurite, f"evidence-{abs(hash(request.node.nodeid)) % 10**12}")
    async with made.client() as client:
        await client.create_container()
    return made


@pytest.fixture(params=["directory", "append_blob", "logs_ingestion"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "directory":
        yield DirectoryWorld(tmp_path)
    elif request.param == "append_blob":
        made = BlobWorld(request.getfixturevalue("azurite"), f"evidence-{abs(hash(request.node.nodeid)) % 10**12}")
        async with made.client() as client:
            await client.create_container()
        yield made
    else:
        if not has("azure.monitor.ingestion"):
            pytest.skip("azure-monitor-ingestion is not installed")
        with LogsIngestionEmulator() as service:
            yield IngestionWorld(service)


@contextlib.asynccontextmanager
async def opened(world: World, **how: Any) -> AsyncIterator[Any]:
    sink = world.sink(**how)
    try:
        yield sink
    finally:
        await sink.aclose()


# --- every sink


async def test_records_arrive_in_order_with_their_checkpoint(world: World) -> None:
    async with opened(world) as sink:
        assert await sink.held(ORIGIN) == (Held(0) if world.exact else None)
        await sink.ship(shipment(0, 5))
        await sink.ship(shipment(5, 9))
        assert await world.indices() == list(range(9))
        sizes = [Verifier(SIGNER.verifier_key()).open(note).size for note in await world.notes()]
        assert sizes == [5, 9]


async def test_shipping_twice_doubles_nothing(world: World) -> None:
    async with opened(world) as sink:
        await sink.ship(shipment(0, 5))
        await sink.ship(shipment(0, 5))
        await sink.ship(shipment(3, 8))
        assert await world.indices() == list(range(8))


async def test_what_a_new_process_ships_again_is_told_apart(world: World) -> None:
    async with opened(world) as sink:
        await sink.ship(shipment(0, 5))
    async with opened(world) as sink:
        await sink.ship(shipment(0, 7))
    indices = await world.indices()
    assert sorted(set(indices)) == list(range(7))
    assert indices == list(range(7)) if world.exact else indices[:5] == list(range(5))


async def test_a_large_record_goes_whole(world: World) -> None:
    text = "x" * 60_000
    async with opened(world) as sink:
        await sink.ship(shipment(0, 3, note=text))
        await sink.ship(shipment(3, 4, note=text))
        assert await world.indices() == [0, 1, 2, 3]
        if world.exact:
            assert await sink.held(ORIGIN) == Held(4, leaf_hash(record(3, note=text)))


async def test_closing_twice_is_closing_and_loses_nothing(world: World) -> None:
    sink = world.sink()
    await sink.ship(shipment(0, 2))
    await sink.aclose()
    await sink.aclose()
    assert await world.indices() == [0, 1]


# --- sinks that can be asked


@pytest.fixture(params=["directory", "append_blob"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> DirectoryWorld:
    return DirectoryWorld(tmp_path) if request.param == "directory" else await _blobs(request)


async def _blobs(request: pytest.FixtureRequest) -> BlobWorld:
    made = BlobWorld(request.getfixturevalue("azurite"), f"evidence-{abs(hash(request.node.nodeid)) % 10**12}")
    async with made.client() as client:
        await client.create_container()
    return made


async def test_a_shipped_copy_gives_the_signed_root(place: DirectoryWorld) -> None:
    """Whoever has the copy and the public key needs nothing else."""
    async with opened(place) as sink:
        await sink.ship(shipment(0, 300))
        place.now += DAY
        await sink.ship(shipment(300, 555))
    edge = Edge()
    for data in (await place.segments()).values():
        for index, line in segments.records(data):
            assert index == edge.size
            edge.append(leaf_hash(line))
    signed = Verifier(SIGNER.verifier_key()).open((await place.notes())[-1])
    assert (signed.size, signed.root) == (edge.size, edge.root())


async def test_a_past_period_is_sealed(place: DirectoryWorld) -> None:
    async with opened(place) as sink:
        await sink.ship(shipment(0, 2))
        place.now += DAY
        await sink.ship(shipment(2, 4))
        await sink.ship(shipment(4, 5))
    first, second = await place.segments()
    assert first.endswith("2026/09/21/day-00000000000000000000.jsonl") and second.endswith("2026/09/22/day-00000000000000000002.jsonl")
    assert await place.sealed() == [first]


async def test_a_clock_that_goes_back_keeps_the_order_of_names(place: DirectoryWorld) -> None:
    async with opened(place, hourly=True) as sink:
        await sink.ship(shipment(0, 2))
        place.now -= 5 * 3600
        await sink.ship(shipment(2, 4))
    async with opened(place, hourly=True) as sink:
        await sink.ship(shipment(4, 6))
    assert len(await place.segments()) == 1
    assert await place.indices() == list(range(6))


async def test_a_full_segment_is_sealed_and_followed(place: DirectoryWorld) -> None:
    async with opened(place, max_bytes=400) as sink:
        for at in range(0, 12, 3):
            await sink.ship(shipment(at, at + 3))
    names = list(await place.segments())
    assert len(names) == 4 and await place.sealed() == names[:-1]
    assert await place.indices() == list(range(12))


async def test_checkpoints_lie_beside_now_and_then(place: DirectoryWorld) -> None:
    async with opened(place, checkpoint_s=60) as sink:
        for at in range(0, 6, 2):
            await sink.ship(shipment(at, at + 2))
            place.now += 25
        await sink.ship(shipment(6, 8))
    sizes = [Verifier(SIGNER.verifier_key()).open(note).size for note in await place.beside()]
    assert sizes == [2, 8]


async def test_two_writers_neither_interleave_nor_double(place: DirectoryWorld) -> None:
    """Split brain: both ship the same log, batch by batch, as fast as they can."""
    async with opened(place, max_bytes=2_000) as one, opened(place, max_bytes=2_000) as other:

        async def ship_all(sink: EvidenceSink, step: int) -> None:
            for at in range(0, 60, step):
                for _ in range(20):
                    try:
                        await sink.ship(shipment(at, min(60, at + step)))
                        break
                    except SinkUnavailable:
                        await asyncio.sleep(0.01)
                else:
                    raise AssertionError("never got through")

        await asyncio.gather(ship_all(one, 3), ship_all(other, 4))
    assert await place.indices() == list(range(60))


async def test_another_record_under_the_same_index_is_refused(place: DirectoryWorld) -> None:
    async with opened(place) as sink:
        await sink.ship(shipment(0, 5))
    async with opened(place) as sink:
        with pytest.raises(SinkRefused, match="holds another record 4"):
            await sink.ship(shipment(3, 8, tenant="other"))
    assert await place.indices() == list(range(5))


async def test_a_gap_is_refused(place: DirectoryWorld) -> None:
    async with opened(place) as sink:
        await sink.ship(shipment(0, 2))
        with pytest.raises(SinkRefused, match="ends at 2, and the next records begin at 4"):
            await sink.ship(shipment(4, 6))
    assert await place.indices() == [0, 1]


async def test_origins_do_not_meet(place: DirectoryWorld) -> None:
    async with opened(place) as sink:
        await sink.ship(shipment(0, 2))
        for origin in ("gateway.example/audit-1", "..", "gateway.example"):
            assert await sink.held(origin) == Held(0)
            await sink.ship(Shipment(origin, 0, (record(9),), SIGNER.sign(1, leaf_hash(record(9)))))
            assert await sink.held(origin) == Held(1, leaf_hash(record(9)))
        assert await sink.held(ORIGIN) == Held(2, leaf_hash(record(1)))


async def test_a_cancelled_append_is_found_again(place: DirectoryWorld) -> None:
    async with opened(place) as sink:
        await sink.ship(shipment(0, 2))
        for at in range(2, 12, 2):
            task = asyncio.ensure_future(sink.ship(shipment(at, at + 2)))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.05)  # what was under way may still land
            await sink.ship(shipment(at, at + 2))
    assert await place.indices() == list(range(12))


# --- one place's own


async def test_a_torn_last_line_is_cut(tmp_path: Path) -> None:
    """Power went while the copy was written: the directory's last line broke off."""
    place = DirectoryWorld(tmp_path)
    async with opened(place) as sink:
        await sink.ship(shipment(0, 4))
    (name,) = place.files()
    data = (tmp_path / name).read_bytes()
    for cut in (1, 60, len(data.splitlines()[-1]) + 20):
        (tmp_path / name).write_bytes(data[:-cut])
        async with opened(place) as sink:
            await sink.ship(shipment(0, 4))
        assert (await place.indices()) == [0, 1, 2, 3]


async def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """An unmounted volume looks like this; filling the mount point would be evidence on the wrong disk."""
    async with opened(DirectoryWorld(tmp_path / "volume")) as sink:
        with pytest.raises(SinkUnavailable, match="not there"):
            await sink.ship(shipment(0, 2))
    assert not (tmp_path / "volume").exists()


async def test_a_stranger_in_a_segment_is_not_built_on(place: DirectoryWorld) -> None:
    async with opened(place) as sink:
        await sink.ship(shipment(0, 2))
    (name,) = await place.segments()
    if isinstance(place, BlobWorld):
        async with place.client() as client:
            await client.get_blob_client(name).append_block(b"not ours\n")
    else:
        with (place.folder / name).open("ab") as file:
            file.write(b"not ours\n")
    async with opened(place) as sink:
        with pytest.raises(SinkRefused, match="neither a record nor a checkpoint"):
            await sink.held(ORIGIN)


async def test_a_seal_by_someone_else_begins_a_new_blob(blobs: BlobWorld) -> None:
    """Killed between seal and create, or sealed by hand."""
    async with opened(blobs) as sink:
        await sink.ship(shipment(0, 2))
        (name,) = await blobs.segments()
        async with blobs.client() as client:
            await client.get_blob_client(name).seal_append_blob()
        await sink.ship(shipment(2, 4))
    assert len(await blobs.segments()) == 2 and await blobs.indices() == [0, 1, 2, 3]


async def test_an_empty_blob_is_used(blobs: BlobWorld) -> None:
    """Killed between create and the first append."""
    name = segments.segment(ORIGIN, segments.period(NOW, hourly=False), 0).name
    async with blobs.client() as client:
        await client.get_blob_client(name).create_append_blob()
    async with opened(blobs) as sink:
        await sink.ship(shipment(0, 2))
    assert list(await blobs.segments()) == [name] and await blobs.indices() == [0, 1]


async def test_a_missing_container_calls_a_person(azurite: AzuriteServer) -> None:
    async with opened(BlobWorld(azurite, "nobody-made-it")) as sink:
        with pytest.raises(SinkRefused, match=r"answered 404.*is not there"):
            await sink.ship(shipment(0, 2))


async def test_a_proxy_of_the_environment_sees_no_evidence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with opened(world) as sink:
        await sink.ship(shipment(0, 2))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name)
    assert await world.indices() == [0, 1]


async def test_a_redirect_takes_no_block_elsewhere(blobs: BlobWorld) -> None:
    """A host that answers with a redirect, in front of a blob service that would take everything."""
    behind = f"http://127.0.0.1:{blobs.server.port}"
    asked: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b" ")[0])
        target = head.split(b" ")[1].decode()
        writer.write(
            f"HTTP/1.1 307 Temporary Redirect\r\nlocation: {behind}{target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    front = await asyncio.start_server(redirect, "127.0.0.1", 0)
    port = front.sockets[0].getsockname()[1]
    connection = blobs.server.connection.replace(behind, f"http://127.0.0.1:{port}")
    assert connection != blobs.server.connection
    sink = AppendBlobs(container=blobs.container, connection=connection, now=lambda: NOW)
    with pytest.raises((SinkRefused, SinkUnavailable)):
        await sink.ship(shipment(0, 2))
    await sink.aclose()
    front.close()
    assert len(asked) == 1 and await blobs.segments() == {}


# --- the workspace's own


@pytest.fixture
def ingestion() -> Iterator[IngestionWorld]:
    if not has("azure.monitor.ingestion"):
        pytest.skip("azure-monitor-ingestion is not installed")
    with LogsIngestionEmulator() as service:
        yield IngestionWorld(service)


async def test_a_row_has_the_columns_of_the_schema(ingestion: IngestionWorld) -> None:
    async with opened(ingestion) as sink:
        await sink.ship(shipment(0, 1, usage={"input_tokens": 3, "output_tokens": 5}, refusal="policy_denied"))
    row, note = ingestion.service.rows
    assert row["EventSchema"] == "AgentEvent" and row["EventSchemaVersion"] == "0.1.0"
    assert row["TimeGenerated"] == row["EventStartTime"] == "2026-09-21T14:13:20.000Z"
    assert (row["InputTokensUsed"], row["OutputTokensUsed"], row["EventResult"]) == (3, 5, "Failure")
    assert row["EventOriginalUid"] == f"{ORIGIN}/0" and note["EventOriginalUid"] == f"{ORIGIN}/checkpoint/1"


async def test_calls_stay_below_the_limit_of_the_service(ingestion: IngestionWorld) -> None:
    async with opened(ingestion) as sink:
        await sink.ship(shipment(0, 60, note="x" * 40_000))
    assert await ingestion.indices() == list(range(60))
    assert len(ingestion.service.calls) > 2
    assert all(status == 204 and size <= 1_000_000 for status, size in ingestion.service.calls)


async def test_a_call_that_is_too_large_is_halved(ingestion: IngestionWorld) -> None:
    ingestion.service.max_bytes = 100_000
    async with opened(ingestion) as sink:
        await sink.ship(shipment(0, 20, note="x" * 20_000))
    assert await ingestion.indices() == list(range(20))
    assert 413 in {status for status, _ in ingestion.service.calls}


async def test_one_row_that_is_too_large_calls_a_person(ingestion: IngestionWorld) -> None:
    ingestion.service.max_bytes = 1_000
    async with opened(ingestion) as sink:
        with pytest.raises(SinkRefused, match="413"):
            await sink.ship(shipment(0, 2, note="x" * 20_000))


@pytest.mark.parametrize(
    ("fault", "raised", "wait_s"),
    [
        ("throttled", SinkUnavailable, 7.0),
        ("throttled_silently", SinkUnavailable, 0.0),
        ("unavailable", SinkUnavailable, 0.0),
        ("garbage", SinkUnavailable, 0.0),
        ("forbidden", SinkRefused, None),
    ],
)
async def test_faults_are_told_apart(ingestion: IngestionWorld, fault: str, raised: type[Exception], wait_s: float | None) -> None:
    ingestion.service.faults.append(fault)
    async with opened(ingestion) as sink:
        with pytest.raises(raised) as caught:
            await sink.ship(shipment(0, 2))
        assert getattr(caught.value, "retry_after_s", None) == wait_s
        assert "html" not in str(caught.value) and "r0" not in str(caught.value)
        assert len(ingestion.service.calls) == 1  # the SDK did not retry on its own
        await sink.ship(shipment(0, 2))
    assert await ingestion.indices() == [0, 1]


async def test_a_partial_failure_sends_only_the_rest(ingestion: IngestionWorld) -> None:
    ingestion.service.faults += ["", "unavailable"]
    whole = shipment(0, 60, note="x" * 40_000)
    async with opened(ingestion) as sink:
        with pytest.raises(SinkUnavailable):
            await sink.ship(whole)
        await sink.ship(whole)
    assert await ingestion.indices() == list(range(60))


async def test_a_lost_answer_repeats_rows_and_loses_none(ingestion: IngestionWorld) -> None:
    ingestion.service.faults.append("cut")
    async with opened(ingestion) as sink:
        with pytest.raises(SinkUnavailable, match="cannot be reached"):
            await sink.ship(shipment(0, 3))
        await sink.ship(shipment(0, 3))
    assert await ingestion.indices() == [0, 1, 2, 0, 1, 2]


async def test_a_redirect_takes_no_row_and_no_token_elsewhere(ingestion: IngestionWorld) -> None:
    with LogsIngestionEmulator() as other:
        ingestion.service.faults.append("redirect")
        ingestion.service.elsewhere = other.url
        async with opened(ingestion, connection_verify=False) as sink:
            with pytest.raises((SinkRefused, SinkUnavailable), match="307"):
                await sink.ship(shipment(0, 2))
        assert other.calls == [] and other.rows == []


async def test_a_hanging_service_is_given_up_on(ingestion: IngestionWorld) -> None:
    ingestion.service.fault = "hang"
    async with opened(ingestion, read_timeout=0.3) as sink:
        with pytest.raises(SinkUnavailable):
            await sink.ship(shipment(0, 2))
    ingestion.service.released.set()


def test_a_row_is_json_whatever_the_record() -> None:
    from gateway.providers.azure.logs_ingestion import row

    made = json.loads(row(ORIGIN, 7, b"not json"))
    assert made["EventType"] == "unreadable" and made["EventOriginalUid"] == f"{ORIGIN}/7"
    assert made["AdditionalFields"]["LeafHash"]
