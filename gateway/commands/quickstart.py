"""`gateway quickstart`: a whole gateway on loopback that has just answered real requests, and text to paste.

One process: the gateway, a development identity provider and a simulated model endpoint, each on its own port. It keeps serving
until Ctrl-C; `--once` leaves after the table, with 0 only if every outcome was as expected.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from gateway import loops
from gateway.app import Application, build
from gateway.http.server import make_server
from gateway.quickstart import ports as port_check
from gateway.quickstart.demonstration import Demonstration, Endpoint, table
from gateway.quickstart.issuer import DevelopmentIssuer
from gateway.quickstart.simulator import Simulator
from gateway.quickstart.state import IDENTITIES, Ports, prepare, settings_text, starter_policies, write_private
from gateway.settings import load
from gateway.settings_bounds import is_loopback
from gateway.telemetry import logs

logger = logging.getLogger("gateway.quickstart")
TOKEN_TTL_S = 12 * 3600
PUBLISHED_S = 0.6  # the log's public checkpoint follows a commit within 0.2 s


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "quickstart", help="a gateway on loopback with everything it needs", epilog="example: gateway quickstart --once"
    )
    parser.add_argument("--once", action="store_true", help="leave after the table: 0 only if every outcome was as expected")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--backend", metavar="URL", help="send every model to this OpenAI-compatible base URL on loopback")
    parser.add_argument("--no-ner", action="store_true", help="do not look for names with a statistical model")
    parser.add_argument("--state", type=Path, default=Path(".quickstart"), metavar="DIR", help="where keys, tokens and the log live")
    parser.add_argument("--policies", type=Path, metavar="DIR", help="another policy set than the starter set")
    parser.add_argument("--port-offset", type=int, default=0, metavar="N", help="move every port by N")
    for name, default in (("data", 8080), ("control", 8081), ("ops", 9090), ("issuer", 8400), ("simulator", 8500)):
        parser.add_argument(f"--{name}-port", type=int, metavar="PORT", help=f"default {default}")
    parser.set_defaults(handler=run)


def chosen_ports(arguments: argparse.Namespace) -> Ports:
    default = Ports()
    names = ("data", "control", "ops", "issuer", "simulator")
    return Ports(**{n: (getattr(arguments, f"{n}_port") or getattr(default, n)) + arguments.port_offset for n in names})


def run(arguments: argparse.Namespace) -> int:
    """Check, prepare, serve. Returns 2 for what the caller can change, 1 for an outcome that was not as expected."""
    ports = chosen_ports(arguments)
    for name in ("data", "control", "ops", "issuer", "simulator"):
        port = getattr(ports, name)
        if not 0 < port < 65_536:
            print(f"the {name} port {port} is not a port", file=sys.stderr)
            return 2
        if port_check.taken("127.0.0.1", port):
            who = port_check.owner(port)
            held = f" by {who}" if who else ""
            print(f"port {port} ({name}) is taken{held}; end it, or run `gateway quickstart --port-offset 100`", file=sys.stderr)
            return 2
    if arguments.backend is not None and not is_loopback(urlsplit(arguments.backend).hostname or ""):
        print("--backend must be a URL on loopback", file=sys.stderr)
        return 2
    logs.configure("warning")
    with asyncio.Runner(loop_factory=loops.factory()) as runner:
        return runner.run(_serve(arguments, ports))


async def _serve(arguments: argparse.Namespace, ports: Ports) -> int:
    state: Path = arguments.state.resolve()
    prepare(state)
    issuer = DevelopmentIssuer(f"http://127.0.0.1:{ports.issuer}", state=state)
    tokens = {name: issuer.mint(name, ttl_s=TOKEN_TTL_S) for name in IDENTITIES}
    for name, token in tokens.items():
        write_private(state / "tokens" / f"{name}.jwt", token.encode())
    policies = (arguments.policies or starter_policies()).resolve()
    text = settings_text(state, policies, ports, issuer.issuer, backend=arguments.backend, ner=not arguments.no_ner)
    settings_file = state / "gateway.toml"
    write_private(settings_file, text.encode())
    servers = [
        make_server(issuer.app(), port=ports.issuer),
        make_server(Simulator(), port=ports.simulator),
    ]
    running = [asyncio.create_task(s.serve()) for s in servers]
    await _started(servers)
    application = await build(load(settings_file, {}), unsafe_development=True)
    code = 1
    try:
        await application.start()
        code = await _show(arguments, application, ports, issuer, tokens, state)
    finally:
        await application.stop()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*running, return_exceptions=True)
    return code


async def _started(servers: list) -> None:  # type: ignore[type-arg]
    for _ in range(500):
        if all(s.started for s in servers):
            return
        await asyncio.sleep(0.01)
    raise RuntimeError("a development server did not start")


async def _show(
    arguments: argparse.Namespace, application: Application, ports: Ports, issuer: DevelopmentIssuer, tokens: dict[str, str], state: Path
) -> int:
    simulator = None if arguments.backend else Endpoint("127.0.0.1", ports.simulator)
    visitor = issuer.mint("analyst", ttl_s=600, oid=str(uuid.uuid4()), sub="dev-visitor")
    data = Endpoint("127.0.0.1", ports.data)
    names = not arguments.no_ner
    show = Demonstration(data, simulator, tokens, visitor, state / "audit", lambda: time.sleep(PUBLISHED_S), names=names)
    rows = await asyncio.to_thread(lambda: list(show.run()))
    good = all(row.good for row in rows)
    if arguments.json:
        where = {"data": f"http://127.0.0.1:{ports.data}", "state": str(state)}
        print(json.dumps({"ok": good, **where, "outcomes": [msgspec.to_builtins(row) for row in rows]}), flush=True)
    else:
        print(f"\nWhat the gateway on http://127.0.0.1:{ports.data} just did:\n")
        print(table(rows))
        print(paste(ports, state), flush=True)
    if arguments.once:
        return 0 if good else 1
    await application.wait()
    return 0


def paste(ports: Ports, state: Path) -> str:
    """Return the text a reader pastes into another shell."""
    try:
        shown = state.relative_to(Path.cwd())
    except ValueError:
        shown = state
    return f"""
Try it from another shell (tokens are valid 12 hours, for this gateway alone):

  curl -s http://127.0.0.1:{ports.data}/v1/chat/completions -H "Authorization: Bearer $(cat {shown}/tokens/developer.jwt)" \\
    -H 'content-type: application/json' \\
    -d '{{"model": "echo", "messages": [{{"role": "user", "content": "I am at jane.roe@example.com"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="http://127.0.0.1:{ports.data}/v1", api_key=open("{shown}/tokens/developer.jwt").read())
  print(client.chat.completions.create(model="assistant", messages=[{{"role": "user", "content": "Hello"}}]))

  gateway audit tail {shown}/audit        gateway audit verify {shown}/audit
  status: http://127.0.0.1:{ports.control}/  metrics: http://127.0.0.1:{ports.ops}/metrics

Ctrl-C ends it."""
