"""`gateway simulate`: the simulated model endpoint alone, on loopback, with its knobs."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import sys
from typing import Any

import uvicorn

from gateway.quickstart import canned
from gateway.quickstart.canned import Behaviour
from gateway.quickstart.simulator import Simulator, SimulatorSettings

_EXAMPLE = """example:
  gateway simulate --port 8500 --tokens-per-second 50 --error-rate 0.05
  curl http://127.0.0.1:8500/v1/models
"""


def add_arguments(subparsers: Any) -> None:
    """Add `simulate` to the command line. The parsed arguments carry `run`, which returns the exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "simulate",
        help="run the simulated model endpoint alone (loopback only)",
        description="An OpenAI- and Azure-compatible model endpoint with invented answers. It checks no credential: loopback only.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; anything but loopback is refused (%(default)s)")
    parser.add_argument("--port", type=int, default=8500, help="port, 0 for any free one (%(default)s)")
    parser.add_argument("--answers", choices=("canned", "echo"), help="what models of any other name answer; without it they are 404")
    parser.add_argument("--latency", type=_amount, default=0.0, metavar="SECONDS", help="before the first byte of each answer")
    parser.add_argument("--tokens-per-second", type=_amount, default=0.0, metavar="N", help="pace of answers; 0: as fast as it goes")
    parser.add_argument("--error-rate", type=_share, default=0.0, metavar="SHARE", help="share of requests that fail with 500")
    parser.add_argument("--rate-limit-rate", type=_share, default=0.0, metavar="SHARE", help="share of requests answered 429")
    parser.add_argument("--retry-after", type=_amount, default=1.0, metavar="SECONDS", help="the wait that a 429 asks for")
    parser.add_argument("--capacity-tokens", type=int, default=0, metavar="N", help="tokens in flight beyond which the answer is 429")
    parser.add_argument("--seed", type=int, default=0, help="where streamed echoes are cut and which requests fail")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted. Returns 2 for an address that is not loopback."""
    if not _is_loopback(arguments.host):
        print("the simulated model endpoint checks no credential and listens on loopback only: use --host 127.0.0.1", file=sys.stderr)
        return 2
    settings = SimulatorSettings(
        models=dict(canned.MODELS),
        other_models={None: None, "canned": Behaviour.ASSISTANT, "echo": Behaviour.ECHO}[arguments.answers],
        latency_s=arguments.latency,
        tokens_per_s=arguments.tokens_per_second,
        error_rate=arguments.error_rate,
        limited_rate=arguments.rate_limit_rate,
        retry_after_s=arguments.retry_after,
        capacity_tokens=arguments.capacity_tokens,
        seed=arguments.seed,
    )
    config = uvicorn.Config(Simulator(settings), host=arguments.host, port=arguments.port, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    print(f"simulated models on http://{arguments.host}:{arguments.port}/v1 (invented answers, no credential, loopback only)", flush=True)
    try:
        asyncio.run(server.serve())
    except KeyboardInterrupt:
        return 0
    return 0 if server.started else 2


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError("must be 0 to 86400")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be 0 to 1")
    return value
