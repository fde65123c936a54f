"""`gateway init`: a commented `gateway.toml` and a starter `policies/`, never over something that exists."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from gateway.quickstart.state import starter_policies

SETTINGS = """\
# Settings say where things are; policies/ says what is allowed. `gateway check` finds every fault at once.

[server]
data = "127.0.0.1:8080"        # beyond loopback: give [server.tls] or name the [server.terminator]
control = "127.0.0.1:8081"     # status page; asks for a token
ops = "127.0.0.1:9090"         # /healthz /readyz /metrics
instance = "gateway-0"         # unique for each replica

[policies]
directory = "policies"
# invariants = "invariants.toml"   # fixed at start, outside the set

[audit]
directory = "audit"
key = "file:audit.key"         # Ed25519, PEM: openssl genpkey -algorithm ed25519 -out audit.key
pepper = "file:pepper"         # at least 32 random bytes: openssl rand -hex 32 > pepper
origin = "gateway.example/gateway-0"

[limits]
store = "memory"               # several replicas: store = "redis", url = "rediss://...", replicas = 3

[inspection]
ner = true                     # names of people and places; needs requirements-ner.lock

[[issuers]]
name = "entra"
type = "entra"
directories = ["00000000-0000-0000-0000-000000000000"]   # your directory (tenant) id
audiences = ["api://your-gateway"]                        # your API's app id URI, and its client id for v2 tokens

[[tenants]]
id = "main"
issuer = "entra"

[[backends]]
name = "models"
url = "https://your-resource.openai.azure.com"
kind = "azure"
api_version = "2024-10-21"
credential = "env:AZURE_OPENAI_KEY"
credential_header = "api-key"

[[routes]]
model = "assistant"
backends = ["models"]
operations = ["chat.completions"]
data_class = "internal"
"""


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("init", help="write settings and a starter policy set", epilog="example: gateway init my-gateway")
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR", help="where; default: here")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.directory
    settings, policies = directory / "gateway.toml", directory / "policies"
    for path in (settings, policies):
        if path.exists():
            print(f"{path} exists already: nothing was written", file=sys.stderr)
            return 2
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copytree(starter_policies(), policies)
    settings.write_text(SETTINGS, encoding="utf-8")
    print(f"wrote {settings} and {policies}/; next: edit both, then `gateway check -c {settings}`")
    return 0
