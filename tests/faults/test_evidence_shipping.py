"""Killed between append and cursor; a sink away for long beside a whole gateway; a log rolled back under a running fleet."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from audit_logs import KEY, ORIGIN, fill, open_log
from azurite_server import AzuriteServer
from running_house import free_offset

from gateway.app import Application, build
from gateway.audit import segments
from gateway.audit.tree import Signer, Verifier
from gateway.http.server import make_server
from gateway.ports import Held, SinkUnavailable
from gateway.providers.local.evidence_directory import EvidenceDirectory
from gateway.quickstart.issuer import DevelopmentIssuer
from gateway.quickstart.simulator import Simulator
from gateway.quickstart.state import Ports, prepare, settings_text, starter_policies
from gateway.settings import load

VERIFIER = Signer(ORIGIN, KEY).verifier_key()
CHILD = Path(__file__).parent / "evidence_shipper_child.py"


async def shipped_by_children(tmp_path: Path, container: str, when: str, connection: str = "") -> None:
    """Ship a log by processes that die, until one lives to the end."""
    log = open_log(tmp_path / "audit")
    await log.start()
    await fill(log, 150)
    await log.close()
    (tmp_path / "second").mkdir()
    environment = {**os.environ, "CONNECTION": connection}
    command = [sys.executable, str(CHILD), str(tmp_path / "second"), str(tmp_path / "audit"), container]
    codes = []
    for how in (when, when, when, "never"):
        codes.append(subprocess.run([*command, how, VERIFIER], env=environment, timeout=60, check=False).returncode)
    assert codes == [-9, -9, -9, 0]


@pytest.mark.parametrize("when", ["during", "after"])
async def test_a_kill_around_an_append_doubles_nothing_and_leaves_no_gap(tmp_path: Path, when: str) -> None:
    await shipped_by_children(tmp_path, "-", when)
    found = [index for path in sorted((tmp_path / "second").rglob("*.jsonl")) for index, _ in segments.records(path.read_bytes())]
    assert found == list(range(302))


@pytest.mark.parametrize("when", ["during", "after"])
async def test_a_kill_around_an_append_to_a_blob(tmp_path: Path, when: str) -> None:
    aio = pytest.importorskip("azure.storage.blob.aio")
    (tmp_path / "azurite").mkdir()
    server = AzuriteServer(tmp_path / "azurite")
    server.start()
    try:
        async with aio.ContainerClient.from_connection_string(server.connection, "evidence") as client:
            await client.create_container()
            await shipped_by_children(tmp_path, "evidence", when, server.connection)
            names = [b.name async for b in client.list_blobs() if b.name.endswith(".jsonl")]
            data = [await (await client.download_blob(name)).readall() for name in names]
    finally:
        server.stop()
    assert [index for one in data for index, _ in segments.records(one)] == list(range(302))


# --- beside a whole gateway


class Running:
    def __init__(self, application: Application, ports: Ports, token: str) -> None:
        self.application = application
        self.ports = ports
        self.token = token

    async def ask(self, text: str) -> tuple[int, float]:
        """Return the status and the seconds of one exchange."""
        return await asyncio.to_thread(self._ask, text)

    def _ask(self, text: str) -> tuple[int, float]:
        body = json.dumps({"model": "assistant", "messages": [{"role": "user", "content": text}]})
        start_s = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.data, timeout=10)
        connection.request(
            "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        )
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, time.perf_counter() - start_s

    def metric(self, name: str, labels: str = "") -> float:
        for line in self.application.gauges().decode().splitlines():
            if line.startswith(f"{name}{labels} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"{name}{labels} is not shown")


@contextlib.asynccontextmanager
async def gateway(state: Path, sinks: str, audit: str = "") -> AsyncIterator[Running]:
    offset = free_offset()
    names = ("data", "control", "ops", "issuer", "simulator")
    ports = Ports(**{name: getattr(Ports(), name) + offset for name in names})
    prepare(state)
    issuer = DevelopmentIssuer(f"http://127.0.0.1:{ports.issuer}", state=state)
    text = settings_text(state, starter_policies(), ports, issuer.issuer, backend=None, ner=False)
    (state / "gateway.toml").write_text(text.replace("[audit]", f"[audit]\n{audit}", 1) + sinks)
    servers = [make_server(issuer.app(), port=ports.issuer), make_server(Simulator(), port=ports.simulator)]
    running = [asyncio.create_task(server.serve()) for server in servers]
    while not all(server.started for server in servers):
        await asyncio.sleep(0.01)
    application = await build(load(state / "gateway.toml", {}), unsafe_development=True)
    try:
        await application.start()
        yield Running(application, ports, issuer.mint("loadtest", ttl_s=600))
    finally:
        await application.stop()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*running, return_exceptions=True)


def directory_sink(second: Path) -> str:
    return f'\n[[audit_sinks]]\nname = "second"\ntype = "directory"\ndirectory = "{second}"\ninterval_s = 0.05\nbatch_records = 50\n'


async def until(condition: Any, limit_s: float = 15.0) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "did not come about in time"
        await asyncio.sleep(0.05)


async def test_a_sink_that_is_away_costs_serving_nothing(tmp_path: Path) -> None:
    """Away from the start: the backlog and its age grow, exchanges go on; back again: everything arrives, in order, once."""
    second = tmp_path / "second"
    async with gateway(tmp_path / "state", directory_sink(second)) as running:
        asked = [await running.ask(f"question {i}") for i in range(60)]
        assert {status for status, _ in asked} == {200}
        assert sorted(s for _, s in asked)[54] < 1.0
        await until(lambda: running.metric("gateway_shipping_failures_total", '{sink="second"}') > 0)
        behind = running.metric("gateway_shipping_backlog_records", '{sink="second"}')
        assert behind >= 120
        assert running.metric("gateway_shipping_oldest_seconds", '{sink="second"}') > 0
        assert all(running.application.readiness().values())  # a sink is no part of readiness
        second.mkdir()
        await until(lambda: running.metric("gateway_shipping_backlog_records", '{sink="second"}') == 0)
        assert running.metric("gateway_shipped_records_total", '{sink="second"}') == running.application.log.size
        await running.ask("one more")
    found = [index for path in sorted(second.rglob("*.jsonl")) for index, _ in segments.records(path.read_bytes())]
    assert found == list(range(running.application.log.size))  # the `stop` record included


async def test_a_directory_that_hangs_holds_one_thread_and_no_one_elses(tmp_path: Path) -> None:
    """A dead share keeps whoever touches it; the threads that secrets, policies and checkpoints need must not be the ones kept."""
    pipe = segment_that_hangs(tmp_path)
    sink = EvidenceDirectory(tmp_path)
    before = threading.active_count()
    said = []
    for _ in range(40):  # more than the loop's own threads on any machine
        with contextlib.suppress(TimeoutError):
            try:
                async with asyncio.timeout(0.02):
                    await sink.held(ORIGIN)
            except SinkUnavailable as fault:
                said.append(fault.why)
    assert threading.active_count() - before <= 1
    assert len(said) >= 38 and "has not come back" in said[0]
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "served"), 1) == "served"
    os.close(os.open(pipe, os.O_RDWR))  # the share is back
    pipe.unlink()
    await until(lambda: threading.active_count() <= before + 1)
    assert (await sink.held(ORIGIN)) == Held(0)


def segment_that_hangs(folder: Path) -> Path:
    """Put a pipe where a segment would be: to open it takes for ever, as on a share whose server is gone."""
    pipe = folder / segments.segment(ORIGIN, segments.period(1_790_000_000.0, hourly=False), 0).name
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    return pipe


def test_a_directory_that_hangs_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    segment_that_hangs(tmp_path)
    script = f"""
