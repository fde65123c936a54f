"""`gateway serve`: the gateway as settings describe it, in one process or several on one socket.

Several processes share nothing but the socket and the counter store; each has its own instance name, log directory and origin.
In-memory limits would multiply by the number of processes, so without a shared store several are refused.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from gateway import loops
from gateway.app import Application, DevelopmentIssuerRefused, build
from gateway.audit.recovery import LogRefused
from gateway.identity.issuers import IssuerFaults
from gateway.identity.subject import TenantFaults
from gateway.policy.faults import PolicyFaults
from gateway.ports import InspectorUnavailable
from gateway.providers.local.secrets import SecretMissing
from gateway.quickstart.ports import owner, taken
from gateway.schema.operations.plain import SchemaFaults
from gateway.settings import Settings, SettingsFaults, host_port, load
from gateway.telemetry import logs

MAX_WORKERS = 64
# What a start may fail with besides faults of issuers, tenants and schemas: each says in one line what is wrong.
_FAILED = (
    PolicyFaults, LogRefused, SecretMissing, DevelopmentIssuerRefused, InspectorUnavailable, ImportError, RuntimeError, OSError,
)  # fmt: skip
RESTART_S = 1.0  # a worker that ends is replaced after this long, so that a broken start does not spin


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("serve", help="serve as settings describe", epilog="example: gateway serve -c gateway.toml")
    parser.add_argument("-c", "--config", type=Path, default=Path("gateway.toml"), metavar="FILE", help="settings")
    parser.add_argument("--workers", type=int, metavar="N", help="processes on one socket; needs a shared counter store")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--descriptor", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal. Returns 2 for what is wrong with settings, 1 for a start that failed."""
    try:
        settings = load(arguments.config, os.environ)
    except SettingsFaults as faults:
        print(faults, file=sys.stderr)
        return 2
    workers = arguments.workers or settings.server.workers
    if not 1 <= workers <= MAX_WORKERS:
        print(f"--workers must be 1 to {MAX_WORKERS}", file=sys.stderr)
        return 2
    if workers > 1 and settings.limits.store != "redis":
        print("several workers need [limits] store = \"redis\": in-memory limits would multiply by their number", file=sys.stderr)
        return 2
    if arguments.worker is None and (fault := port_fault(settings)):
        print(fault, file=sys.stderr)
        return 2
    if workers > 1 and arguments.worker is None:
        return supervise(arguments.config, settings, workers)
    return serve_one(settings, arguments.worker, arguments.descriptor)


def port_fault(settings: Settings) -> str:
    """Say which listener's port is taken and by whom, "" if none is: before anything is started, so that nothing is half up."""
    for name in ("data", "control", "ops"):
        host, port = host_port(getattr(settings.server, name))
        if port and taken(host, port):
            who = owner(port)
            return f"port {port} (`server.{name}`) is taken{f' by {who}' if who else ''}: end it, or listen elsewhere"
    return ""


def serve_one(settings: Settings, worker: int | None, descriptor: int | None) -> int:
    """Serve in this process; as worker K on an inherited socket."""
    logs.configure(settings.telemetry.log_level)
    shared: dict[str, socket.socket] | None = None
    if worker is not None and descriptor is not None:
        settings = for_worker(settings, worker)
        shared = {"data": socket.socket(fileno=descriptor)}
    try:
        with asyncio.Runner(loop_factory=loops.factory()) as runner:
            return runner.run(_serve(settings, shared))
    except (IssuerFaults, TenantFaults, SchemaFaults) as error:
        print("\n".join(error.faults), file=sys.stderr)
        return 1
    except _FAILED as error:
        print(error, file=sys.stderr)
        return 1


def for_worker(settings: Settings, worker: int) -> Settings:
    """Return settings of worker K: its own instance, log and origin; control and ops ports move up by K."""

    def moved(listen: str) -> str:
        host, port = host_port(listen)
        return f"{host}:{port + worker}"

    server = msgspec.structs.replace(
        settings.server,
        instance=f"{settings.server.instance}-{worker}",
        control=moved(settings.server.control),
        ops=moved(settings.server.ops),
    )
    audit = msgspec.structs.replace(
        settings.audit, directory=str(Path(settings.audit.directory) / f"worker-{worker}"), origin=f"{settings.audit.origin}-{worker}"
    )
    return msgspec.structs.replace(settings, server=server, audit=audit)


async def _serve(settings: Settings, shared: dict[str, socket.socket] | None) -> int:
    application: Application = await build(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    await application.start(sockets=shared)
    for number in (signal.SIGTERM, signal.SIGINT):  # after the servers took them: the drain is ours
        loop.add_signal_handler(number, stop.set)
    waiting = asyncio.create_task(application.wait())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    await application.stop()
    return 0


def supervise(config: Path, settings: Settings, workers: int) -> int:
    """Hold the socket and keep the workers alive until a signal; then end them and wait for their drain."""
    host, port = host_port(settings.server.data)
    listener = socket.create_server((host, port), backlog=2048)
    listener.set_inheritable(True)
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)

    def launch(worker: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gateway", "serve", "-c", str(config), "--workers", str(workers)]
        command += ["--worker", str(worker), "--descriptor", str(listener.fileno())]
        return subprocess.Popen(command, pass_fds=(listener.fileno(),))  # noqa: S603 - our own interpreter and arguments

    running = {k: launch(k) for k in range(workers)}
    while not ending:
        time.sleep(0.2)
        for worker, process in running.items():
            if process.poll() is not None and not ending:
                time.sleep(RESTART_S)
                running[worker] = launch(worker)
    for process in running.values():
        process.terminate()
    codes = [process.wait(settings.server.drain_s + 15) for process in running.values()]
    return max(codes, default=0)
