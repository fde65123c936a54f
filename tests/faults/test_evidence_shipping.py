"""Killed between append and cursor; a sink away for long beside a whole gateway; a log rolled back under a running fleet."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
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
