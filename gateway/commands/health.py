"""`gateway health`: is the gateway beside me alive (or ready)? For container health checks: no shell, no curl.

Asks the ops port alone, on loopback unless told otherwise, and prints nothing but one word.
"""

from __future__ import annotations

import argparse
import http.client

TIMEOUT_S = 2.0


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("health", help="ask the ops port whether the gateway is alive", epilog="example: gateway health --ready")
    parser.add_argument("--address", default="127.0.0.1:9090", metavar="HOST:PORT", help="the ops listener (default %(default)s)")
    parser.add_argument("--ready", action="store_true", help="ask whether it would serve, not only whether it runs")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when the answer is 200, 1 for any other or none, 2 for an address that is none."""
    host, _, port = arguments.address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        print("the address must be host:port")
        return 2
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz" if arguments.ready else "/healthz")
        good = connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        good = False
    finally:
        connection.close()
    print("ok" if good else "not ready" if arguments.ready else "not alive")
    return 0 if good else 1
