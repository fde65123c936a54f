"""`gateway key create|list|revoke`: the commands that edit the file of gateway keys.

The key itself is printed once, by `create`, and nowhere else. Exit codes: 0 done, 1 nothing of that id, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from gateway.identity import apikeys

_DAY_S: Final = 86_400


def add_arguments(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `key` and its commands; each sets `run`, a function from the parsed arguments to the exit code."""
    key = subparsers.add_parser("key", help="make, list and revoke gateway keys", epilog="example: gateway key list --file keys.jsonl")
    commands = key.add_subparsers(dest="key_command", required=True)

    create = commands.add_parser(
        "create", help="make a key and print it once", epilog="example: gateway key create --file keys.jsonl --name ci --role analyst"
    )
    create.add_argument("--name", required=True, help="whose key it is and what it is for")
    create.add_argument("--role", action="append", default=[], help="application role of the key; may be repeated")
    create.add_argument("--scope", action="append", default=[], help="scope of the key; may be repeated")
    create.add_argument("--days", type=int, default=90, help="days until it expires, 1 to 366 (default 90)")
    create.set_defaults(run=run_create)

    listing = commands.add_parser("list", help="list keys and their state", epilog="example: gateway key list --file keys.jsonl --json")
    listing.set_defaults(run=run_list)

    revoke = commands.add_parser("revoke", help="revoke a key", epilog="example: gateway key revoke --file keys.jsonl abcdefghijklmnop")
    revoke.add_argument("id", help="the part between `gwk_` and the next `_`")
    revoke.set_defaults(run=run_revoke)

    for command in (create, listing, revoke):
        command.add_argument("--file", type=Path, required=True, help="the key file named in settings")
        command.add_argument("--json", action="store_true", help="machine-readable output")
    create.add_argument("--pepper-env", metavar="NAME", default="", help="environment variable that holds the pepper, as settings name it")


def run_create(arguments: argparse.Namespace) -> int:
    pepper = os.environb.get(os.fsencode(arguments.pepper_env), b"") if arguments.pepper_env else b""
    if arguments.pepper_env and not pepper:
        return _usage(f"the environment variable `{arguments.pepper_env}` is empty")
    if not 1 <= arguments.days <= 366:
        return _usage("--days must be 1 to 366")
    now_s = int(time.time())
    try:
        record, key = apikeys.create(
            arguments.file,
            name=arguments.name,
            now_s=now_s,
            random=secrets.token_bytes(42),
            roles=arguments.role,
            scopes=arguments.scope,
            expires_s=now_s + arguments.days * _DAY_S,
            pepper=pepper,
        )
    except (OSError, ValueError) as fault:
        return _usage(_said(arguments.file, fault))
    if arguments.json:
        _print(json.dumps({"id": record.id, "key": key, "expires_s": record.expires_s}))
    else:
        _print(f"{key}\n\nShown once; the file holds its digest. Give it a tenant in settings:\n")
        _print(f'  [[tenants]]\n  id = "..."\n  key = "{record.id}"')
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    try:
        records = apikeys.load(arguments.file)
    except (OSError, apikeys.KeyFileInvalid) as fault:
        return _usage(_said(arguments.file, fault))
    now_s = int(time.time())
    for record in records:
        if arguments.json:
            shown = msgspec.to_builtins(record)
            del shown["digest"]
            _print(json.dumps(shown | {"state": _state(record, now_s)}))
        else:
            expires = time.strftime("%Y-%m-%d", time.gmtime(record.expires_s)) if record.expires_s else "never"
            _print(f"{record.id}  {_state(record, now_s):8}  expires {expires:10}  {','.join(record.roles) or '-'}  {record.name}")
    return 0


def run_revoke(arguments: argparse.Namespace) -> int:
    try:
        record = apikeys.revoke(arguments.file, arguments.id, int(time.time()))
    except KeyError:
        _print("no key of that id", error=True)
        return 1
    except (OSError, apikeys.KeyFileInvalid) as fault:
        return _usage(_said(arguments.file, fault))
    _print(json.dumps({"id": record.id, "revoked_s": record.revoked_s}) if arguments.json else f"revoked {record.id}")
    return 0


def _state(record: apikeys.KeyRecord, now_s: int) -> str:
    if record.revoked_s:
        return "revoked"
    return "expired" if record.expires_s and now_s >= record.expires_s else "active"


def _said(file: Path, fault: Exception) -> str:
    """Return a fault as a person reads it: a file that cannot be used is named."""
    return f"`{file}`: {fault.strerror or 'cannot be used'}" if isinstance(fault, OSError) else str(fault)


def _usage(fault: str) -> int:
    _print(fault, error=True)
    return 2


def _print(text: str, *, error: bool = False) -> None:
    (sys.stderr if error else sys.stdout).write(text + "\n")