import asyncio, pathlib
from gateway.providers.local.evidence_directory import EvidenceDirectory
async def main():
    sink = EvidenceDirectory(pathlib.Path({str(tmp_path)!r}))
    try:
        async with asyncio.timeout(0.2):
            await sink.held({ORIGIN!r})
    except TimeoutError:
        print("given up")
    await sink.aclose()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


async def test_a_segment_that_another_process_locks_is_a_sink_that_is_away(tmp_path: Path) -> None:
    sink = EvidenceDirectory(tmp_path)
    log = open_log(tmp_path / "audit")
    await log.start()
    await fill(log, 3)
    await log.close()
    path = tmp_path / segments.segment(ORIGIN, segments.period(time.time(), hourly=False), 0).name
    path.parent.mkdir(parents=True)
    path.touch()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SinkUnavailable, match="another writer"):
            await asyncio.wait_for(sink.held(ORIGIN), 5)
    assert (await sink.held(ORIGIN)) == Held(0)


async def test_a_blob_service_that_freezes_costs_serving_nothing(tmp_path: Path) -> None:
    aio = pytest.importorskip("azure.storage.blob.aio")
    (tmp_path / "azurite").mkdir()
    server = AzuriteServer(tmp_path / "azurite")
    server.start()
    (tmp_path / "connection").write_text(server.connection)
    sink = '\n[[audit_sinks]]\nname = "blobs"\ntype = "append_blob"\ncontainer = "evidence"\n'
    sink += f'connection = "file:{tmp_path}/connection"\n'
    sink += "interval_s = 0.05\ntimeout_s = 1.0\n"
    try:
        async with aio.ContainerClient.from_connection_string(server.connection, "evidence") as client:
            await client.create_container()
        async with gateway(tmp_path / "state", sink) as running:
            await running.ask("first")
            await until(lambda: running.metric("gateway_shipping_backlog_records", '{sink="blobs"}') == 0)
            server.freeze()
            asked = [await running.ask(f"question {i}") for i in range(40)]
            assert {status for status, _ in asked} == {200} and sorted(s for _, s in asked)[36] < 1.0
            await until(lambda: running.metric("gateway_shipping_failures_total", '{sink="blobs"}') > 0)
            assert running.metric("gateway_shipping_backlog_records", '{sink="blobs"}') >= 80
            server.thaw()
            await until(lambda: running.metric("gateway_shipping_backlog_records", '{sink="blobs"}') == 0, 30)
        async with aio.ContainerClient.from_connection_string(server.connection, "evidence") as client:
            data = [await (await client.download_blob(b.name)).readall() async for b in client.list_blobs() if b.name.endswith(".jsonl")]
    finally:
        server.stop()
    assert [index for one in data for index, _ in segments.records(one)] == list(range(running.application.log.size))


async def test_checkpoints_of_settings_leave_the_host(tmp_path: Path) -> None:
    note = tmp_path / "elsewhere.note"
    async with gateway(tmp_path / "state", "", audit=f'checkpoint_file = "{note}"') as running:
        await running.ask("first")
        await until(note.exists)
        audit = Path(running.application.settings.audit.directory)
    checkpoint = Verifier((audit / "key.pub").read_text().strip()).open(note.read_bytes())
    assert checkpoint.size == running.application.log.size  # the last one, of the `stop` record
