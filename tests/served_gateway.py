"""`gateway serve` in a process of its own, with callers signed in by an authority of ours and one scripted backend behind it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from azure_authority import CALLING_APP, GATEWAY, TENANT, AzureAuthority
from backend_thread import BackendThread
from wire import CHAT, Reply, ask, chat, eventually

STARTER = Path(__file__).resolve().parents[1] / "policies"


class ServedGateway:
    """`more` is TOML appended to the settings, `backend_lines` go into the one backend's table."""

    def __init__(self, azure: AzureAuthority, backend: BackendThread, folder: Path) -> None:
        self.azure = azure
        self.backend = backend
        self.folder = folder
        with socket.socket() as a, socket.socket() as b, socket.socket() as c:
            for one in (a, b, c):
                one.bind(("127.0.0.1", 0))
            self.data, self.control, self.ops = (one.getsockname()[1] for one in (a, b, c))
        self.environment = os.environ | {"SSL_CERT_FILE": azure.ca_file, "GATEWAY_SECRET": azure.secrets[GATEWAY]}
        self.policies = folder / "policies"
        shutil.copytree(STARTER, self.policies)
        limits = self.policies / "limits.toml"
        limits.write_text(limits.read_text().replace("per_minute = 20\n", "per_minute = 300\n"))

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def identity(self) -> str:
        """Return the keys of an identity that the authority knows."""
        return (
            f'identity = "client_secret"\nclient_secret = "env:GATEWAY_SECRET"\nidentity_client_id = "{GATEWAY}"\n'
            f'identity_tenant = "{TENANT}"\nauthority = "{self.azure.url}"\nidentity_ca_file = "{self.azure.ca_file}"\n'
        )

    def write(self, *, key: str, pepper: str, more: str = "", backend_lines: str = "") -> Path:
        file = self.folder / "gateway.toml"
        file.write_text(f"""
[server]
data = "127.0.0.1:{self.data}"
control = "127.0.0.1:{self.control}"
ops = "127.0.0.1:{self.ops}"
[policies]
directory = "{self.policies}"
[audit]
directory = "{self.folder}/audit"
key = "{key}"
pepper = "{pepper}"
origin = "gateway.example/served"
[inspection]
ner = false
[telemetry]
scrapers = ["127.0.0.1/32"]
[[issuers]]
name = "entra"
type = "entra"
directories = ["{TENANT}"]
audiences = ["{GATEWAY}"]
authority = "{self.azure.url}"
applications = ["{CALLING_APP}"]
[[tenants]]
id = "acme"
issuer = "entra"
[[backends]]
name = "models"
url = "{self.backend.url}"
{backend_lines}
[[routes]]
model = "assistant"
backends = ["models"]
operations = ["chat.completions"]
[[routes]]
model = "echo"
backends = ["models"]
operations = ["chat.completions"]
{more}
""")
        return file

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "gateway", "serve", "-c", str(self.folder / "gateway.toml")]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=self.environment)
        assert eventually(self.up, 40.0), self.log[-2000:]

    def up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self.log[-2000:])
        try:
            return ask(self.ops, "/readyz").status == 200
        except OSError:
            return False

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)

    def ask(self, text: str = "Hello", model: str = "assistant", **more: Any) -> Reply:
        return ask(self.data, CHAT, chat(model, text, **more), self.azure.user_token(roles=["analyst"]))

    def metrics(self) -> str:
        return ask(self.ops, "/metrics").body.decode()
