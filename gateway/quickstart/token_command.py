"""`gateway token NAME`: a token of the development issuer, minted with the key in its state directory.

Exit codes: 0 done, 2 usage. The token is the only thing on standard output.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

from gateway.quickstart.issuer import IDENTITIES, KEY_FILE, LIFETIME_S, DevelopmentIssuer


def add_arguments(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `token`; it sets `run`, a function from the parsed arguments to the exit code."""
    token = subparsers.add_parser(
        "token", help="print a development token", epilog='example: curl -H "authorization: Bearer $(gateway token analyst)" ...'
    )
    token.add_argument("identity", choices=sorted(IDENTITIES))
    token.add_argument("--state", type=Path, default=Path(".quickstart"), help="state directory of the quickstart (default .quickstart)")
    token.add_argument("--issuer", help="the development issuer's URL; default: the one in the state directory's gateway.toml")
    token.add_argument("--ttl", type=int, default=LIFETIME_S, metavar="SECONDS", help="lifetime, 60 to 43200 (default)")
    token.set_defaults(run=run_token)


def _issuer_of(state: Path) -> str:
    """Return the issuer that the quickstart wrote down: its port may have been moved."""
    try:
        written = tomllib.loads((state / "gateway.toml").read_text(encoding="utf-8"))
        named = [str(one["issuer"]) for one in written["issuers"] if one.get("type") == "development"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        why = "does not say who the issuer is: run `gateway quickstart` first, or give --issuer"
        raise ValueError(f"`{state / 'gateway.toml'}` {why}") from fault
    if not named:
        raise ValueError(f"`{state / 'gateway.toml'}` names no development issuer: give --issuer")
    return named[0]


def run_token(arguments: argparse.Namespace) -> int:
    if not 60 <= arguments.ttl <= LIFETIME_S:
        sys.stderr.write(f"--ttl must be 60 to {LIFETIME_S}\n")
        return 2
    if not (arguments.state / KEY_FILE).is_file():
        sys.stderr.write(f"there is no issuer's key in `{arguments.state}`: run `gateway quickstart` first\n")
        return 2
    try:
        issuer = DevelopmentIssuer(arguments.issuer or _issuer_of(arguments.state), state=arguments.state)
    except (OSError, ValueError) as fault:
        sys.stderr.write(f"{fault}\n")
        return 2
    sys.stdout.write(issuer.mint(arguments.identity, arguments.ttl) + "\n")
    return 0
