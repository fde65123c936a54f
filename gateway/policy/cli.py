"""`gateway policy test|explain|diff|replay`: policies looked at without a running gateway, and without settings.

The models are those that the set's tests declare. Exit codes: 0 nothing found, 1 a finding, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.policy.decide import SEE, SERVICE_ACTIONS, USE, PolicySet
from gateway.policy.explain import compare, explain, replay
from gateway.policy.facts import DATA_CLASSES, LOOPBACK, Zones, context_at
from gateway.policy.faults import Fault, PolicyFaults
from gateway.policy.files import read_files
from gateway.policy.load import bad_set_names, load_policies
from gateway.policy.testing import example_subject

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def add_arguments(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `policy` and its commands; each sets `handler`, a function from the parsed arguments to the exit code."""
    epilog = "example: gateway policy test policies"
    policy = subparsers.add_parser("policy", help="test, explain, compare and replay policies", epilog=epilog)
    commands = policy.add_subparsers(dest="policy_command", required=True, metavar="COMMAND")

    test = commands.add_parser("test", help="run a set's own tests", epilog="example: gateway policy test policies --invariants inv.toml")
    test.add_argument("policies", type=Path, nargs="?", default=Path("policies"), help="directory of the set (default: policies)")
    test.add_argument("--invariants", type=Path, metavar="FILE", help="what no set may break")
    test.set_defaults(handler=run_test)

    epilog = "example: gateway policy explain policies --role analyst --action chat --model restricted"
    why = commands.add_parser("explain", help="say why something is permitted or denied", epilog=epilog)
    why.add_argument("policies", type=Path, nargs="?", default=Path("policies"), help="directory of the set (default: policies)")
    why.add_argument("--role", action="append", default=[], help="role of the subject; may be repeated; none: a subject without a role")
    actions = sorted({SEE, *USE, *SERVICE_ACTIONS})
    why.add_argument("--action", required=True, choices=actions, metavar="ACTION", help=", ".join(actions))
    why.add_argument("--model", default="", help="model, for actions on a model")
    why.add_argument("--zone", default=LOOPBACK, help="network zone of the caller (default: loopback)")
    why.add_argument("--hour", type=int, default=12, choices=range(24), metavar="0-23", help="hour of the day, UTC (default: 12)")
    why.add_argument("--weekday", default="wednesday", choices=_DAYS, metavar="DAY", help="day of the week (default: wednesday)")
    why.add_argument("--token-age", type=int, default=1, metavar="MINUTES", help="age of the token (default: 1)")
    why.add_argument("--data-class", choices=DATA_CLASSES, help="class of the data (default: the model's)")
    why.set_defaults(handler=run_explain)

    epilog = "example: gateway policy diff deployed/ policies/"
    diff = commands.add_parser("diff", help="show what a change of policies changes", epilog=epilog)
    diff.add_argument("before", type=Path, help="the set in force")
    diff.add_argument("after", type=Path, help="the set proposed")
    diff.set_defaults(handler=run_diff)

    epilog = "example: gateway policy replay policies records.jsonl"
    again = commands.add_parser("replay", help="decide the records of an audit log again and show what changes", epilog=epilog)
    again.add_argument("policies", type=Path, help="directory of the set")
    again.add_argument("records", help="records as JSON lines; - for standard input")
    again.set_defaults(handler=run_replay)

    for command in (test, why, diff, again):
        command.add_argument("--json", action="store_true", help="print as JSON")


def _say(value: Any) -> None:
    print(msgspec.json.encode(value, order="sorted").decode())


def _refused(faults: Sequence[Fault], as_json: bool) -> int:
    if as_json:
        _say({"ok": False, "faults": faults})
    else:
        for fault in faults:
            print(fault, file=sys.stderr)
        print(f"{len(faults)} fault{'s' if len(faults) > 1 else ''}")
    return 1


def _look_at(directory: Path) -> PolicySet:
    return load_policies(directory, invariants=None, routes=None)


def run_test(arguments: argparse.Namespace) -> int:
    """Return 1 if the set has a fault, fails a test, breaks an invariant, or a set that must be refused is not."""
    try:
        policies = load_policies(arguments.policies, invariants=arguments.invariants, routes=None, zones=Zones(), bad_sets=True)
        bad = len(bad_set_names(read_files(arguments.policies)))
    except PolicyFaults as found:
        return _refused(found.faults, arguments.json)
    if arguments.json:
        _say({"ok": True, "digest": policies.digest, "policies": len(policies.policies), "bad_sets_refused": bad})
    else:
        print(f"{len(policies.policies)} policies, every test passed, {bad} bad sets refused as expected")
        print(policies.digest)
    return 0


def run_explain(arguments: argparse.Namespace) -> int:
    """Return 0 whatever the decision, 2 for a role or model that the set does not know."""
    try:
        policies = _look_at(arguments.policies)
    except PolicyFaults as refused:
        return _refused(refused.faults, arguments.json)
    service = arguments.action in SERVICE_ACTIONS
    for kind, name, known in [("role", r, policies.roles.rules) for r in arguments.role] + [("model", arguments.model, policies.routes)]:
        if name not in known and not (service and kind == "model"):
            print(f"there is no {kind} `{name}`: known are {', '.join(known)}", file=sys.stderr)
            return 2
    model = "" if service else arguments.model
    subject = example_subject()
    context = context_at(subject, policies.routes.get(model), arguments.zone, False, 0)
    changes = {"minute_of_day": arguments.hour * 60, "weekday": arguments.weekday, "token_age_minutes": max(0, arguments.token_age)}
    if arguments.data_class:
        changes["data_class"] = arguments.data_class
    context = msgspec.structs.replace(context, **changes)
    found = explain(policies, subject, frozenset(arguments.role), arguments.action, model, context)
    if arguments.json:
        _say(found)
    else:
        print(found.prose())
    return 0


def run_diff(arguments: argparse.Namespace) -> int:
    """Return 1 if any cell changed."""
    try:
        before, after = _look_at(arguments.before), _look_at(arguments.after)
    except PolicyFaults as found:
        return _refused(found.faults, arguments.json)
    changes = list(compare(before, after))
    if arguments.json:
        _say({"before": before.digest, "after": after.digest, "changes": changes})
    else:
        for change in changes:
            print(change)
        print(f"{len(changes)} of the decisions change" if changes else "no decision changes")
    return 1 if changes else 0


def run_replay(arguments: argparse.Namespace) -> int:
    """Return 1 if any recorded decision would be another one now."""
    try:
        policies = _look_at(arguments.policies)
        if arguments.records == "-":
            found = list(replay(policies, sys.stdin.buffer))
        else:
            with Path(arguments.records).open("rb") as lines:
                found = list(replay(policies, lines))
    except PolicyFaults as faults:
        return _refused(faults.faults, arguments.json)
    except IsADirectoryError:
        how = f"gateway audit query {arguments.records} --json | gateway policy replay {arguments.policies} -"
        print(f"`{arguments.records}` is a directory: take its records first, as in `{how}`", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"the records cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    changed = [row for row in found if row.changed]
    silent = sum(1 for row in found if not row.after)
    if arguments.json:
        _say({"decided": len(found) - silent, "not_decided": silent, "changed": changed})
        return 1 if changed else 0
    for row in changed:
        what = f"{row.action} on `{row.model}`" if row.model else row.action
        print(f"line {row.position} {row.request_id}: {what}: {row.before} -> {row.after} ({row.reason})")
    print(f"{len(found) - silent} decisions replayed, {len(changed)} change, {silent} records do not say enough")
    return 1 if changed else 0
