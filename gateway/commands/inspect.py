"""`gateway inspect TEXT`: what the detectors see in a text and what a profile would do. The text stays on this machine."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from gateway.assembly import asks_twice, local_inspection
from gateway.content.inspect import Scope
from gateway.content.review import review
from gateway.content.stream import Findings
from gateway.evidence import Direction, Role, Segment, Use
from gateway.policy.faults import PolicyFaults
from gateway.policy.load import load_policies
from gateway.ports import InspectorUnavailable
from gateway.profiles import compile_rules
from gateway.providers.local import encoder
from gateway.providers.local.ner import NerPool
from gateway.quickstart.state import starter_policies


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("inspect", help="what inspection sees in a text", epilog='example: gateway inspect "mail bob@example.com"')
    parser.add_argument("text", metavar="TEXT", help="the text, or - for standard input")
    parser.add_argument("--policies", type=Path, metavar="DIR", help="the policy set; default: the starter set")
    parser.add_argument("--profile", metavar="NAME", help="the content profile; default: the set's default")
    parser.add_argument("--role", choices=[r.value for r in Role], default="user", help="who is speaking")
    parser.add_argument("--outbound", action="store_true", help="judge as an answer")
    parser.add_argument("--no-ner", action="store_true", help="do not look for names with a statistical model")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if the profile would block the text, 0 otherwise."""
    try:
        policies = load_policies(arguments.policies or starter_policies(), invariants=None, routes=None)
    except PolicyFaults as faults:
        print(faults, file=sys.stderr)
        return 2
    name = arguments.profile or policies.content.default
    if name not in policies.content.profiles:
        print(f"there is no profile `{name}`; there are {', '.join(sorted(policies.content.profiles))}", file=sys.stderr)
        return 2
    text = sys.stdin.read() if arguments.text == "-" else arguments.text
    second = encoder.available()
    rules = compile_rules(policies.profile(name), policies.digest, ner_enabled=not arguments.no_ner, second_opinion=second)
    if not second and name in asks_twice(policies):
        print(f"profile {name} asks for a second opinion: here, without the extra `encoder`, there is none", file=sys.stderr)
    if rules.inbound.cloud is not None or rules.outbound.cloud is not None:
        print(f"profile {name} asks Azure AI Content Safety: here the local inspectors alone are asked", file=sys.stderr)
        inbound, outbound = (msgspec.structs.replace(side, cloud=None) for side in (rules.inbound, rules.outbound))
        rules = msgspec.structs.replace(rules, inbound=inbound, outbound=outbound)
    ner = None
    try:
        ner = None if arguments.no_ner else NerPool()
        seen = asyncio.run(_look(text, rules, Role(arguments.role), Direction.OUTBOUND if arguments.outbound else Direction.INBOUND, ner))
    except InspectorUnavailable as error:
        print(f"{error}; or give --no-ner", file=sys.stderr)
        return 2
    finally:
        if ner is not None:
            ner.close()
    if arguments.json:
        print(json.dumps(seen))
    else:
        print(f"profile {name}: {seen['action']}")
        for span in seen["entities"]:
            print(f"  {span['type']:20} {span['start']:5}-{span['end']:<5} score {span['score']:.2f}  {span['detector']}")
        for head, score in seen["scores"].items():
            print(f"  {head:20} {score:.3f}")
        if seen["flagged"]:
            print(f"  flagged: {', '.join(seen['flagged'])}")
        print("  is blocked" if seen["becomes"] is None else f"  becomes: {seen['becomes']}")
    return 1 if seen["action"] == "block" else 0


async def _look(text: str, rules: Any, role: Role, direction: Direction, ner: NerPool | None) -> dict[str, Any]:
    asked = rules.inbound.second_opinion or rules.outbound.second_opinion
    inspected = local_inspection(ner=ner, opinion=encoder.Encoder() if asked else None)
    segment = Segment(("text",), text, role, Use.CONTENT)
    findings = Findings()
    scope = Scope("local", b"")
    found, _ = await inspected.findings([segment], rules, direction, scope, float("inf"))
    outcome = await review(inspected, [segment], rules, direction, scope, float("inf"), None, findings)
    return {
        "action": "block" if outcome.blocked else findings.action.name.lower(),
        "entities": [{"type": s.type, "start": s.start, "end": s.end, "score": s.score, "detector": s.detector} for s in found[0].spans],
        "scores": {head: round(score, 4) for head, score in found[0].scores},
        "flagged": sorted(findings.flagged),
        "becomes": None if outcome.blocked else outcome.texts.get(0, text),
    }
