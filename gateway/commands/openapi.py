"""`gateway openapi`: the OpenAPI 3.1 description of the data plane as configured, and the table of what inspects what."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import msgspec

from gateway import __version__
from gateway.assembly import plain_specs, route_facts
from gateway.policy.faults import PolicyFaults
from gateway.policy.load import load_policies
from gateway.schema import coverage, openapi
from gateway.schema.operations.plain import SchemaFaults
from gateway.schema.validate import Specs
from gateway.settings import Route, SettingsFaults, load


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("openapi", help="describe the data plane", epilog="example: gateway openapi --coverage")
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="settings: describe the routes they configure")
    parser.add_argument("--coverage", action="store_true", help="print which text is inspected where")
    parser.add_argument("--json", action="store_true", help="print the coverage as JSON; the description is JSON anyway")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.coverage and arguments.json:
        print(json.dumps([msgspec.to_builtins(row) for row in coverage.rows()]))
        return 0
    if arguments.coverage:
        print(coverage.render())
        return 0
    routes: tuple[Route, ...] = ()
    specs = Specs()
    if arguments.config is not None:
        try:
            settings = load(arguments.config, os.environ)
            routes = settings.routes
            # What plain routes take stands in the policy set; the rest of the set does not matter here.
            policies = load_policies(Path(settings.policies.directory), invariants=None, routes=route_facts(settings))
            specs = Specs(plain_specs(routes, policies.schemas))
        except (SettingsFaults, PolicyFaults) as faults:
            print(faults, file=sys.stderr)
            return 2
        except SchemaFaults as found:
            print("\n".join(found.faults), file=sys.stderr)
            return 2
    print(json.dumps(openapi.build(routes, specs, version=__version__), indent=2))
    return 0
