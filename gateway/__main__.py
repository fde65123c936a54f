"""The `gateway` command: one parser, one handler a command, exit codes 0 ok, 1 finding, 2 usage.

Heavy parts are imported by the command that needs them: an auditor's `verify` must not load a server.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from gateway import __version__

# Each names a module with `add_arguments(subparsers)`, which registers commands with `set_defaults(handler=...)` or `run=...`.
COMMANDS = {
    "serve": "gateway.commands.serve",
    "check": "gateway.commands.check",
    "init": "gateway.commands.init",
    "inspect": "gateway.commands.inspect",
    "evaluate": "gateway.commands.evaluate",
    "health": "gateway.commands.health",
    "parity": "gateway.commands.parity",
    "whoami": "gateway.commands.whoami",
    "openapi": "gateway.commands.openapi",
    "quickstart": "gateway.commands.quickstart",
    "simulate": "gateway.quickstart.simulate_cli",
    "policy": "gateway.policy.cli",
    "audit": "gateway.audit.cli",
    "key": "gateway.identity.cli",
    "token": "gateway.quickstart.token_command",
}

SERVERS = frozenset({"serve", "quickstart"})


def parser_for(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser with only the wanted command's module loaded, or with all of them for help."""
    parser = argparse.ArgumentParser(prog="gateway", description="A secure inference gateway.", epilog="example: gateway quickstart")
    parser.add_argument("--version", action="version", version=f"gateway {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    wanted = next((word for word in argv if not word.startswith("-")), None)
    modules = [COMMANDS[wanted]] if wanted in COMMANDS else list(dict.fromkeys(COMMANDS.values()))
    for module in modules:
        importlib.import_module(module).add_arguments(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if SERVERS.intersection(words[:1]):
        importlib.import_module("gateway.memory").give_large_blocks_back()
    parser = parser_for(words)
    arguments = parser.parse_args(words)
    handler = getattr(arguments, "handler", None) or getattr(arguments, "run", None)
    if handler is None:
        parser.print_help()
        return 2
    try:
        return int(handler(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
